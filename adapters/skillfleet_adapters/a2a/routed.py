"""One client for both kinds of targets: agents of this fleet by name, agents elsewhere by URL."""

from typing import Any

from skillfleet.errors import CapabilityUnavailableError
from skillfleet.ports.a2a import A2AClient, Caller, CallResult


class RoutedA2AClient(A2AClient):
    """Hands a call to `elsewhere` when its target is a URL, else to `fleet`."""

    def __init__(self, fleet: A2AClient, elsewhere: A2AClient | None) -> None:
        self._fleet = fleet
        self._elsewhere = elsewhere

    async def call(self, target: str, skill: str, **options: Any) -> CallResult:
        """See `A2AClient.call`."""
        if "://" not in target:
            return await self._fleet.call(target, skill, **options)
        if self._elsewhere is None:
            raise CapabilityUnavailableError(
                "this worker calls no agents elsewhere: list their hosts in SKILLFLEET_A2A_HOSTS"
            )
        return await self._elsewhere.call(target, skill, **options)

    def for_caller(self, caller: Caller) -> A2AClient:
        """The client that makes calls on behalf of a run."""
        elsewhere = self._elsewhere.for_caller(caller) if self._elsewhere is not None else None
        return RoutedA2AClient(self._fleet.for_caller(caller), elsewhere)
