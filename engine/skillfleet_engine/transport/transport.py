"""The transport, and the settings that select it."""

import ssl
from typing import Any
from urllib.parse import urlsplit

from kombu.connection import resolve_aliases  # type: ignore[attr-defined]
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as stock
from redis.exceptions import ResponseError

from skillfleet_engine.transport.channel import Channel
from skillfleet_engine.transport.poller import Poller

PATH = f"{__name__.rpartition('.')[0]}:Transport"


class Transport(stock.Transport):
    """kombu's Redis transport with claims, wake-ups and batched acknowledgements.

    Select it with the setting `broker_transport`, or with a URL's scheme (see `broker_settings`).
    """

    Channel = Channel
    connection_errors = (*stock.Transport.connection_errors, ResponseError)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle: Any = Poller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have Celery's hub read the connections."""
        self.cycle.join(loop)
        super().register_with_event_loop(connection, loop)


class TLSChannel(Channel):
    """A channel whose connections are encrypted, with the server's certificate checked."""

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002
        client = self.connection.client
        client.ssl = client.ssl or {"ssl_cert_reqs": ssl.CERT_REQUIRED}
        options: dict[str, Any] = super()._connparams(asynchronous)
        return options


class TLSTransport(Transport):
    """The transport for skillfleet-rediss:// URLs."""

    Channel = TLSChannel


def broker_settings(url: str) -> dict[str, Any]:
    """Celery's settings for a broker URL: with this transport where it supports the URL.

    It supports `redis://`, `rediss://` and `redis+socket://`; all other schemes (`sentinel://`,
    `amqp://`, ...) use kombu's transports.
    """
    scheme, separator, rest = url.partition("://")
    if scheme == "redis":
        return {"broker_url": url, "broker_transport": PATH}
    if scheme == "rediss" and "ssl_" in urlsplit(url).query:
        return {"broker_url": url, "broker_transport": PATH}
    if scheme in ("rediss", "redis+socket"):
        return {"broker_url": f"skillfleet-{scheme}{separator}{rest}"}
    return {"broker_url": url}


# Process-wide table of kombu: Celery and Flower show and parse the URL that a connection reports,
# whose scheme would otherwise be this module's path.
resolve_aliases[PATH] = "redis"

# Process-wide table of kombu, documented for additional schemes. `skillfleet-redis+socket://` uses
# the first entry too.
TRANSPORT_ALIASES["skillfleet-redis"] = PATH
TRANSPORT_ALIASES["skillfleet-rediss"] = PATH.replace(":", ":TLS")
