"""How the order to drain reaches every process of a worker: a pipe that the main process closes.

Works without Redis, and reaches the children of a main process that was killed, too.
"""

import contextlib
import os

from skillfleet_engine import bridge
from skillfleet_worker.runtime.node import Node


class DrainLine:
    """Opened before the pool forks; children see the end of the pipe when the drain begins."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._reader: int | None = None
        self._writer: int | None = None

    def open(self) -> None:
        """In the main process, before children exist."""
        self._node.main_pid = os.getpid()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)

    def watch(self) -> None:
        """In a child: drain when the main process says so or is gone."""
        if not self._node.in_child or self._reader is None:
            return
        self._close_writer()
        reader, loop = self._reader, bridge.home_loop()

        def hear() -> None:
            loop.remove_reader(reader)
            self._node.drain(_order(reader))

        loop.call_soon_threadsafe(loop.add_reader, reader, hear)

    def drain(self, seconds: float | None) -> None:
        """In the main process: begin the drain everywhere; safe in a signal handler.

        `seconds` is the grace for running runs; None takes the settings'.
        """
        self._node.drain(seconds)
        if self._writer is not None:
            if seconds is not None:
                with contextlib.suppress(OSError):
                    os.write(self._writer, str(seconds).encode())
            self._close_writer()

    def _close_writer(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):
                os.close(self._writer)
            self._writer = None


def _order(reader: int) -> float | None:
    try:
        text = os.read(reader, 64).decode()
    except OSError:
        return None
    return float(text) if text else None
