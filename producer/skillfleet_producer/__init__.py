"""The client for backend services: enqueue skills, follow and cancel runs, fetch artifacts.

`Fleet` is the synchronous front, `AsyncFleet` the implementation; both have the same names.
"""

from skillfleet_ledger.runs.search import RunPage
from skillfleet_ledger.settings import Settings
from skillfleet_producer.fleet import Fleet, RunHandle
from skillfleet_producer.fleet_async import AsyncFleet, AsyncRunHandle

__all__ = ["AsyncFleet", "AsyncRunHandle", "Fleet", "RunHandle", "RunPage", "Settings"]
