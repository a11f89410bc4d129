"""Commands that wait in Redis for something to come, such as XREAD with BLOCK.

Redis answers the commands of a connection in order, so each that waits has one of its own.
"""

from typing import Any

from skillfleet.errors import FleetUnavailableError
from skillfleet_ledger.connection import PipelinedConnection


class WaitingReads:
    """A pool of connections for commands that wait. Belongs to one event loop.

    `timeout` is the longest silence in seconds before a connection counts as broken: longer
    than any command waits.
    """

    def __init__(self, url: str, *, timeout: float, name: str) -> None:
        self._url = url
        self._timeout = timeout
        self._name = name
        self._idle: list[PipelinedConnection] = []
        self._busy: set[PipelinedConnection] = set()
        self._closed = False

    async def execute(self, *command: Any) -> Any:
        """Send one command and return its reply, however late that comes.

        Raises ReplyError, and ConnectionError when the connection breaks before the reply. Who
        is cancelled takes the connection along: the reply that is due would be the next one's.
        """
        if self._closed:
            raise FleetUnavailableError("this connection to Redis was closed")
        connection = self._idle.pop() if self._idle else self._new()
        self._busy.add(connection)
        try:
            reply = await connection.call(*command)
        except BaseException:
            connection.abort()
            raise
        else:
            self._idle.append(connection)
        finally:
            self._busy.discard(connection)
        return reply

    async def close(self) -> None:
        """Close all connections; commands that still wait fail."""
        self._closed = True
        for connection in self._busy:
            connection.abort()
        while self._idle:
            await self._idle.pop().close()

    def _new(self) -> PipelinedConnection:
        return PipelinedConnection(self._url, timeout=self._timeout, name=self._name)
