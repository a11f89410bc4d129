"""A Redis transport for Celery that loses no message and claims only what it has slots for.

It uses the keys and messages of kombu's own Redis transport: clients and workers with either may
share queues, and a fleet may switch in both directions. It needs Redis 6.2 or Valkey.

Select it with `broker_transport = "skillfleet_engine.transport:Transport"` beside a `redis://` or
`rediss://...?ssl_cert_reqs=...` URL. The schemes `skillfleet-redis://`, `skillfleet-rediss://` and
`skillfleet-redis+socket://` select it too once this package is imported; kombu takes the transport
of a list of failover URLs from the scheme alone. `broker_settings(url)` chooses.

The signal `message_undecodable` announces messages that cannot be decoded.
"""

from skillfleet_engine.transport.transport import TLSTransport, Transport, broker_settings
from skillfleet_engine.transport.undecodable import message_undecodable

__all__ = ["TLSTransport", "Transport", "broker_settings", "message_undecodable"]
