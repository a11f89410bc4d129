"""Grants in memory, for contexts of one process."""

import itertools
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from skillfleet.contracts.grants import Grant
from skillfleet.errors import GrantInvalid
from skillfleet.ports.grants import GrantAuthority, GrantRegister, GrantSigner


class LocalGrants(GrantSigner, GrantRegister):
    """Tokens that name grants in this object's memory, and the notes about these."""

    issuer = "skillfleet"
    fleet = "local"

    def __init__(self) -> None:
        self._grants: dict[str, Grant] = {}
        self._owners: dict[str, str] = {}
        self._revoked: set[str] = set()
        self._epochs: dict[str, int] = {}
        self._numbers = itertools.count(1)

    def sign(self, grant: Grant) -> str:
        """Return a random string that stands for the grant."""
        token = secrets.token_urlsafe(32)
        self._grants[token] = grant
        return token

    def verify(self, token: str) -> Grant:
        """Return the grant that the token stands for."""
        if token not in self._grants:
            raise GrantInvalid("the grant is not one of this process", reason="signature")
        return self._grants[token]

    async def epoch(self, scope: str) -> int:
        """Return the number of the last revocation of the scope."""
        return self._epochs.get(scope, 0)

    async def bind(self, scope: str, grant_id: str, run_id: str, seconds: float) -> str:
        """Return the id of the first run that installed the grant."""
        del scope, seconds
        return self._owners.setdefault(grant_id, run_id)

    async def state(self, scope: str, grant_ids: Sequence[str]) -> tuple[int, bool]:
        """Return the scope's epoch, and whether one of the grants is revoked."""
        return self._epochs.get(scope, 0), not self._revoked.isdisjoint(grant_ids)

    async def revoke(self, scope: str, grant_id: str, seconds: float) -> None:
        """Revoke a grant."""
        del scope, seconds
        self._revoked.add(grant_id)

    async def revoke_all(self, scope: str) -> None:
        """Revoke all grants of the scope."""
        self._epochs[scope] = next(self._numbers)


async def awaited(work: Coroutine[Any, Any, Any]) -> Any:
    """Return what a coroutine returns: the register is on the loop of the skill."""
    return await work


def local_authority(now: Callable[[], float] = time.time) -> GrantAuthority:
    """Return an authority whose grants are known in this process only."""
    grants = LocalGrants()
    return GrantAuthority(grants, grants, now)
