"""Tools for testing skills without a fleet: a context in memory, in-process calls, a runner.

`skillfleet.testing.conformance` has the suites that runtimes and adapters must pass.
"""

from typing import TYPE_CHECKING

from skillfleet._lazy import exported

if TYPE_CHECKING:
    from skillfleet.testing.clock import InstantClock
    from skillfleet.testing.in_process import InProcessA2AClient, LocalDiscovery
    from skillfleet.testing.local_context import LocalRunContext
    from skillfleet.testing.local_journal import LocalJournal
    from skillfleet.testing.local_session import LocalSession
    from skillfleet.testing.local_store import AttemptLostError
    from skillfleet.testing.runner import run_skill, run_to_end
else:
    __getattr__ = exported(
        __name__,
        {
            "AttemptLostError": "skillfleet.testing.local_store",
            "InProcessA2AClient": "skillfleet.testing.in_process",
            "InstantClock": "skillfleet.testing.clock",
            "LocalDiscovery": "skillfleet.testing.in_process",
            "LocalJournal": "skillfleet.testing.local_journal",
            "LocalRunContext": "skillfleet.testing.local_context",
            "LocalSession": "skillfleet.testing.local_session",
            "run_skill": "skillfleet.testing.runner",
            "run_to_end": "skillfleet.testing.runner",
        },
    )

__all__ = [
    "AttemptLostError",
    "InProcessA2AClient",
    "InstantClock",
    "LocalDiscovery",
    "LocalJournal",
    "LocalRunContext",
    "LocalSession",
    "run_skill",
    "run_to_end",
]
