"""Processes of this machine, found by their arguments."""

import contextlib
from pathlib import Path


def processes_of(program: str, *arguments: object) -> list[int]:
    """Return the living processes of a program whose first argument is one of these."""
    wanted = {str(argument).encode() for argument in arguments}
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if words[0] == program.encode() and words[1] in wanted:
                found.append(int(path.parent.name))
    return found
