"""The joined text of a run's stream."""

from collections.abc import Iterable
from typing import Any, Protocol

from skillfleet.contracts import SUPERSEDED_KIND, TEXT_DELTA_KIND


class _Event(Protocol):
    """An event as its readers get it: a `RunEvent`, or an `AgentEvent` of a call's result."""

    @property
    def kind(self) -> str: ...

    @property
    def payload(self) -> dict[str, Any]: ...

    @property
    def step(self) -> str | None: ...


def joined_text(events: Iterable[_Event]) -> str:
    """Return the text that a run has streamed: its text deltas, without those that are void.

    A step that failed or was interrupted may have streamed a part of its text before it was tried
    again. Its events are followed by an event `superseded`, which voids them; this function
    applies it. Pass all events of the run, in order.
    """
    pieces: list[tuple[str | None, str]] = []
    for event in events:
        if event.kind == TEXT_DELTA_KIND:
            text = event.payload.get("text")
            if isinstance(text, str):
                pieces.append((event.step, text))
        elif event.kind == SUPERSEDED_KIND:
            void = event.payload.get("step")
            pieces = [piece for piece in pieces if piece[0] is None or piece[0] != void]
    return "".join(text for _, text in pieces)
