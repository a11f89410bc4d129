"""Ends what `dev` started and deletes its temporary data, however `dev` itself ends.

The guard is a process of its own that reads from a pipe which only `dev` holds open. When
`dev` is gone, killed included, the pipe ends, and the guard does its work. This is the same
on Linux and macOS, and reaches what the children started, too.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

_PATIENCE_SECONDS = 5.0
_POLL_SECONDS = 0.05


class Guard:
    """`dev`'s end of the pipe."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def watch(self, group: int) -> None:
        """Have a process group ended when `dev` ends."""
        self._tell(f"+{group}")

    def forget(self, group: int) -> None:
        """The process group has ended."""
        self._tell(f"-{group}")

    def delete(self, folder: str) -> None:
        """Have a folder deleted at the end, after all processes."""
        self._tell(f"x{folder}")

    def close(self) -> None:
        """Let the guard do its work now, and wait for it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, order: str) -> None:
        # Without its guard, dev still ends its children itself.
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.write(os.fsencode(order) + b"\n")
                self._process.stdin.flush()


def main() -> None:
    """The guard's process: collect orders until the pipe ends, then end and delete."""
    groups: set[int] = set()
    folders: list[str] = []
    for line in sys.stdin.buffer:
        order, value = line[:1], line[1:].rstrip(b"\n")
        if order == b"+":
            groups.add(int(value))
        elif order == b"-":
            groups.discard(int(value))
        else:
            folders.append(os.fsdecode(value))
    end_groups(groups)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def end_groups(groups: set[int]) -> None:
    """End process groups: SIGTERM, and SIGKILL for those that stay."""
    end = time.monotonic() + _PATIENCE_SECONDS
    alive = {group for group in groups if signal_group(group, signal.SIGTERM)}
    while alive and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
        alive = {group for group in alive if signal_group(group, 0)}
    for group in alive:
        signal_group(group, signal.SIGKILL)


def signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; False when it is gone."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        # macOS answers EPERM for a group of which only zombies are left.
        return False
    return True


if __name__ == "__main__":
    main()
