"""The events of a run, as a reader of its stream gets them."""

from datetime import UTC, datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from skillfleet.contracts.states import RunState

STATE_KIND: Final = "state"
"""The kind of the events that the fleet writes when a run changes state."""

TRIMMED_KIND: Final = "trimmed"
"""The kind of the marker a reader gets in place of events that the stream's cap removed."""

TEXT_DELTA_KIND: Final = "text_delta"
"""The kind of an event that streams a piece of text; its payload has `text`."""

SUPERSEDED_KIND: Final = "superseded"
"""The kind of the event that voids what a step emitted before it failed or its worker died.

Its payload has `step`: all earlier events of that step (`RunEvent.step`) are void. Where its worker
died during the step, it also has `from` and `to`, the ids of the first and last of them.
"""

WAIT_KIND: Final = "wait"
"""The kind of the event of an open wait: `id`, `kind`, `name`, `question`, `value_schema`."""

WAIT_ENDED_KIND: Final = "wait_ended"
"""The kind of the event of a decided wait: `id`, `kind`, `outcome`, `by`, `reason`."""

RESERVED_KINDS: Final = frozenset(
    {STATE_KIND, TRIMMED_KIND, SUPERSEDED_KIND, WAIT_KIND, WAIT_ENDED_KIND}
)
"""Kinds that a skill may not emit."""


class RunEvent(BaseModel):
    """One entry of a run's stream.

    `id` is opaque: pass it as `after` to resume right after this event. `at` is the time
    of emission (UTC), `attempt` the number of the attempt that emitted it (0 before the
    first attempt).
    """

    model_config = ConfigDict(frozen=True)

    id: str
    kind: str
    payload: dict[str, Any]
    attempt: int
    at: datetime
    step: str | None = None
    """The identity of the step that emitted the event; None outside of a step."""

    @property
    def final(self) -> bool:
        """True for the last event of the run, which carries its terminal state."""
        return self.state is not None and self.state.terminal

    @property
    def state(self) -> RunState | None:
        """The state that this event announces; None for all other kinds of events."""
        return RunState(self.payload["state"]) if self.kind == STATE_KIND else None


def from_millis(millis: float) -> datetime:
    """Return the UTC time at `millis` milliseconds after the epoch."""
    return datetime.fromtimestamp(millis / 1000, UTC)
