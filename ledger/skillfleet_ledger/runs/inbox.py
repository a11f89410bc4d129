"""An inbox message as the list `inbox:ID` holds it: a line about its sender, then its JSON.

A script can take the value alone, after the first line break: the journal records nothing else.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

import orjson


@dataclass(frozen=True, slots=True)
class InboxMessage:
    """An inbox message: its JSON, who sent it, and the token that proves that ('' for none).

    `run` is the id of a run that was enqueued into the session of the receiver; it is a run no more
    once the message is received.
    """

    value: bytes
    by: str = ""
    token: str = field(default="", repr=False)
    run: str = ""

    def packed(self) -> bytes:
        """Return the entry of the list."""
        of_run = {"run": self.run} if self.run else {}
        return orjson.dumps({"by": self.by, "token": self.token, **of_run}) + b"\n" + self.value

    @classmethod
    def unpacked(cls, entry: bytes) -> Self:
        """Return the message of an entry; raises ValueError for one that is not readable."""
        head, line_break, value = entry.partition(b"\n")
        with suppress(ValueError):
            match orjson.loads(head) if line_break else None:
                case {"by": str(by), "token": str(token), **rest}:
                    run = rest.get("run", "")
                    return cls(value, by, token, run if isinstance(run, str) else "")
        raise ValueError("an inbox message begins with a line about its sender")
