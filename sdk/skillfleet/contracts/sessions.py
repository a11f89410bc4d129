"""Sessions as their readers see them: a snapshot, and the events of their runs in one stream."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from skillfleet.contracts.events import RunEvent


class SessionStatus(BaseModel):
    """A snapshot of a session. `runs` counts all that it ever had, `waiting` those that are held.

    `current` is the id of the run that may execute now; None without one. Times are UTC.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    runs: int = 0
    waiting: int = 0
    current: str | None = None
    created_at: datetime
    active_at: datetime
    """The time of the last submission or end of a run."""
    state_bytes: int = 0
    """The size of the saved state, as JSON."""


class SessionEvent(RunEvent):
    """An event of one of a session's runs.

    `id` is its place in the session's stream: pass it as `after` to continue right after it.
    """

    run_id: str = ""
    """The run; empty for the marker of runs that have expired."""
