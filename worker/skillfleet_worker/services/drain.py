"""Shutdown pipes: the main process closes a pipe to have all child processes drain.

Every child sees that a pipe was closed, but only one of them would read what was written to it.
So there are three pipes: one for the drain, one for its fast version, and one in the other
direction, which is closed when every child has released its runs. This works without Redis.

A process that drains also ends: some seconds after the drain, whatever its threads do.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable

from skillfleet_engine.loop import bridge
from skillfleet_engine.loop.process_exit import ProcessExit
from skillfleet_worker.services.node import Node

_RELEASE_SECONDS = 5.0
_CHECK_SECONDS = 0.05
_END_SECONDS = 2.0
_PARENT_SECONDS = 0.5


class ShutdownPipes:
    """Drains all processes of a node. A second request to drain makes the drain fast."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._slow = _Pipe()
        self._fast = _Pipe()
        self._done = _Pipe()
        self._draining = False
        self._ending = ProcessExit(self._node.hand_over)

    def open(self) -> None:
        """Open the pipes; in the main process, before children exist."""
        self._node.main_pid = os.getpid()
        self._ending = ProcessExit(self._node.hand_over)
        if threading.current_thread() is threading.main_thread():
            # Otherwise another program runs the worker in one of its threads.
            self._ending.at_exit()
        self._slow.open()
        self._fast.open()
        self._done.open()

    def watch(self) -> None:
        """In a child: drain when the main process closes a pipe."""
        if self._node.in_child:
            self._ending = ProcessExit(self._node.hand_over)
            self._slow.when_closed(self._slow_in_child)
            self._fast.when_closed(self._fast_in_child)

    def drain(self, *, fast: bool) -> None:
        """In the main process: start the drain of all processes; safe in a signal handler.

        Runs have `drain_seconds` to finish, or no time when `fast`.
        """
        fast = fast or self._draining
        self._draining = True
        self._node.drain(0.0 if fast else None)
        self._end_after(0.0 if fast else self._node.settings.drain_seconds, _PARENT_SECONDS)
        if fast:
            self._fast.close()
        self._slow.close()

    def release(self) -> None:
        """In the main process: release all runs, and wait until that is done, with a limit.

        Called before Celery ends what still runs.
        """
        self.drain(fast=True)
        end = time.monotonic() + self._node.settings.abandon_seconds + _RELEASE_SECONDS
        self._done.close()
        self._done.wait_closed(end)
        while self._node.busy and time.monotonic() < end:
            time.sleep(_CHECK_SECONDS)

    def noted(self, number: int) -> None:
        """Note in the signal handler that a signal to stop has arrived.

        The event loop acts on it; if the loop is blocked, the process still ends in time.
        """
        self._end_after(0.0 if number == signal.SIGQUIT else self._node.settings.drain_seconds)

    def stopped(self, exit_code: int | None) -> None:
        """Note that the worker has stopped, and its exit status."""
        self._ending.code = exit_code or 0

    def end(self) -> None:
        """End this process now, whose runs were released and whose threads cannot be stopped."""
        self._ending.now()

    def _end_after(self, seconds: float, more: float = 0.0) -> None:
        settings = self._node.settings
        grace = settings.cancel_grace_seconds + settings.abandon_seconds
        self._ending.within(seconds + grace + _END_SECONDS + more)

    def _slow_in_child(self) -> None:
        self._node.drain(None)
        self._end_after(self._node.settings.drain_seconds)

    def _fast_in_child(self) -> None:
        self._node.drain(0.0)
        self._end_after(0.0)
        bridge.home_loop().call_later(_CHECK_SECONDS, self._report_done)

    def _report_done(self) -> None:
        if self._node.busy:
            bridge.home_loop().call_later(_CHECK_SECONDS, self._report_done)
        else:
            self._done.close()


class _Pipe:
    """A pipe without data: closing it is the message."""

    def __init__(self) -> None:
        self._reader = self._writer = -1

    def open(self) -> None:
        self._reader, self._writer = os.pipe()

    def close(self) -> None:
        writer, self._writer = self._writer, -1
        if writer >= 0:
            with contextlib.suppress(OSError):
                os.close(writer)

    def wait_closed(self, end: float) -> None:
        """Wait until no process holds the writer, or until the monotonic time `end`."""
        if self._reader >= 0:
            select.select([self._reader], [], [], max(end - time.monotonic(), 0))

    def when_closed(self, call: Callable[[], None]) -> None:
        """Call `call` on the home loop once the main process has closed its end."""
        self.close()
        reader, loop = self._reader, bridge.home_loop()

        def on_closed() -> None:
            loop.remove_reader(reader)
            call()

        if reader >= 0:
            loop.call_soon_threadsafe(loop.add_reader, reader, on_closed)
