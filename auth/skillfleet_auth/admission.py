"""Admission by signed tokens; a called run's chain of callers is followed up to a producer."""

from datetime import UTC, datetime
from typing import Any

import orjson

from skillfleet.contracts import TOKEN_HEADER, TokenClaims, TokenUse
from skillfleet.errors import UnauthorizedError, UnknownRunError
from skillfleet_auth.verification import TokenVerifier, check_call, lived_at
from skillfleet_ledger.runs.queries import Queries
from skillfleet_ledger.runs.records import Invocation
from skillfleet_worker.attempts.admission import Admission, ForeignMessageError
from skillfleet_worker.attempts.delivery import Delivery, readable_token

_GOES_ON = ("retry", "released", "lost")
"""How an attempt ends that was admitted, and whose run is not over."""


class TokenAdmission(Admission):
    """Admits runs whose token is valid, was good when they began, and is theirs alone."""

    def __init__(self, verifier: TokenVerifier, queries: Queries, max_depth: int) -> None:
        self._verifier = verifier
        self._queries = queries
        self._max_depth = max_depth

    async def admit(self, delivery: Delivery) -> Delivery:
        """See `Admission.admit`."""
        try:
            claims = self._verifier.verify(delivery.token)
            check_call(claims, delivery.run_id, delivery.task, delivery.arguments)
            _check_place(claims, delivery)
            if not lived_at(claims, datetime.now(UTC)):
                await self._check_goes_on(claims)
            if claims.use is TokenUse.CALL:
                await self._check_caller_lives(claims)
                await self._check_callers(claims)
        except UnauthorizedError:
            await self._check_own(delivery)
            raise
        return delivery.admitted(claims.identity)

    async def vouched(self, record: Invocation) -> TokenClaims:
        """The claims of the caller of a run that may be over, its token long expired.

        Raises UnauthorizedError where nobody vouches for them (any more).
        """
        claims = self._verifier.verify(_token_of(record))
        check_call(claims, record.id, record.task, orjson.loads(record.args))
        if claims.use is TokenUse.CALL:
            await self._check_callers(claims)
        return claims

    async def _check_goes_on(self, claims: TokenClaims) -> None:
        """Raise UnauthorizedError unless this is a further attempt of a run that began in time.

        A token expires for runs that wait: one that began while it was good goes on after a
        retry, a drain or the loss of its worker. Whoever may enqueue runs may write records, too,
        so only what workers alone write counts (deploy/redis/users.acl).
        """
        former = await self._queries.former_attempts(claims.run)
        if (
            not former
            or former[0].outcome not in _GOES_ON
            or not lived_at(claims, former[0].started_at)
        ):
            raise UnauthorizedError("the run's token has expired")

    async def _check_own(self, delivery: Delivery) -> None:
        """Raise ForeignMessageError when the record tells that the run's message is another.

        Anybody who reaches the broker can make a message with a stranger's run id: that must
        not end the stranger's run.
        """
        record = await self._queries.invocation(delivery.run_id)
        if record is not None and (
            _token_of(record) != delivery.token
            or orjson.loads(record.args) != delivery.arguments
            or record.task != delivery.task
        ):
            raise ForeignMessageError

    async def _check_caller_lives(self, claims: TokenClaims) -> None:
        state, _ = await self._state(claims)
        if state.terminal:
            raise UnauthorizedError("the run's token names a calling run that has ended")

    async def _check_callers(self, claims: TokenClaims) -> None:
        """Raise UnauthorizedError unless the whole chain of callers was signed, ever narrower."""
        called = claims
        for _ in range(self._max_depth):
            caller = await self._caller_of(called)
            _check_narrower(called, caller)
            if caller.use is TokenUse.RUN:
                return
            called = caller
        raise UnauthorizedError("the run's callers are nested too deep")

    async def _state(self, claims: TokenClaims) -> Any:
        try:
            return await self._queries.state(claims.parent or "")
        except UnknownRunError:
            raise UnauthorizedError("the run's token names an unknown calling run") from None

    async def _caller_of(self, called: TokenClaims) -> TokenClaims:
        record = await self._queries.invocation(called.parent or "")
        if record is None:
            raise UnauthorizedError("the run's token names an unknown calling run")
        # It was good when that run started; a long run may call after its expiry.
        caller = self._verifier.verify(_token_of(record))
        check_call(caller, record.id, record.task, orjson.loads(record.args))
        return caller


def _token_of(record: Invocation) -> str | None:
    return readable_token(orjson.loads(record.headers).get(TOKEN_HEADER))


def _check_place(claims: TokenClaims, delivery: Delivery) -> None:
    """The message must put the run where the token puts it in its tree."""
    if delivery.header is None and claims.use is TokenUse.RUN:
        return
    place = (claims.parent, claims.root or delivery.run_id, claims.depth)
    if place != (delivery.parent_id, delivery.root_id, delivery.depth):
        raise UnauthorizedError("the run's token was made for another place in a tree of runs")
    if (claims.parent is None) != (claims.use is TokenUse.RUN):
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
