"""The calls of one attempt: to agents of the fleet by name, to remote agents by URL."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from skillfleet.errors import CapabilityUnavailableError
from skillfleet.ports.a2a import NO_OPTIONS, A2AClient, CallOptions, CallResult


class RoutedCalls(A2AClient):
    """Passes a call to the client that serves its target; opens each client when it is needed."""

    def __init__(
        self,
        open_children: Callable[[], A2AClient],
        open_remote: Callable[[], A2AClient] | None,
    ) -> None:
        self._open_children = open_children
        self._open_remote = open_remote

    async def call(
        self,
        target: str,
        skill: str,
        args: Mapping[str, Any] | None = None,
        options: CallOptions = NO_OPTIONS,
    ) -> CallResult:
        """See `A2AClient.call`."""
        client = self._remote if "://" in target else self._children
        return await client.call(target, skill, args, options)

    @cached_property
    def _children(self) -> A2AClient:
        return self._open_children()

    @cached_property
    def _remote(self) -> A2AClient:
        if self._open_remote is None:
            raise CapabilityUnavailableError(
                "this worker calls no remote agents: list their hosts in SKILLFLEET_A2A_HOSTS"
            )
        return self._open_remote()
