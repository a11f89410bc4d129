"""A terminal's screen: the least that shows what a command has written, erased and rewritten."""

import re

from rich.cells import cell_len

_TOKEN = re.compile(r"\x1b\[(\d*)([A-Za-z])|\x1b\[\?25[lh]|(.)", re.DOTALL)


class Screen:
    """A screen of a width and a height that scrolls; colours are dropped."""

    def __init__(self, width: int = 40, height: int = 10) -> None:
        self.width, self.height = width, height
        self._rows: list[list[str]] = [[]]
        self.row = self._column = 0

    def write(self, output: str) -> "Screen":
        """Show what a program has written."""
        for match in _TOKEN.finditer(output):
            count, command, character = match.groups()
            if character is not None:
                self._put(character)
            elif command == "A":
                # What has scrolled off cannot be reached.
                top = max(0, len(self._rows) - self.height)
                self.row = max(top, self.row - int(count or 1))
            elif command == "K" and count == "2":
                self._rows[self.row] = []
        return self

    @property
    def lines(self) -> list[str]:
        """All lines, those that scrolled off first; without empty ones at the end."""
        return "\n".join("".join(row).rstrip() for row in self._rows).rstrip().split("\n")

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._next_row()
        else:
            cells = cell_len(character)
            if self._column + cells > self.width:
                self._next_row()
            row = self._rows[self.row]
            row.extend(" " * (self._column + cells - len(row)))
            row[self._column : self._column + cells] = [character, *[""] * (cells - 1)]
            self._column += cells

    def _next_row(self) -> None:
        self.row, self._column = self.row + 1, 0
        if self.row == len(self._rows):
            self._rows.append([])
