"""An inbox message as the list `inbox:ID` holds it: a line about its sender, then its JSON.

A script can take the value alone, after the first line break: the journal records nothing else.
"""

from typing import NamedTuple, Self

import orjson


class InboxMessage(NamedTuple):
    """An inbox message: its JSON, who sent it, and the token that proves that ('' for none)."""

    value: bytes
    by: str = ""
    token: str = ""

    def packed(self) -> bytes:
        """Return the entry of the list."""
        return orjson.dumps({"by": self.by, "token": self.token}) + b"\n" + self.value

    @classmethod
    def unpacked(cls, entry: bytes) -> Self:
        """Return the message of an entry; raises ValueError for one that is not readable."""
        head, line_break, value = entry.partition(b"\n")
        if not line_break:
            raise ValueError("an inbox message has no line about its sender")
        sender = orjson.loads(head)
        return cls(value, str(sender["by"]), str(sender["token"]))
