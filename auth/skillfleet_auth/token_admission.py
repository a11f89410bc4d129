"""Admission by signed tokens.

A child run's chain of callers is verified up to a producer, or to a run of a schedule, which has a
producer's delegation. An input has a producer's own token.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from skillfleet.contracts import (
    ADMIN_SCOPE,
    TOKEN_HEADER,
    Fork,
    TokenClaims,
    TokenUse,
    readable_token,
)
from skillfleet.errors import MissingScopes, UnauthorizedError, UnknownRunError
from skillfleet.ports.admission import (
    Admission,
    ForeignMessageError,
    IncomingCall,
    IncomingInput,
)
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet_auth.settings import AuthSettings
from skillfleet_auth.verification import (
    TokenVerifier,
    check_call,
    check_input,
    valid_at,
    verifier_from,
)
from skillfleet_ledger import Ledger, Settings
from skillfleet_ledger.runs.records import Invocation

_UNFINISHED: Final = ("retry", "released", "lost")
"""The outcomes of attempts after which a run continues."""

_ROOTS: Final = (TokenUse.RUN, TokenUse.FIRED)
"""The uses of tokens of runs that no other run calls."""


class TokenAdmission(Admission):
    """Admits runs whose token is valid, was not expired when they began, and is theirs alone.

    `ledger` returns the ledger, which is asked for at the first run.
    """

    def __init__(
        self, verifier: TokenVerifier, ledger: Callable[[], Ledger], max_depth: int
    ) -> None:
        self._verifier = verifier
        self._ledger = ledger
        self._max_depth = max_depth

    async def admit(self, call: IncomingCall) -> Mapping[str, Any]:
        """See `Admission.admit`."""
        try:
            claims = self._verifier.verify(call.token)
            check_call(claims, call.run_id, call.task, call.arguments)
            _check_position(claims, call)
            if call.fork is not None:
                await self._check_forks(claims, call.fork)
            if not valid_at(claims, datetime.now(UTC)):
                await self._check_continues(claims)
            if claims.use is TokenUse.CALL:
                await self._check_caller_runs(claims)
                await self._check_callers(claims)
        except UnauthorizedError:
            await self._check_own(call)
            raise
        return claims.identity

    async def admit_input(self, given: IncomingInput) -> str:
        """See `Admission.admit_input`.

        A token is good for one input of one run, and an accepted input must outlast the time
        until a worker resumes the run: its expiry is not checked.
        """
        claims = self._verifier.verify(given.token, "the input")
        check_input(claims, given)
        if missing := set(given.scopes) - set(claims.scopes):
            raise MissingScopes(sorted(missing))
        return claims.sub

    async def verify_expired(self, record: Invocation) -> TokenClaims:
        """Return the caller's claims for a run that may have ended; its token may have expired.

        Raises UnauthorizedError when the token or one of its callers' is not valid.
        """
        claims = self._verifier.verify(_token_of(record))
        check_call(claims, record.id, record.task, orjson.loads(record.args))
        if claims.use is TokenUse.CALL:
            await self._check_callers(claims)
        return claims

    async def _check_continues(self, claims: TokenClaims) -> None:
        """Raise UnauthorizedError unless this is a further attempt of a run that began in time.

        A token's expiry is for runs that have not begun: one that began before it continues
        after a retry, a drain or the loss of its worker. Producers may write records, too, so
        only what workers alone write counts (deploy/redis/users.acl).
        """
        former = await self._ledger().queries.former_attempts(claims.run)
        if (
            not former
            or former[0].outcome not in _UNFINISHED
            or not valid_at(claims, former[0].started_at)
        ):
            raise UnauthorizedError("the run's token has expired")

    async def _check_forks(self, claims: TokenClaims, fork: Fork) -> None:
        """Raise UnauthorizedError unless the forked run is the caller's own, or gone.

        A run that forks one that is gone begins with nothing of it.
        """
        record = await self._ledger().queries.invocation(fork.run)
        if record is None or ADMIN_SCOPE in claims.scopes:
            return
        if (await self.verify_expired(record)).sub != claims.sub:
            raise UnauthorizedError(
                f"the run forks another caller's run, which requires the scope {ADMIN_SCOPE}"
            )

    async def _check_own(self, call: IncomingCall) -> None:
        """Raise ForeignMessageError when the run's record differs from the message.

        Anyone who reaches the broker can send a message with the id of an existing run: it
        must not end that run.
        """
        record = await self._ledger().queries.invocation(call.run_id)
        if record is not None and (
            _token_of(record) != call.token
            or orjson.loads(record.args) != call.arguments
            or record.task != call.task
        ):
            raise ForeignMessageError

    async def _check_caller_runs(self, claims: TokenClaims) -> None:
        state, _ = await self._state(claims)
        if state.terminal:
            raise UnauthorizedError("the run's token names a calling run that has ended")

    async def _check_callers(self, claims: TokenClaims) -> None:
        """Raise UnauthorizedError unless all callers are signed and none has a scope more."""
        called = claims
        for _ in range(self._max_depth):
            caller = await self._caller_of(called)
            _check_narrower(called, caller)
            if caller.use in _ROOTS:
                return
            called = caller
        raise UnauthorizedError("the run's callers are nested too deep")

    async def _state(self, claims: TokenClaims) -> Any:
        try:
            return await self._ledger().queries.state(claims.parent or "")
        except UnknownRunError:
            raise UnauthorizedError("the run's token names an unknown calling run") from None

    async def _caller_of(self, called: TokenClaims) -> TokenClaims:
        record = await self._ledger().queries.invocation(called.parent or "")
        if record is None:
            raise UnauthorizedError("the run's token names an unknown calling run")
        # It was valid when that run started; a long run may call after its expiry.
        caller = self._verifier.verify(_token_of(record))
        check_call(caller, record.id, record.task, orjson.loads(record.args))
        return caller


def _token_of(record: Invocation) -> str | None:
    return readable_token(orjson.loads(record.headers).get(TOKEN_HEADER))


def _check_position(claims: TokenClaims, call: IncomingCall) -> None:
    """Refuse a message that puts the run at another position in its tree than the token names."""
    if claims.fork != call.fork:
        raise UnauthorizedError("the run's token was made for another fork")
    if call.plain and claims.use is TokenUse.RUN:
        return
    position = (claims.parent, claims.root or call.run_id, claims.depth)
    if position != (call.parent_id, call.root_id, call.depth):
        raise UnauthorizedError("the run's token was made for another position in a tree of runs")
    if claims.use not in (_ROOTS if claims.parent is None else (TokenUse.CALL,)):
        raise UnauthorizedError("the run's token is not for this use")


def _check_narrower(called: TokenClaims, caller: TokenClaims) -> None:
    root = caller.root or caller.run
    if called.parent != caller.run or called.root != root or called.depth != caller.depth + 1:
        raise UnauthorizedError("the run's token names another run than the one that called it")
    if not set(called.scopes) <= set(caller.scopes):
        raise UnauthorizedError("the run's token has scopes that the calling run does not have")
    same = all(caller.claims.get(name) == value for name, value in called.claims.items())
    if called.sub != caller.sub or not same:
        raise UnauthorizedError("the run's token names another caller than the calling run's")


def create(environment: AdapterEnvironment) -> Admission:
    """Return the admission by tokens; raises SettingsError for keys that cannot be used."""
    settings = environment.service(Settings)
    verifier = verifier_from(AuthSettings.load(environment.variables), settings)
    return TokenAdmission(verifier, lambda: environment.service(Ledger), settings.max_tree_depth)
