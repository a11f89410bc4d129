"""Encryption of secret answers: anyone who answers may encrypt, only workers can decrypt.

HPKE in base mode (RFC 9180: X25519, HKDF-SHA256, ChaCha20-Poly1305). An encrypted answer is a JSON
object with the id of its key, and the run and the wait that it was encrypted for: those are bound
to the ciphertext, so that it cannot be given to another question.
"""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from skillfleet.contracts import AnswerKey
from skillfleet.errors import InvalidArgumentsError, InvalidResultError, SettingsError
from skillfleet_auth.signing import PRIVATE_SUFFIX

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.hpke import Suite

# ruff: noqa: PLC0415 - processes that give no secret answers must not load cryptography

VARIABLE: Final = "SKILLFLEET_ANSWER_KEYS"
_BLOCK: Final = 256
_LABEL: Final = b"skillfleet secret answer"


def seal(value: bytes, key: AnswerKey, run_id: str, wait_id: str) -> dict[str, str]:
    """Return a JSON value encrypted for a wait of a run; raises `InvalidArgumentsError`."""
    suite = _suite()
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    # Blanks after JSON mean nothing: they hide its length.
    padded = value.ljust(-(-len(value) // _BLOCK) * _BLOCK)
    try:
        public = X25519PublicKey.from_public_bytes(base64.b64decode(key.public))
    except ValueError:
        raise InvalidArgumentsError("the question's key for a secret answer is invalid") from None
    sealed = suite.encrypt(padded, public, info=_bound_to(run_id, wait_id))
    return {
        "key": key.id,
        "run": run_id,
        "wait": wait_id,
        "sealed": base64.b64encode(sealed).decode(),
    }


class AnswerKeys:
    """The private keys in a folder (`*.private.pem`), or in one file. Any thread.

    New questions are asked with the key whose file name is the last; the others still decrypt.
    Files are read at each use, so an added key needs no restart. A key's id is a digest of its
    public half. Raises SettingsError without a usable key, when it is created and at each use.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        _suite()
        _ = self.newest

    @property
    def newest(self) -> AnswerKey:
        """The key to ask new questions with."""
        keys = list(self._read())
        if not keys:
            raise SettingsError(f"{VARIABLE}: there is no file *{PRIVATE_SUFFIX} in {self._path}")
        public, _ = keys[-1]
        return public

    def has(self, key: AnswerKey) -> bool:
        """Return whether what was encrypted with a key can be decrypted here."""
        return any(public == key for public, _ in self._read())

    def open(self, sealed: bytes, run_id: str | None = None, wait_id: str | None = None) -> bytes:
        """Return the JSON in an encrypted answer; `InvalidResultError` for one that is not.

        With `run_id` and `wait_id` it must have been encrypted for that wait.
        """
        try:
            parts = orjson.loads(sealed)
            key_id, run, wait = parts["key"], parts["run"], parts["wait"]
            data, bound = base64.b64decode(parts["sealed"]), _bound_to(run, wait)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise InvalidResultError("the answer is secret, and was not encrypted") from None
        if (run_id or run, wait_id or wait) != (run, wait):
            raise InvalidResultError("the secret answer was encrypted for another question")
        private = next((found for public, found in self._read() if public.id == key_id), None)
        if private is None:
            raise InvalidResultError(
                f"the secret answer needs the key {key_id!r:.40}, which {VARIABLE} does not have"
            )
        from cryptography.exceptions import InvalidTag

        try:
            return _suite().decrypt(data, private, info=bound).rstrip(b" ")
        except (InvalidTag, ValueError):
            raise InvalidResultError("the secret answer cannot be decrypted") from None

    def _read(self) -> "Iterator[tuple[AnswerKey, X25519PrivateKey]]":
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        for path in self._files():
            try:
                key: Any = load_pem_private_key(path.read_bytes(), password=None)
            except Exception as error:  # noqa: BLE001 - whatever the parser raises
                # Neither the file's content nor a library's message about it may be shown.
                raise SettingsError(
                    f"{VARIABLE}: {path} does not contain a private key ({type(error).__name__})"
                ) from None
            if not isinstance(key, X25519PrivateKey):
                raise SettingsError(f"{VARIABLE}: {path} does not contain a private X25519 key")
            public = key.public_key().public_bytes_raw()
            key_id = hashlib.sha256(public).hexdigest()[:16]
            yield AnswerKey(id=key_id, public=base64.b64encode(public).decode()), key

    def _files(self) -> list[Path]:
        if not self._path.is_dir():
            return [self._path]
        try:
            return sorted(p for p in self._path.iterdir() if p.name.endswith(PRIVATE_SUFFIX))
        except OSError as error:
            raise SettingsError(f"{VARIABLE}: {self._path}: {error.strerror}") from None


def _bound_to(run_id: str, wait_id: str) -> bytes:
    return b"\0".join((_LABEL, run_id.encode(), wait_id.encode()))


def _suite() -> "Suite":
    """Return the cipher suite; raises SettingsError without the library."""
    try:
        from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
    except ImportError:
        raise SettingsError(
            "secret answers need cryptography 47 or newer: pip install 'skillfleet[auth]'"
        ) from None
    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
