"""The poller of a transport's connections, for Celery's hub and for `drain_events` without one."""

import logging
from queue import Empty
from typing import Any

from kombu.transport import redis as stock

from skillfleet_engine.transport.fetcher import MessageFetcher
from skillfleet_engine.transport.redis_socket import BROKEN, RedisSocket

logger = logging.getLogger(__name__)


class Poller(stock.MultiChannelPoller):
    """kombu's poller for broadcasts, and the sockets of the channels that claim."""

    _channels: set[Any]

    def __init__(self) -> None:
        super().__init__()
        self.hub: Any = None
        self._sockets: dict[int, tuple[RedisSocket, MessageFetcher]] = {}

    def join(self, hub: Any) -> None:
        """Let the hub poll the connections; channels poll at its ticks."""
        self.hub = hub
        hub.on_close.add(self.leave)

    def leave(self, hub: Any) -> None:
        """Detach from a closing hub: later acknowledgements are sent at once."""
        hub.on_close.discard(self.leave)
        self.hub = None
        self._sockets.clear()
        for channel in list(self._channels):
            try:
                channel.flush_acks()
            except BROKEN as error:
                logger.debug("Redis is away: acknowledged after the next connect (%r)", error)

    def watch(self, socket: RedisSocket, fetcher: MessageFetcher) -> None:
        """Have a socket's replies read."""
        self._sockets[socket.fd] = (socket, fetcher)
        if self.hub is not None:
            self.hub.add_reader(socket.fd, self.on_readable, socket.fd)
        else:
            self.poller.register(socket.fd, self.eventflags)

    def unwatch(self, socket: RedisSocket) -> None:
        """Stop watching a socket, before it is closed."""
        if self._sockets.get(socket.fd, (None,))[0] is not socket:
            return
        del self._sockets[socket.fd]
        if self.hub is not None:
            self.hub.remove_reader(socket.fd)
        else:
            self.poller.unregister(socket.fd)

    def on_poll_start(self) -> None:
        """Poll all channels; the hub calls this at each tick."""
        super().on_poll_start()
        for channel in list(self._channels):
            channel.poll()

    def on_readable(self, fileno: int) -> None:
        """Read from a connection.

        Raises:
            Empty: nothing was delivered; kombu's loops expect that.
        """
        if fileno not in self._sockets:
            super().on_readable(fileno)
            return
        socket, fetcher = self._sockets[fileno]
        delivered = fetcher.receive(socket)
        if self.hub is None:
            # A hub polls at its next tick.
            fetcher.channel.poll()
        if not delivered:
            raise Empty

    def handle_event(self, fileno: int, event: int) -> Any:
        """Read from a connection without a hub."""
        if fileno in self._sockets:
            self.on_readable(fileno)
            return True
        return super().handle_event(fileno, event)

    def _register_BRPOP(self, channel: Any) -> None:  # noqa: N802 - kombu's name
        if not channel.claims:
            super()._register_BRPOP(channel)  # type: ignore[misc]
