"""Celery's shutdown signal handlers, run where they may wait.

Python runs a signal handler between any two instructions: possibly inside the event loop, which
then cannot continue until the handler returns. Celery's handlers of SIGQUIT and SIGINT wait (soft
shutdown, stopping the pool). So each signal is noted, and its handler runs where Celery's own
code waits for the loop.
"""

import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

from skillfleet_engine.loop.host import LoopHost

Handler = Callable[[int, FrameType | None], Any]
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class SignalRelay:
    """A relay that takes over the handlers installed for `SIGNALS`.

    `on_signal` is called for each at once, in the signal handler, also while the loop is blocked.
    """

    def __init__(self, host: LoopHost, on_signal: Callable[[int], object]) -> None:
        self._host = host
        self._on_signal = on_signal
        self._handlers: dict[int, Handler] = {}
        self._noted: set[int] = set()

    def take_over(self) -> None:
        """Install the relay before the present handlers; does nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler) and handler != self._note:
                self._handlers[number] = handler
                signal.signal(number, self._note)

    def give_back(self) -> None:
        """Restore the handlers that were taken over and not replaced since."""
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, handler)
        self._handlers.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._on_signal(number)
        if number in self._noted:
            # The first one was not handled yet: the loop is blocked, and waiting is useless.
            self._handlers[number](number, frame)
            return
        self._noted.add(number)
        self._host.interrupt(partial(self._handle, number))

    def _handle(self, number: int) -> None:
        self._noted.discard(number)
        self._handlers[number](number, None)
        # Celery's first handler of SIGINT installs a second one for the next SIGINT.
        self.take_over()
