"""Tokens of grants: signed by workers, verified with the public keys of workers."""

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from skillfleet.contracts import TOKEN_ALGORITHM
from skillfleet.contracts.grants import GRANT_BYTES, GRANT_TYPE, Grant
from skillfleet.errors import GrantInvalid
from skillfleet.ports.grants import GrantSigner
from skillfleet_auth.settings import AuthSettings
from skillfleet_auth.signing import load_private_key
from skillfleet_ledger import Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from skillfleet_auth.keys import PublicKeys

_LEEWAY_SECONDS = 10
_REQUIRED = ["iss", "aud", "sub", "iat", "exp", "jti"]


class TokenGrants(GrantSigner):
    """Signs grants with the worker's own key and trusts those of the workers' public keys.

    Without a key there is no default: signing, or verification, raises `GrantInvalid`.
    """

    def __init__(
        self,
        settings: Settings,
        key: "tuple[str, Ed25519PrivateKey] | None",
        workers: "PublicKeys | None",
    ) -> None:
        self.issuer = settings.auth_issuer
        self.fleet = settings.namespace
        self._key = key
        self._workers = workers

    def sign(self, grant: Grant) -> str:
        """See `GrantSigner.sign`."""
        if self._key is None:
            raise GrantInvalid(
                "grants need a signing key: set SKILLFLEET_AUTH_SIGNING_KEY_FILE on workers"
                " (skillfleet keys new makes a key)",
                reason="no_key",
            )
        import jwt  # noqa: PLC0415 - processes that sign nothing must not load it

        key_id, key = self._key
        token = jwt.encode(
            grant.model_dump(mode="json", exclude_defaults=True),
            key,
            algorithm=TOKEN_ALGORITHM,
            headers={"kid": key_id, "typ": GRANT_TYPE},
        )
        if len(token) > GRANT_BYTES:
            raise GrantInvalid(
                f"the grant's token has {len(token)} bytes, the limit is {GRANT_BYTES}: use fewer"
                " or shorter patterns",
                reason="too_large",
            )
        return token

    def verify(self, token: str) -> Grant:
        """See `GrantSigner.verify`."""
        if not isinstance(token, str) or len(token) > GRANT_BYTES:
            raise GrantInvalid(
                f"the grant is not a token of at most {GRANT_BYTES} bytes", reason="too_large"
            )
        if self._workers is None:
            raise GrantInvalid(
                "grants need the public keys of workers: set SKILLFLEET_AUTH_WORKER_KEYS",
                reason="no_key",
            )
        try:
            grant = Grant.model_validate(self._decoded(token, self._workers))
        except ValidationError:
            raise GrantInvalid("the grant's claims are not valid", reason="malformed") from None
        if grant.fleet != self.fleet:
            raise GrantInvalid("the grant is for another fleet", reason="fleet")
        if grant.depth == 0:
            raise GrantInvalid("the grant was not delegated", reason="malformed")
        return grant

    def _decoded(self, token: str, keys: "PublicKeys") -> dict[str, Any]:
        import jwt  # noqa: PLC0415

        try:
            header = jwt.get_unverified_header(token)
            if header.get("typ") != GRANT_TYPE:
                raise GrantInvalid("the token is not that of a grant", reason="type")
            if header.get("alg") != TOKEN_ALGORITHM:
                raise GrantInvalid(
                    f"the grant is not signed with {TOKEN_ALGORITHM}", reason="algorithm"
                )
            key = keys.get(str(header.get("kid")))
            if key is None:
                raise GrantInvalid(
                    "the grant is signed with a key that is not trusted here", reason="key"
                )
            payload: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[TOKEN_ALGORITHM],
                issuer=self.issuer,
                leeway=_LEEWAY_SECONDS,
                # The authority checks both, with its own clock and the run that installs it.
                options={"require": _REQUIRED, "verify_exp": False, "verify_aud": False},
            )
        except jwt.InvalidSignatureError:
            raise GrantInvalid("the grant's signature is wrong", reason="signature") from None
        except jwt.InvalidIssuerError:
            raise GrantInvalid("the grant is of another issuer", reason="issuer") from None
        except (jwt.PyJWTError, ValueError, TypeError):
            raise GrantInvalid("the grant is not a valid token", reason="malformed") from None
        return payload


def grant_signer(keys: AuthSettings, settings: Settings) -> TokenGrants:
    """Return the signer of a worker's settings; raises SettingsError for a key it cannot use."""
    key = None
    if settings.auth_signing_key_file is not None:
        key = load_private_key(settings.auth_signing_key_file)
    workers = None
    if keys.auth_worker_keys is not None:
        from skillfleet_auth.keys import PublicKeys  # noqa: PLC0415 - as above, for cryptography

        workers = PublicKeys(keys.auth_worker_keys, "SKILLFLEET_AUTH_WORKER_KEYS")
    return TokenGrants(settings, key, workers)
