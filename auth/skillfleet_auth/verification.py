"""Verification of tokens: the signature, the fleet, the expiry, and the run they are for."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jwt
from pydantic import ValidationError

from skillfleet.contracts import (
    TOKEN_ALGORITHM,
    TOKEN_BYTES,
    TokenClaims,
    TokenUse,
    call_digest,
    input_digest,
)
from skillfleet.errors import SettingsError, UnauthorizedError
from skillfleet.ports.admission import IncomingInput
from skillfleet_auth.keys import PublicKeys
from skillfleet_auth.settings import AuthSettings
from skillfleet_ledger import Settings

_LEEWAY_SECONDS = 10
_REQUIRED = ["iss", "aud", "sub", "iat", "exp"]


@dataclass(frozen=True)
class TokenVerifier:
    """Verifies the tokens of one fleet. Any thread.

    Tokens of use `call` and `fired` need a worker's key, all others a producer's. The caller of one
    of use `fired` is the one that its schedule's delegation names.
    """

    issuer: str
    audience: str
    producers: PublicKeys
    workers: PublicKeys | None

    def verify(self, token: str | None, of: str = "the run") -> TokenClaims:
        """Return the claims of a token that is valid, or was: see `valid_at` for its expiry.

        Raises UnauthorizedError, which says what the token is `of`, and shows nothing of it.
        """
        if token is None:
            raise UnauthorizedError(
                f"{of} has no token of at most {TOKEN_BYTES} bytes that identifies the caller"
            )
        try:
            claims = TokenClaims.model_validate(self._decode(token, of))
        except jwt.InvalidAudienceError:
            raise UnauthorizedError(f"{of}'s token is for another fleet") from None
        except jwt.InvalidIssuerError:
            raise UnauthorizedError(f"{of}'s token is of another issuer") from None
        except (jwt.PyJWTError, ValidationError, ValueError, TypeError):
            raise UnauthorizedError(f"{of}'s token is not valid") from None
        return self._delegated(claims) if claims.use is TokenUse.FIRED else claims

    def _delegated(self, fired: TokenClaims) -> TokenClaims:
        """Return the claims of a run that was due, with the caller in its schedule's delegation."""
        delegation = self.verify(fired.delegation, "the schedule")
        if delegation.use is not TokenUse.SCHEDULE or delegation.call != fired.call:
            raise UnauthorizedError(
                "the schedule's token was made for another skill or other arguments"
            )
        caller = {name: getattr(delegation, name) for name in ("sub", "scopes", "claims")}
        return fired.model_copy(update=caller)

    def _decode(self, token: str, of: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        if header.get("alg") != TOKEN_ALGORITHM:
            raise UnauthorizedError(f"{of}'s token is not signed with {TOKEN_ALGORITHM}")
        # Read before the signature is checked; it only selects the key, which must have signed it.
        use = jwt.decode(token, options={"verify_signature": False}).get("use")
        is_workers = use in (TokenUse.CALL, TokenUse.FIRED)
        keys = self.workers if is_workers else self.producers
        key = keys.get(str(header.get("kid"))) if keys is not None else None
        if key is None:
            raise UnauthorizedError(f"{of}'s token is signed with a key that is not trusted here")
        payload: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[TOKEN_ALGORITHM],
            audience=self.audience,
            issuer=self.issuer,
            leeway=_LEEWAY_SECONDS,
            options={"require": _REQUIRED, "verify_exp": False},
        )
        return payload


def valid_at(claims: TokenClaims, moment: datetime) -> bool:
    """Return whether a token had not yet expired at that moment."""
    return moment.timestamp() <= claims.exp


def check_call(claims: TokenClaims, run_id: str, task: str, arguments: Mapping[str, Any]) -> None:
    """Raise UnauthorizedError unless the token was made for this run and call."""
    if claims.run != run_id:
        raise UnauthorizedError("the run's token was made for another run")
    try:
        digest = call_digest(task, arguments)
    except (TypeError, ValueError):
        digest = ""
    if claims.call != digest:
        raise UnauthorizedError("the run's token was made for another skill or other arguments")


def check_input(claims: TokenClaims, given: IncomingInput) -> None:
    """Raise UnauthorizedError unless the token was made for this run and input."""
    if claims.use is not TokenUse.INPUT:
        raise UnauthorizedError("the input's token is not for this use")
    if claims.run != given.run_id:
        raise UnauthorizedError("the input's token was made for another run")
    try:
        digest = input_digest(given.wait_id, given.kind, given.value)
    except (TypeError, ValueError):
        digest = ""
    if claims.call != digest:
        raise UnauthorizedError("the input's token was made for another wait or value")


def verifier_from(keys: AuthSettings, settings: Settings) -> TokenVerifier:
    """Return the verifier of a worker's settings; raises SettingsError."""
    if keys.auth_keys is None:
        raise SettingsError(
            "SKILLFLEET_AUTH_KEYS is missing: SKILLFLEET_AUTH=required needs the public keys of"
            " your producers (a folder of .pem files or a JWKS file)"
        )
    workers = None
    if keys.auth_worker_keys is not None:
        workers = PublicKeys(keys.auth_worker_keys, "SKILLFLEET_AUTH_WORKER_KEYS")
    return TokenVerifier(
        settings.auth_issuer,
        settings.namespace,
        PublicKeys(keys.auth_keys, "SKILLFLEET_AUTH_KEYS"),
        workers,
    )
