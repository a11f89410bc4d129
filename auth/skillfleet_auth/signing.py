"""Signing: a token names the caller, for one run, skill and set of arguments, or for one input."""

import os
import time
from collections.abc import Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from skillfleet.contracts import (
    HEADER,
    MOST_SECONDS,
    TOKEN_ALGORITHM,
    TOKEN_BYTES,
    TOKEN_HEADER,
    TokenClaims,
    TokenUse,
    call_digest,
    input_digest,
)
from skillfleet.errors import InvalidArgumentsError, SettingsError, UnauthorizedError
from skillfleet.ports.admission import IncomingInput
from skillfleet_ledger import Settings
from skillfleet_ledger.runs.records import Submission

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

# ruff: noqa: PLC0415 - processes that sign nothing must not load cryptography

PRIVATE_SUFFIX = ".private.pem"
PUBLIC_SUFFIX = ".pem"
_DELEGATION_BYTES = 5600
"""Encoded again, in the token of a run, it stays below the limit of tokens."""


class TokenSigner:
    """Signs for one fleet with one key. Any thread."""

    def __init__(self, key_id: str, key: "Ed25519PrivateKey", settings: Settings) -> None:
        self.key_id = key_id
        self._key = key
        self._settings = settings

    def comparison_key(self) -> bytes:
        """Return a secret key that is derived from the signing key, to compare answers with."""
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        derived = HKDF(SHA256(), 32, salt=None, info=b"skillfleet comparison of secret answers")
        return derived.derive(self._key.private_bytes_raw())

    def sign(self, new: Submission, caller: Mapping[str, Any] | None, depth: int = 0) -> str:
        """Return the token of a new run.

        `caller` are the claims of the run's caller; its `sub` defaults to the issuer. A run
        with a parent gets a token of use `call`. Raises InvalidArgumentsError for claims of
        the wrong type or too many of them.
        """
        settings, called = self._settings, new.parent_id is not None
        # Never longer than the run's record: without it, the token could start the run again.
        seconds = min(settings.auth_token_seconds, settings.retention_seconds)
        return self._encoded(
            caller,
            seconds=new.delay_ms / 1000 + seconds,
            use=TokenUse.CALL if called else TokenUse.RUN,
            run=new.id,
            call=call_digest(new.task, orjson.loads(new.args)),
            parent=new.parent_id,
            root=new.root_id if called else None,
            depth=depth,
            fork=orjson.loads(new.headers).get(HEADER, {}).get("fork"),
        )

    def sign_input(self, given: IncomingInput, caller: Mapping[str, Any] | None) -> str:
        """Return the token of an input, given by `caller`; errors as `sign`."""
        return self._encoded(
            caller,
            seconds=self._settings.auth_token_seconds,
            use=TokenUse.INPUT,
            run=given.run_id,
            call=input_digest(given.wait_id, given.kind, given.value),
        )

    def sign_schedule(
        self, name: str, task: str, arguments: Mapping[str, Any], caller: Mapping[str, Any] | None
    ) -> str:
        """Return the delegation of a schedule: what its runs may do; errors as `sign`."""
        delegation = self._encoded(
            caller,
            seconds=MOST_SECONDS,
            use=TokenUse.SCHEDULE,
            run=name,
            call=call_digest(task, arguments),
        )
        if len(delegation) > _DELEGATION_BYTES:
            raise InvalidArgumentsError(
                f"auth: the caller's claims make a token of {len(delegation)} bytes, the limit for"
                f" a schedule is {_DELEGATION_BYTES}"
            )
        return delegation

    def sign_fired(self, new: Submission, delegation: str) -> str:
        """Return the token of a run that is due, which carries the schedule's delegation."""
        settings = self._settings
        return self._encoded(
            None,
            seconds=min(settings.auth_token_seconds, settings.retention_seconds),
            use=TokenUse.FIRED,
            run=new.id,
            call=call_digest(new.task, orjson.loads(new.args)),
            delegation=delegation,
        )

    def _encoded(self, caller: Mapping[str, Any] | None, *, seconds: float, **bound: Any) -> str:
        """Return a token that names the caller and is `bound` to what it is for."""
        import jwt

        claims = dict(caller or {})
        settings, now = self._settings, int(time.time())
        subject = claims.pop("sub", None) or settings.auth_issuer
        scopes = claims.pop("scopes", None) or ()
        if not isinstance(subject, str) or not _are_names(scopes):
            raise InvalidArgumentsError("auth: sub must be a string, scopes a list of strings")
        payload = TokenClaims(
            iss=settings.auth_issuer,
            aud=settings.namespace,
            sub=subject,
            iat=now,
            exp=now + int(seconds),
            scopes=tuple(scopes),
            claims=claims,
            **bound,
        )
        token = jwt.encode(
            payload.model_dump(mode="json", exclude_defaults=True),
            self._key,
            algorithm=TOKEN_ALGORITHM,
            headers={"kid": self.key_id},
        )
        if len(token) > TOKEN_BYTES:
            raise InvalidArgumentsError(
                f"auth: the caller's claims make a token of {len(token)} bytes, the limit is"
                f" {TOKEN_BYTES}"
            )
        return token


class Signing:
    """Signs what a process submits; reads the key of the settings at once.

    Raises SettingsError for a key that cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._required = settings.auth == "required"
        self._signer: TokenSigner | None = None
        if settings.auth_signing_key_file is not None:
            self._signer = TokenSigner(*load_private_key(settings.auth_signing_key_file), settings)

    @cached_property
    def comparison_key(self) -> bytes:
        """The key of digests that say whether two secret answers are equal.

        That of the signer; without one, this object's own. No one else can test guesses.
        """
        return os.urandom(32) if self._signer is None else self._signer.comparison_key()

    def signed(self, new: Submission, caller: Mapping[str, Any] | None, depth: int) -> Submission:
        """Return the run with its token among its headers; as it is where nothing is signed.

        Raises UnauthorizedError where a token is required but there is no key.
        """
        if (signer := self._checked_signer("runs")) is None:
            return new
        token = signer.sign(new, caller, depth)
        headers = orjson.loads(new.headers) | {TOKEN_HEADER: token}
        return new.changed(headers=orjson.dumps(headers))

    def delegation(
        self, name: str, task: str, arguments: Mapping[str, Any], caller: Mapping[str, Any] | None
    ) -> str:
        """Return the delegation of a schedule that `caller` makes; '' where nothing is signed.

        Raises UnauthorizedError where a token is required but there is no key.
        """
        signer = self._checked_signer("schedules")
        return signer.sign_schedule(name, task, arguments, caller) if signer is not None else ""

    def fired(self, new: Submission, delegation: str) -> Submission:
        """Return a run that is due with its token among its headers, if its schedule is signed.

        Raises UnauthorizedError where a token is required, but there is no delegation or no key.
        """
        signer = self._checked_signer("runs")
        if self._required and not delegation:
            raise UnauthorizedError(
                "this fleet accepts signed schedules only (SKILLFLEET_AUTH=required): make the"
                " schedule again, with a key"
            )
        if signer is None or not delegation:
            return new
        headers = orjson.loads(new.headers) | {TOKEN_HEADER: signer.sign_fired(new, delegation)}
        return new.changed(headers=orjson.dumps(headers))

    def input_token(self, given: IncomingInput, caller: Mapping[str, Any] | None) -> str:
        """Return the token of an input that `caller` gives; '' where nothing is signed.

        Raises UnauthorizedError where a token is required but there is no key.
        """
        signer = self._checked_signer("answers and messages")
        return signer.sign_input(given, caller) if signer is not None else ""

    def _checked_signer(self, what: str) -> TokenSigner | None:
        if self._signer is None and self._required:
            raise UnauthorizedError(
                f"this fleet accepts signed {what} only (SKILLFLEET_AUTH=required): set"
                " SKILLFLEET_AUTH_SIGNING_KEY_FILE here (skillfleet keys new makes a key)"
            )
        return self._signer


def load_private_key(path: Path) -> tuple[str, "Ed25519PrivateKey"]:
    """Return the id and the key in a PEM or JWK file; raises SettingsError.

    A JWK names its own id (`kid`); a PEM file's is its name up to the first dot.
    """
    _require_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from jwt import PyJWK

    variable = "SKILLFLEET_AUTH_SIGNING_KEY_FILE"
    key_id = path.name.partition(".")[0]
    try:
        data = path.read_bytes()
        if data.lstrip().startswith(b"{"):
            fields = orjson.loads(data)
            key, key_id = PyJWK(fields, TOKEN_ALGORITHM).key, str(fields.get("kid") or key_id)
        else:
            key = load_pem_private_key(data, password=None)
    except Exception as error:  # noqa: BLE001 - whatever the parsers raise
        # Neither the file's content nor a library's message about it may be shown.
        raise SettingsError(
            f"{variable}: {path} does not contain a private key ({type(error).__name__})"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError(f"{variable}: {path} does not contain a private Ed25519 key")
    return key_id, key


def write_new_key(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a new Ed25519 key pair: `NAME.private.pem`, for its owner only, and `NAME.pem`.

    `name` becomes the key's id. Returns both paths. Raises FileExistsError rather than
    replace a key, and SettingsError for a name that cannot be an id.
    """
    _require_cryptography()
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(
        form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
    )
    private_path, public_path = _write_private(folder, name, key), folder / (name + PUBLIC_SUFFIX)
    _write_new(public_path, public, mode=0o644)
    return private_path, public_path


def write_new_answer_key(folder: Path, name: str) -> Path:
    """Write a new private key that decrypts secret answers, for its owner only.

    Returns its path, `NAME.private.pem`; errors as `write_new_key`.
    """
    _require_cryptography()
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return _write_private(folder, name, X25519PrivateKey.generate())


def _write_private(folder: Path, name: str, key: "Ed25519PrivateKey | X25519PrivateKey") -> Path:
    from cryptography.hazmat.primitives import serialization as form

    if not name or not all(letter.isalnum() or letter in "-_" for letter in name):
        raise SettingsError(f"a key's name has letters, digits, '-' and '_' only, not {name!r}")
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name + PRIVATE_SUFFIX)
    _write_new(path, private, mode=0o600)
    return path


def _require_cryptography() -> None:
    if find_spec("jwt") is None or find_spec("cryptography") is None:
        raise SettingsError("signing runs needs PyJWT: pip install 'skillfleet[auth]'")


def _write_new(path: Path, data: bytes, *, mode: int) -> None:
    path.touch(mode=mode, exist_ok=False)
    path.write_bytes(data)


def _are_names(values: Any) -> bool:
    return isinstance(values, list | tuple | set | frozenset) and all(
        isinstance(value, str) for value in values
    )
