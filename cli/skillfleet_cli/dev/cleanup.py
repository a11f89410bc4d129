"""Cleanup process: ends what `dev` started and deletes its temporary data.

It reads from a pipe that only `dev` holds open. When `dev` ends for any reason, SIGKILL
included, the pipe closes and the cleanup starts. This works on Linux and macOS alike, and also
reaches processes that the children started.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

_GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.05


class CleanupProcess:
    """The cleanup process, seen from `dev`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def watch(self, group: int) -> None:
        """Register a process group to be ended when `dev` ends."""
        self._send(f"+{group}")

    def forget(self, group: int) -> None:
        """Unregister a process group that has ended."""
        self._send(f"-{group}")

    def delete(self, folder: str) -> None:
        """Register a folder to be deleted after all processes have ended."""
        self._send(f"x{folder}")

    def close(self) -> None:
        """Start the cleanup now, and wait for it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def _send(self, order: str) -> None:
        # If the cleanup process is gone, dev still ends its children itself.
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.write(os.fsencode(order) + b"\n")
                self._process.stdin.flush()


def main() -> None:
    """Run the cleanup process: collect orders until the pipe closes, then end and delete."""
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
    """End process groups: SIGTERM, then SIGKILL for those still alive."""
    end = time.monotonic() + _GRACE_SECONDS
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
