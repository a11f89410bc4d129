"""A Redis transport for Celery that loses nothing and asks for what it has room for.

It uses the keys and messages of kombu's own Redis transport: clients and workers with either may
share queues, and a fleet may switch back and forth. It needs Redis 6.2 or Valkey.

Select it with `broker_transport = "skillfleet_engine.transport:Transport"` beside a `redis://` or
`rediss://...?ssl_cert_reqs=...` URL. The schemes `skillfleet-redis://`, `skillfleet-rediss://` and
`skillfleet-redis+socket://` select it too, wherever this package was imported before; kombu takes
the transport of a list of failover URLs from the scheme alone. `broker_settings(url)` chooses.

`message_undecodable` is the signal for messages that nobody can read.
"""

from skillfleet_engine.transport.transport import TLSTransport, Transport, broker_settings
from skillfleet_engine.transport.undecodable import message_undecodable

__all__ = ["TLSTransport", "Transport", "broker_settings", "message_undecodable"]
