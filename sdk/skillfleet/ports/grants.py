"""The port for grants: who signs them, and where it is noted which ones still hold."""

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from skillfleet.contracts.grants import (
    MOST_GRANT_SECONDS,
    Grant,
    GrantLevel,
    WorkspaceMode,
)
from skillfleet.errors import GrantInvalid

_DEFAULT_SECONDS: Final = 300


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
    """What a run hands over of the access that it holds; see `GrantLevel` for the patterns.

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
    async def revoke_all(self, scope: str, seconds: float) -> None:
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
                "mode": mode,
                "levels": ({"allow": tuple(allow)},),
                "deny": tuple(deny),
                "iat": now,
                "exp": now + MOST_GRANT_SECONDS,
            }
        )

    async def delegate(self, held: Grant, asked: Delegation) -> str:
        """Return the token of a grant that allows at most what `held` allows.

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

    async def read(self, token: str) -> Grant:
        """Return the grant of a token that still holds; raises `GrantInvalid`."""
        grant = self._signer.verify(token)
        await self.check(grant)
        return grant

    async def install(self, token: str, party: GrantParty) -> Grant:
        """Return the grant of a token that this run may use; from now on, no other run may.

        The run may install it again. Raises `GrantInvalid`.
        """
        grant = self._signer.verify(token)
        if grant.aud not in (party.agent, party.run_id):
            raise GrantInvalid("the grant is for another audience", reason="audience")
        if grant.root != party.root_id and (
            grant.session is None or grant.session != party.session
        ):
            raise GrantInvalid("the grant is for another session or tree of runs", reason="session")
        if grant.tenant != party.tenant:
            raise GrantInvalid("the grant is for another tenant", reason="tenant")
        if grant.sub != party.subject:
            raise GrantInvalid("the grant is for another caller", reason="subject")
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
        await self._register.revoke_all(scope, MOST_GRANT_SECONDS + _SPARE_SECONDS)


_SPARE_SECONDS: Final = 60
"""Notes outlast grants by so much, for clocks that differ."""


def _rest(grant: Grant, now: float) -> float:
    return max(grant.exp - now, 0) + _SPARE_SECONDS


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
