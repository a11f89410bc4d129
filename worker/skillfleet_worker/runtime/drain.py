"""How the order to drain reaches every process of a worker: pipes that the main process closes.

Every child sees the end of a pipe, but only one of them would read what was written to it, so
there are two: one for the drain, one for its fast version. Works without Redis, and reaches
the children of a main process that was killed, too.
"""

import contextlib
import os
from collections.abc import Callable

from skillfleet_engine import bridge
from skillfleet_worker.runtime.node import Node


class DrainLine:
    """Opened before the pool forks; a second order to drain is one to be fast."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._slow = _Pipe()
        self._fast = _Pipe()
        self._draining = False

    def open(self) -> None:
        """In the main process, before children exist."""
        self._node.main_pid = os.getpid()
        self._slow.open()
        self._fast.open()

    def watch(self) -> None:
        """In a child: drain when the main process says so or is gone."""
        if self._node.in_child:
            self._slow.when_closed(lambda: self._node.drain(None))
            self._fast.when_closed(self._fast_in_child)

    def drain(self, *, fast: bool) -> None:
        """In the main process: begin the drain everywhere; safe in a signal handler.

        Running runs get the grace of the settings, or none when `fast`.
        """
        fast = fast or self._draining
        self._draining = True
        self._node.drain(0.0 if fast else None)
        if fast:
            self._fast.close()
        self._slow.close()

    def _fast_in_child(self) -> None:
        # Both pipes end with a main process that was killed: its children get their grace.
        if os.getppid() == self._node.main_pid:
            self._node.drain(0.0)


class _Pipe:
    """Its writer is held by the main process alone."""

    def __init__(self) -> None:
        self._reader = self._writer = -1

    def open(self) -> None:
        self._reader, self._writer = os.pipe()

    def close(self) -> None:
        writer, self._writer = self._writer, -1
        if writer >= 0:
            with contextlib.suppress(OSError):
                os.close(writer)

    def when_closed(self, call: Callable[[], None]) -> None:
        """Call back, on the home loop, once the main process has closed its end."""
        self.close()
        reader, loop = self._reader, bridge.home_loop()

        def hear() -> None:
            loop.remove_reader(reader)
            call()

        if reader >= 0:
            loop.call_soon_threadsafe(loop.add_reader, reader, hear)
