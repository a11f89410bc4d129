"""The bytes of a sandbox's connections, counted against its limit."""

from dataclasses import dataclass
from typing import Final

from skillfleet_adapters.sandbox.egress.policy import Refused

PIECE: Final = 64 * 1024
"""The most bytes that are read at once."""


@dataclass
class Allowance:
    """The bytes that all connections of one sandbox may still pass, in both directions."""

    left: int

    def take(self, count: int) -> None:
        """Use some; raises Refused when they are used up."""
        self.left -= count
        if self.left < 0:
            raise Refused(429, "the sandbox has passed its limit of bytes")


@dataclass
class Traffic:
    """The bytes of one connection, as the sandbox sees them."""

    allowance: Allowance
    sent: int = 0
    received: int = 0

    def count_sent(self, count: int) -> None:
        """Count bytes from the sandbox; raises Refused."""
        self.sent += count
        self.allowance.take(count)

    def count_received(self, count: int) -> None:
        """Count bytes for the sandbox, before they are written; raises Refused."""
        self.allowance.take(count)
        self.received += count
