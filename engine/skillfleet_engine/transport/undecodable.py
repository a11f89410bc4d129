"""Handling of undecodable messages.

They are kept in the list `undecodable` (under the broker's key prefix; the newest 1000), logged,
and announced by a signal. A receiver that returns without an error takes the message over: it is
removed from the list then.
"""

import logging
from typing import Any

from celery.utils.dispatch import Signal

logger = logging.getLogger(__name__)

_SHOWN = 200

message_undecodable: Any = Signal(
    name="message_undecodable", providing_args=["queue", "body", "reason"]
)
"""Sent in the worker's main thread, sender the channel; queue: str, body: bytes as they arrived,
reason: str. Receivers must not wait for the event loop of that thread."""


def announce(sender: Any, queue: str, body: bytes, reason: str) -> bool:
    """Log the message and call the receivers; True when one of them took it over."""
    logger.error("A message in queue %s cannot be decoded: %s; %r", queue, reason, body[:_SHOWN])
    answers = message_undecodable.send(sender=sender, queue=queue, body=body, reason=reason)
    return any(not isinstance(answer, Exception) for _, answer in answers)
