"""A command on a terminal, and what must not come out of one."""

import os
import pty
import re
import subprocess
from contextlib import suppress

from tests.cli.commands import SKILLFLEET, Shell
from tests.support.waiting import wait_until

HOSTILE = (
    "\x1b]0;title\x07\x1b]52;c;eA==\x07\x1b[2J\x9b31m\x08\r\x7f\u202e\u2066\u200b\u2028\n"
    "[red]x[/red] [/x] :bomb: end"
)
VISIBLE = "[red]x[/red] [/x] :bomb: end"
_RICHS_OWN = re.compile(r"\x1b\[\d*(?:;\d+)*m|\x1b\[\?25[lh]|\x1b\[\d*[AK]|\r\n|\r(?=[\x1b])")
"""Colours, and how a bar is drawn and wiped away."""
_HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def on_terminal(
    shell: Shell, *arguments: str, columns: int = 120, typed: str = ""
) -> tuple[int, str]:
    """Run a command whose input and output are a terminal; its exit code and all it shows.

    `typed` is typed once the command shows something.
    """
    ours, theirs = pty.openpty()
    environment = shell.environment(arguments[0]) | {"TERM": "xterm", "COLUMNS": str(columns)}
    process = subprocess.Popen(
        [*SKILLFLEET, *arguments],
        cwd=shell.folder,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        shown = ""
        if typed:
            shown = os.read(ours, 4096).decode()
            os.write(ours, typed.encode())
        shown += _read_all(ours)
        return process.wait(60), shown
    finally:
        os.close(ours)
        if process.poll() is None:
            process.kill()
            process.wait()


def harmful(text: str) -> set[str]:
    """Characters that steer a terminal or hide text, but for what draws a bar."""
    return set(_HARMFUL.findall(_RICHS_OWN.sub("", text)))


def _read_all(terminal: int) -> str:
    parts: list[bytes] = []

    def ended() -> bool:
        with suppress(OSError):
            parts.append(os.read(terminal, 65536))
            return parts[-1] == b""
        return True

    wait_until(ended, 60, "the end of the terminal's output")
    return b"".join(parts).decode(errors="replace")
