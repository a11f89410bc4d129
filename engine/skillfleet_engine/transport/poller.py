"""What reads a transport's connections: Celery's hub, or `drain_events` without one."""

import logging
from queue import Empty
from typing import Any

from kombu.transport import redis as stock

from skillfleet_engine.transport.fetcher import Intake
from skillfleet_engine.transport.redis_socket import BROKEN, Line

logger = logging.getLogger(__name__)


class Poller(stock.MultiChannelPoller):
    """kombu's poller for broadcasts, and the lines of the channels that claim."""

    _channels: set[Any]

    def __init__(self) -> None:
        super().__init__()
        self.hub: Any = None
        self._lines: dict[int, tuple[Line, Intake]] = {}

    def join(self, hub: Any) -> None:
        """From now on the hub polls, and turns are taken at its ticks."""
        self.hub = hub
        hub.on_close.add(self.leave)

    def leave(self, hub: Any) -> None:
        """The hub closes: what is settled from now on is sent at once."""
        hub.on_close.discard(self.leave)
        self.hub = None
        self._lines.clear()
        for channel in list(self._channels):
            try:
                channel.settle_now()
            except BROKEN as error:
                logger.debug("Redis is away: settled after the next connect (%r)", error)

    def watch(self, line: Line, intake: Intake) -> None:
        """Have a line's replies received."""
        self._lines[line.fd] = (line, intake)
        if self.hub is not None:
            self.hub.add_reader(line.fd, self.on_readable, line.fd)
        else:
            self.poller.register(line.fd, self.eventflags)

    def unwatch(self, line: Line) -> None:
        """Leave a line alone; before it is closed."""
        if self._lines.get(line.fd, (None,))[0] is not line:
            return
        del self._lines[line.fd]
        if self.hub is not None:
            self.hub.remove_reader(line.fd)
        else:
            self.poller.unregister(line.fd)

    def on_poll_start(self) -> None:
        """Take the turns of all channels; the hub calls this at each tick."""
        super().on_poll_start()
        for channel in list(self._channels):
            channel.turn()

    def on_readable(self, fileno: int) -> None:
        """Read from a connection.

        Raises:
            Empty: nothing was delivered; kombu's loops expect that.
        """
        if fileno not in self._lines:
            super().on_readable(fileno)
            return
        line, intake = self._lines[fileno]
        delivered = intake.receive(line)
        if self.hub is None:
            # A hub takes the turns at its next tick.
            intake.channel.turn()
        if not delivered:
            raise Empty

    def handle_event(self, fileno: int, event: int) -> Any:
        """Read from a connection without a hub."""
        if fileno in self._lines:
            self.on_readable(fileno)
            return True
        return super().handle_event(fileno, event)

    def _register_BRPOP(self, channel: Any) -> None:  # noqa: N802 - kombu's name
        if not channel.claims:
            super()._register_BRPOP(channel)  # type: ignore[misc]
