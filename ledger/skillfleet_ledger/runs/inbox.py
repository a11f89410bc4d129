"""An inbox message as the list `inbox:ID` holds it: a line about its sender, then its JSON.

A script can take the value alone, after the first line break: the journal records nothing else.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

import orjson


@dataclass(frozen=True, slots=True)
class InboxMessage:
    """An inbox message: its JSON, who sent it, and the token that proves that ('' for none)."""

    value: bytes
    by: str = ""
    token: str = field(default="", repr=False)

    def packed(self) -> bytes:
        """Return the entry of the list."""
        return orjson.dumps({"by": self.by, "token": self.token}) + b"\n" + self.value

    @classmethod
    def unpacked(cls, entry: bytes) -> Self:
        """Return the message of an entry; raises ValueError for one that is not readable."""
        head, line_break, value = entry.partition(b"\n")
        with suppress(ValueError):
            match orjson.loads(head) if line_break else None:
                case {"by": str(by), "token": str(token)}:
                    return cls(value, by, token)
        raise ValueError("an inbox message begins with a line about its sender")
