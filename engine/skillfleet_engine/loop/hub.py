"""kombu's hub as a guest of the event loop: its polls let the loop run."""

from collections.abc import Callable
from functools import partial
from typing import Any

from celery.exceptions import ImproperlyConfigured

from skillfleet_engine.loop.host import LoopHost

# The hub checks the worker's state (shutdown requested, heartbeats) between two polls.
LONGEST_POLL = 1.0


class LoopPoller:
    """A poller for the hub whose `poll` waits in the event loop, not in the kernel."""

    wakes_for_ticks = True
    """True: a callback that a tick schedules with `call_soon` ends the poll after that tick."""

    def __init__(self, poller: Any, host: LoopHost) -> None:
        self._poller = poller
        self._host = host
        self._fd: int = _descriptor(poller)
        self._watching = False
        self._polling = False
        self.register: Callable[..., Any] = poller.register
        self.unregister: Callable[..., Any] = poller.unregister

    def poll(self, timeout: float | None) -> Any:
        """Wait up to `timeout` seconds for ready descriptors; return them with their events.

        Lets the loop run for one iteration at least, so that a busy hub cannot starve the
        coroutines.
        """
        seconds = LONGEST_POLL if timeout is None else min(timeout, LONGEST_POLL)
        if not self._watching:
            self._host.loop.add_reader(self._fd, self._readable)
            self._watching = True
        self._polling = True
        try:
            self._host.pause(seconds)
        finally:
            self._polling = False
        return self._poller.poll(0)

    def close(self) -> None:
        """Close the poller; the hub creates a new one when it reconnects."""
        self._stop_watching()
        self._poller.close()

    def _readable(self) -> None:
        if self._polling:
            self._host.resume()
        else:
            # Without a poll nothing reads the descriptor, and the loop would spin on it.
            self._stop_watching()

    def _stop_watching(self) -> None:
        if self._watching:
            self._watching = False
            self._host.loop.remove_reader(self._fd)


def host_hub(hub: Any, host: LoopHost) -> None:
    """Make the hub a guest; again after each reconnect, when the hub has a new poller."""
    if not isinstance(hub.poller, LoopPoller):
        hub.poller = LoopPoller(hub.poller, host)
    if getattr(hub.call_soon, "func", None) is not _call_soon:
        hub.call_soon = partial(_call_soon, hub.call_soon, host)
        # Without descriptors the hub sleeps instead of polling.
        hub.create_loop = partial(hub.create_loop, sleep=host.pause)


def _call_soon(call_soon: Callable[..., Any], host: LoopHost, *args: Any) -> Any:
    # kombu wakes a poll only for callers on other threads; here the loop's greenlets call it too.
    promise = call_soon(*args)
    if host.here:
        host.wake()
    return promise


def _descriptor(poller: Any) -> int:
    for name in ("_epoll", "_kqueue"):
        if (inner := getattr(poller, name, None)) is not None:
            return int(inner.fileno())
    raise ImproperlyConfigured(
        f"LoopPool needs epoll or kqueue; kombu polls with {type(poller).__name__} here. "
        "Choose another worker_pool on this platform."
    )
