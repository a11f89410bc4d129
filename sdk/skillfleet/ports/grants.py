"""The port for grants: who signs them, and where it is noted which ones still hold."""

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from skillfleet.contracts.grants import (
    GRANT_SPARE_SECONDS,
    MOST_GRANT_SECONDS,
    Grant,
    GrantLevel,
)
from skillfleet.contracts.workspace import WorkspaceMode
from skillfleet.errors import GrantInvalid
from skillfleet.hidden_state import HiddenState

_DEFAULT_SECONDS: Final = 300

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GrantParty:
    """A run that delegates or installs grants, as its runtime knows it.

    `session` is the session's name in the ledger, `subject` and `tenant` are those of the
    verified caller.
    """

    run_id: str
    agent: str
    root_id: str
    session: str | None = None
    subject: str = ""
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class Delegation:
    """The part of its access that a run hands over; see `GrantLevel` for the patterns.

    `audience` is the name of the agent, or the id of the run, that gets it.
    """

    audience: str
    allow_patterns: tuple[str, ...] = ("**",)
    deny_patterns: tuple[str, ...] = ()
    mode: WorkspaceMode = WorkspaceMode.READ_ONLY
    outputs_prefix: str | None = None
    ttl_seconds: int = _DEFAULT_SECONDS


class GrantSigner(ABC):
    """Signs and verifies the tokens of one fleet. Any thread."""

    issuer: str
    fleet: str

    @abstractmethod
    def sign(self, grant: Grant) -> str:
        """Return the grant's token; raises `GrantInvalid` without a key, or for one too long."""

    @abstractmethod
    def verify(self, token: str) -> Grant:
        """Return the grant of a token that this fleet has signed; its expiry is not checked.

        Raises `GrantInvalid`, which names the reason and shows nothing of the token.
        """


class GrantRegister(ABC):
    """Notes of one fleet about its grants, by their scope (`Grant.scope`), while these last.

    Each operation is safe to repeat.
    """

    @abstractmethod
    async def epoch(self, scope: str) -> int:
        """Return the number of the last revocation of all grants of the scope; 0 without one."""

    @abstractmethod
    async def bind(self, scope: str, grant_id: str, run_id: str, seconds: float) -> str:
        """Return the id of the run that has installed the grant: this one, or an earlier one."""

    @abstractmethod
    async def state(self, scope: str, grant_ids: Sequence[str]) -> tuple[int, bool]:
        """Return the scope's epoch, and whether one of the grants is revoked."""

    @abstractmethod
    async def revoke(self, scope: str, grant_id: str, seconds: float) -> None:
        """Revoke a grant and all that narrow it."""

    @abstractmethod
    async def revoke_all(self, scope: str) -> None:
        """Revoke all grants of the scope that have been made so far."""


class GrantAuthority:
    """Makes and verifies the grants of a fleet, under the same rules in every runtime.

    Concurrency: any number of calls at once, on the loop that the register belongs to.
    """

    def __init__(
        self,
        signer: GrantSigner,
        register: GrantRegister,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._signer = signer
        self._register = register
        self._now = now

    def own(
        self,
        party: GrantParty,
        workspace: str,
        mode: WorkspaceMode,
        *,
        allow: Sequence[str] = ("**",),
        deny: Sequence[str] = (),
    ) -> Grant:
        """Return the run's own access to its workspace as a grant, which is never signed."""
        now = int(self._now())
        return _valid(
            {
                "jti": _new_id(),
                "iss": self._signer.issuer,
                "fleet": self._signer.fleet,
                "aud": party.run_id,
                "sub": party.subject,
                "tenant": party.tenant,
                "workspace": workspace,
                "session": party.session,
                "root": party.root_id,
                "scope": party.session or party.root_id,
                "mode": mode,
                "levels": ({"allow": tuple(allow)},),
                "deny": tuple(deny),
                "iat": now,
                "exp": now + MOST_GRANT_SECONDS,
            }
        )

    async def delegate(self, held: Grant, asked: Delegation, party: GrantParty) -> str:
        """Return the token of a grant that allows at most what `held`, the party's own, allows.

        It expires no later than `held`. Raises `GrantInvalid`.
        """
        if not 1 <= asked.ttl_seconds <= MOST_GRANT_SECONDS:
            raise GrantInvalid(
                f"ttl_seconds must be 1 to {MOST_GRANT_SECONDS}, not {asked.ttl_seconds}",
                reason="expiry",
            )
        await self.check(held)
        if held.depth == 0:
            held = held.model_copy(update={"epoch": await self._register.epoch(held.scope)})
        try:
            grant = held.narrowed(
                jti=_new_id(),
                audience=asked.audience,
                root=party.root_id,
                level=GrantLevel(allow=asked.allow_patterns, outputs=asked.outputs_prefix),
                deny=asked.deny_patterns,
                mode=WorkspaceMode(asked.mode),
                now=int(self._now()),
                seconds=asked.ttl_seconds,
            )
        except ValidationError as error:
            raise _malformed(error) from None
        except ValueError as error:
            raise GrantInvalid(f"the grant is refused: {error}", reason="wider") from None
        return self._signer.sign(grant)

    async def hand_over(self, token: str, party: GrantParty, agent: str) -> Grant:
        """Return the grant of a token that this run may pass to a run of `agent` that it calls.

        Raises `GrantInvalid`.
        """
        grant = self._signer.verify(token)
        if grant.aud != agent:
            raise GrantInvalid("the grant is for another audience", reason="audience")
        # A called run belongs to the tree of its caller, and to no session.
        _check_place(grant, replace(party, session=None))
        await self.check(grant)
        return grant

    async def install(self, token: str, party: GrantParty) -> Grant:
        """Return the grant of a token that this run may use; from now on, no other run may.

        The run may install it again. Raises `GrantInvalid`.
        """
        grant = self._signer.verify(token)
        if grant.aud not in (party.agent, party.run_id):
            raise GrantInvalid("the grant is for another audience", reason="audience")
        _check_place(grant, party)
        await self.check(grant)
        owner = await self._register.bind(
            grant.scope, grant.jti, party.run_id, _rest(grant, self._now())
        )
        if owner != party.run_id:
            raise GrantInvalid("the grant was installed by another run", reason="replayed")
        return grant

    async def check(self, grant: Grant) -> None:
        """Raise `GrantInvalid` once the grant has expired, or it or one that it narrows is revoked.

        To be called before each use of the access.
        """
        if self._now() >= grant.exp:
            raise GrantInvalid("the grant has expired", reason="expired")
        if grant.depth == 0:
            return
        epoch, revoked = await self._register.state(grant.scope, (*grant.lineage, grant.jti))
        if revoked or grant.epoch < epoch:
            raise GrantInvalid("the grant has been revoked", reason="revoked")

    async def revoke(self, grant: Grant) -> None:
        """Revoke a grant, and with it all that narrow it."""
        await self._register.revoke(grant.scope, grant.jti, _rest(grant, self._now()))

    async def revoke_all(self, scope: str) -> None:
        """Revoke all grants of a session, by its name in the ledger, or of a tree, by its root."""
        await self._register.revoke_all(scope)


@dataclass(frozen=True, slots=True)
class _RunState:
    """The authority of a run's grants, and what awaits a coroutine on the loop of its register."""

    authority: GrantAuthority
    at_home: Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]]


_states: Final[HiddenState[_RunState]] = HiddenState()


class RunGrants:
    """The grants of one run: `GrantAuthority` for a workspace client, on the skill's loop.

    The authority, with the signing key, is not reachable through it.
    """

    def __init__(
        self,
        authority: GrantAuthority,
        party: GrantParty,
        at_home: Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]],
        handed_over: str | None = None,
    ) -> None:
        """`at_home` awaits a coroutine on the loop of the authority's register."""
        _states.attach(self, _RunState(authority, at_home))
        self.party = party
        """The run."""
        self.handed_over = handed_over
        """The token that the run's caller passed as `ctx.call(grant=)`, not installed yet."""

    def own(
        self,
        workspace: str,
        mode: WorkspaceMode,
        *,
        allow: Sequence[str] = ("**",),
        deny: Sequence[str] = (),
    ) -> Grant:
        """See `GrantAuthority.own`."""
        authority = _states.of(self).authority
        return authority.own(self.party, workspace, mode, allow=allow, deny=deny)

    async def delegate(self, held: Grant, asked: Delegation) -> str:
        """For the run itself, see `GrantAuthority.delegate`."""
        state = _states.of(self)
        token: str = await state.at_home(state.authority.delegate(held, asked, self.party))
        return token

    async def hand_over(self, token: str, agent: str) -> Grant:
        """See `GrantAuthority.hand_over`."""
        state = _states.of(self)
        grant: Grant = await state.at_home(state.authority.hand_over(token, self.party, agent))
        return grant

    async def install(self, token: str) -> Grant:
        """See `GrantAuthority.install`."""
        state = _states.of(self)
        grant: Grant = await state.at_home(state.authority.install(token, self.party))
        return grant

    async def check(self, grant: Grant) -> None:
        """See `GrantAuthority.check`."""
        state = _states.of(self)
        await state.at_home(state.authority.check(grant))

    async def revoke(self, grant: Grant) -> None:
        """See `GrantAuthority.revoke`."""
        state = _states.of(self)
        await state.at_home(state.authority.revoke(grant))

    async def revoke_all(self) -> None:
        """Revoke all grants of the run's session, or of its tree without one."""
        state, scope = _states.of(self), self.party.session or self.party.root_id
        await state.at_home(state.authority.revoke_all(scope))


def _check_place(grant: Grant, party: GrantParty) -> None:
    if grant.root != party.root_id and (grant.session is None or grant.session != party.session):
        raise GrantInvalid("the grant is for another session or tree of runs", reason="session")
    if grant.tenant != party.tenant:
        raise GrantInvalid("the grant is for another tenant", reason="tenant")
    if grant.sub != party.subject:
        raise GrantInvalid("the grant is for another caller", reason="subject")


def _rest(grant: Grant, now: float) -> float:
    return max(grant.exp - now, 0) + GRANT_SPARE_SECONDS


def _new_id() -> str:
    return secrets.token_hex(16)


def _valid(claims: dict[str, object]) -> Grant:
    try:
        return Grant.model_validate(claims)
    except ValidationError as error:
        raise _malformed(error) from None


def _malformed(error: ValidationError) -> GrantInvalid:
    problems = error.errors(include_input=False, include_url=False)
    texts = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in problems)
    return GrantInvalid(f"the grant is refused: {texts}", reason="malformed")
