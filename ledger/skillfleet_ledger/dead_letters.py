"""Messages that no run could be made of: the newest 10,000, each with its reason."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from skillfleet.contracts import from_millis
from skillfleet_ledger.redis_client.connection import Connection
from skillfleet_ledger.settings import Settings

_MOST = 10_000
_MOST_BYTES = 16 * 1024


class DeadLetter(BaseModel):
    """A refused message: the reason, the time, and the start of its body as text."""

    model_config = ConfigDict(frozen=True)

    id: str
    reason: str
    body: str
    at: datetime


class DeadLetters:
    """The dead letters of messages that could not be decoded."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._key = f"{settings.keyspace.shard_prefix(0)}dead_letters"

    async def add(self, reason: str, body: bytes) -> None:
        """Keep a message, with the first 16 KiB of its body."""
        await self._connection.execute(
            "XADD",
            self._key,
            "MAXLEN",
            "~",
            _MOST,
            "*",
            "reason",
            reason,
            "body",
            body[:_MOST_BYTES],
        )

    async def list(self, limit: int = 50) -> list[DeadLetter]:
        """Return the refused messages, newest first."""
        entries = await self._connection.execute("XREVRANGE", self._key, "+", "-", "COUNT", limit)
        return [_message(entry_id, fields) for entry_id, fields in entries]

    async def purge(self) -> int:
        """Delete all of them and return how many there were."""
        count = await self._connection.execute("XLEN", self._key)
        await self._connection.execute("DEL", self._key)
        return int(count)


def _message(entry_id: bytes, fields: list[bytes]) -> DeadLetter:
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    return DeadLetter(
        id=entry_id.decode(),
        reason=values[b"reason"].decode(),
        body=values[b"body"].decode(errors="replace"),
        at=from_millis(int(entry_id.split(b"-")[0])),
    )
