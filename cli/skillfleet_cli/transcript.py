"""Output of a followed run that can be taken back: what a step wrote is void if it did not finish.

A terminal is redrawn without it. Into a pipe, and where the text has left the screen, a marker
line goes instead.
"""

import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.cells import cell_len

from skillfleet.contracts import RunEvent
from skillfleet_ledger.stream_entries import event_number

_MOST_KEPT = 200_000
"""Characters that are kept for redrawing; no screen shows more."""
_TAB = 8
_ERASE_ROW = "\x1b[2K"
_UP = "\x1b[A"

Show = Callable[[bool], str]
"""Writes a piece of output and returns it; the argument says whether a line is unfinished."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A piece of output; `number` is that of its event, 0 for output of the command itself."""

    show: Show
    text: str
    starts_line: bool
    number: int
    step: str | None


class Transcript:
    """The output so far, in pieces. On a terminal, void pieces can be erased."""

    def __init__(self, *, terminal: bool) -> None:
        self.in_line = False
        """True while the last line is unfinished."""
        self._terminal = terminal
        self._pieces: deque[_Piece] = deque()
        self._kept = 0
        self._first_of: dict[str, int] = {}

    def put(self, show: Show, event: RunEvent | None = None) -> None:
        """Write a piece of output, which may show an event."""
        number = event_number(event.id) if event is not None else 0
        step = event.step if event is not None else None
        if self._put(show, number, step) and step is not None:
            self._first_of.setdefault(step, number)

    def supersede(self, event: RunEvent) -> bool:
        """Take back the output of the step that a `superseded` event voids.

        Returns False when void output stays: a marker is needed then.
        """
        step = event.payload.get("step")
        if not isinstance(step, str) or (first := self._first_of.pop(step, None)) is None:
            return True
        return self._terminal and self._redraw_without(step, first)

    def _put(self, show: Show, number: int, step: str | None) -> bool:
        """Write a piece and keep it for redrawing; return whether it was not empty."""
        starts_line = not self.in_line
        text = show(self.in_line)
        if text:
            self.in_line = not text.endswith("\n")
        if text and self._terminal:
            self._pieces.append(_Piece(show, text, starts_line, number, step))
            self._kept += len(text)
            while self._kept > _MOST_KEPT:
                self._kept -= len(self._pieces.popleft().text)
        return bool(text)

    def _redraw_without(self, step: str, first: int) -> bool:
        pieces = list(self._pieces)
        start = next((at for at, piece in enumerate(pieces) if piece.number == first), None)
        while start is not None and not pieces[start].starts_line:
            start = start - 1 if start else None
        if start is None:
            return False
        size = shutil.get_terminal_size()
        rows = rows_of((piece.text for piece in pieces[start:]), size.columns)
        if rows >= size.lines:
            return False
        sys.stdout.write("\r" + _ERASE_ROW + (_UP + _ERASE_ROW) * rows)
        sys.stdout.flush()
        self._pieces = deque(pieces[:start])
        self._kept = sum(len(piece.text) for piece in self._pieces)
        self.in_line = False
        for piece in pieces[start:]:
            if piece.step != step:
                self._put(piece.show, piece.number, piece.step)
        return True


def rows_of(texts: Iterable[str], width: int) -> int:
    """Return how many rows the cursor of a terminal moves down while it writes the texts."""
    row = column = 0
    for text in texts:
        for character in text:
            if character == "\n":
                row, column = row + 1, 0
            elif character == "\t":
                column = min((column // _TAB + 1) * _TAB, width - 1)
            else:
                cells = cell_len(character)
                if column + cells > width:
                    row, column = row + 1, 0
                column += cells
    return row
