"""Batches: calls of one script that leave together are executed by one script (batch.lua).

Each call in a batch saves Redis a call of a script and one of its clock. A batch is bounded,
because no other client is answered while a script runs.
"""

import itertools
from collections.abc import Callable
from typing import Any, Protocol

from skillfleet_ledger.redis_client.replies import ReplyError
from skillfleet_ledger.redis_client.script_source import batched_script, source

_MOST_CALLS = 16
_MOST_BYTES = 4096
"""The longest argument of a call in a batch."""


class Waiter(Protocol):
    """The methods of a future that a connection uses: what waits for a reply."""

    def done(self) -> bool:
        """Return True when no reply is needed any more."""

    def set_result(self, result: Any, /) -> None:
        """Take the reply."""

    def set_exception(self, exception: Exception, /) -> None:
        """Take the error."""


Command = tuple[Any, ...]
Sent = tuple[Command, Waiter]


class Batch:
    """Calls of one script for one shard, each with what waits for its reply."""

    def __init__(self, script: str, calls: list[Sent], send: Callable[[list[Sent]], None]) -> None:
        self._script = script
        self.calls = calls
        self._send = send

    def command(self, *, by_text: bool = False) -> Command:
        """Return the command that executes all calls."""
        prefix = self.calls[0][0][3]
        keys: list[Any] = []
        sizes: list[int] = []
        args: list[Any] = []
        for (_, _, count, *rest), _ in self.calls:
            keys += rest[1:count]
            args += rest[count:]
            sizes += (count - 1, len(rest) - count)
        text, digest = source(self._script, batch=True)
        call = ("EVAL", text) if by_text else ("EVALSHA", digest)
        return (*call, 1 + len(keys), prefix, *keys, len(self.calls), *sizes, *args)

    def done(self) -> bool:
        """Return True when no call waits for its reply any more."""
        return all(waiter.done() for _, waiter in self.calls)

    def set_result(self, replies: list[Any], /) -> None:
        """Give each call its reply."""
        for (_, waiter), reply in zip(self.calls, replies, strict=True):
            if waiter.done():
                continue
            if isinstance(reply, ReplyError):
                waiter.set_exception(reply)
            else:
                waiter.set_result(reply)

    def set_exception(self, error: Exception, /) -> None:
        """Fail all calls, unless the server only lacks the script."""
        if isinstance(error, ReplyError) and error.code == "NOSCRIPT":
            self._send([(self.command(by_text=True), self)])
            return
        for _, waiter in self.calls:
            if not waiter.done():
                waiter.set_exception(error)


def in_batches(commands: list[Sent], send: Callable[[list[Sent]], None]) -> list[Sent]:
    """Return the commands with neighbouring calls of one script in batches.

    `send` sends a batch again, with its text, to a server that lacks it.
    """
    if len(commands) == 1:
        return commands
    found: list[Sent] = []
    for key, group in itertools.groupby(commands, _batch_of):
        calls = list(group)
        if key is None or len(calls) == 1:
            found += calls
            continue
        for start in range(0, len(calls), _MOST_CALLS):
            batch = Batch(key[0], calls[start : start + _MOST_CALLS], send)
            found.append((batch.command(), batch))
    return found


def _batch_of(sent: Sent) -> tuple[str, str] | None:
    """Return script and shard of a call that may share a batch; None for any other command."""
    command, waiter = sent
    if command[0] != "EVALSHA" or waiter.done():
        return None
    script = batched_script(command[1])
    if script is None or any(len(x) > _MOST_BYTES for x in command if isinstance(x, bytes | str)):
        return None
    return script, command[3]
