"""Connections for commands that wait in Redis, such as XREAD with BLOCK.

Redis answers the commands of a connection in order, so each waiting command has its own.
"""

from typing import Any

from skillfleet.errors import FleetClosedError
from skillfleet_ledger.redis_client.connection import PipelinedConnection
from skillfleet_ledger.redis_client.loops import LoopOwner
from skillfleet_ledger.redis_client.protocol import Endpoint


class BlockingReadPool:
    """A pool of connections for commands that wait. Belongs to one event loop.

    `timeout` is the longest silence in seconds before a connection counts as broken: longer
    than any command waits. `patient` and `owner` as for PipelinedConnection.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        name: str,
        patient: bool = False,
        owner: LoopOwner | None = None,
    ) -> None:
        self._url = url
        self._timeout = timeout
        self._name = name
        self._patient = patient
        self._endpoint = Endpoint(url, timeout, patient=patient)
        self._owner = owner or LoopOwner()
        self._idle: list[PipelinedConnection] = []
        self._busy: set[PipelinedConnection] = set()
        self._closed = False

    async def execute(self, *command: Any) -> Any:
        """Send one command and return its reply, however late it comes.

        Raises ReplyError, ConnectionError when the connection breaks before the reply, and
        WrongLoopError. Cancellation closes the connection, since the pending reply would be taken
        for that of the next command.
        """
        if self._closed:
            raise FleetClosedError("this connection of the fleet was closed: make a new fleet")
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

    def judge(self, error: Exception) -> None:
        """Return when the command may be tried again; raise what the caller must know otherwise."""
        self._endpoint.judge(error)

    async def close(self) -> None:
        """Close all connections; commands that still wait fail. Raises WrongLoopError."""
        self._closed = True
        for connection in tuple(self._busy):
            connection.abort()
        while self._idle:
            await self._idle.pop().close()

    def _new(self) -> PipelinedConnection:
        return PipelinedConnection(
            self._url,
            timeout=self._timeout,
            name=self._name,
            patient=self._patient,
            owner=self._owner,
        )
