"""The calls of one attempt: to agents of the fleet by name, to remote agents by URL."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from skillfleet.errors import CapabilityUnavailableError
from skillfleet.hidden_state import HiddenState
from skillfleet.ports.a2a import NO_OPTIONS, A2AClient, CallOptions, CallResult


@dataclass
class _Clients:
    """The clients of one attempt, each opened when it is needed."""

    open_children: Callable[[], A2AClient]
    open_remote: Callable[[], A2AClient] | None

    @cached_property
    def children(self) -> A2AClient:
        return self.open_children()

    @cached_property
    def remote(self) -> A2AClient:
        if self.open_remote is None:
            raise CapabilityUnavailableError(
                "this worker calls no remote agents: list their hosts in SKILLFLEET_A2A_HOSTS"
            )
        return self.open_remote()


_clients: Final[HiddenState[_Clients]] = HiddenState()


class RoutedCalls(A2AClient):
    """Passes a call to the client that serves its target; opens each client when it is needed.

    Its clients are not reachable through it. What opens them must not refer to it.
    """

    def __init__(
        self,
        open_children: Callable[[], A2AClient],
        open_remote: Callable[[], A2AClient] | None,
    ) -> None:
        _clients.attach(self, _Clients(open_children, open_remote))

    async def call(
        self,
        target: str,
        skill: str,
        args: Mapping[str, Any] | None = None,
        options: CallOptions = NO_OPTIONS,
    ) -> CallResult:
        """See `A2AClient.call`."""
        clients = _clients.of(self)
        client = clients.remote if "://" in target else clients.children
        return await client.call(target, skill, args, options)
