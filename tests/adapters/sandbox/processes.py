"""Processes of this machine, found by their arguments."""

import contextlib
import os
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

LEAVING = """
for i in 1 2; do
    (setsid sh -c 'trap "" TERM INT HUP; sleep {number} & exec 9>held; sleep {number}' &)
done
nohup sleep {number} &
echo started
"""
"""Leaves five processes `sleep`, which have forked twice, ignore signals, and hold files."""

_numbers = count(100_000_000 + 100 * os.getpid())


def processes_of(program: str, argument: object) -> list[int]:
    """Return the living processes of a program with this first argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if words[:2] == [program.encode(), str(argument).encode()]:
                found.append(int(path.parent.name))
    return found


@contextlib.contextmanager
def own_number() -> Iterator[int]:
    """Yield an argument of `sleep` that no other test has; kill what is left of it."""
    number = next(_numbers)
    yield number
    for pid in processes_of("sleep", number):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
