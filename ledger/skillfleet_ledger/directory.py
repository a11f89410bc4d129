"""The directory of agents: cards that live workers renew, in shard 0."""

import logging
from collections.abc import Iterable, Sequence

from pydantic import ValidationError

from skillfleet.contracts import AgentCard
from skillfleet_ledger.redis_client.clock import redis_now_ms
from skillfleet_ledger.redis_client.connection import Connection
from skillfleet_ledger.settings import Settings

logger = logging.getLogger(__name__)


class Directory:
    """The agents and their live workers; an agent is listed while one worker's heartbeat lasts."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        prefix = settings.keyspace.shard_prefix(0)
        self._cards = f"{prefix}cards"
        self._serving = f"{prefix}serving"
        self._workers = f"{prefix}workers"

    async def publish(self, worker: str, cards: Sequence[AgentCard], lifetime_ms: int) -> None:
        """List the cards of a worker's agents for `lifetime_ms` milliseconds."""
        if not cards:
            return
        now = await self.now_ms()
        fields = [part for card in cards for part in (_entry(card), card.model_dump_json())]
        scores = [
            part for card in cards for part in (now + lifetime_ms, f"{_entry(card)}|{worker}")
        ]
        await self._connection.execute("HSET", self._cards, *fields)
        await self._connection.execute("ZADD", self._serving, *scores)

    async def withdraw(self, worker: str, cards: Sequence[AgentCard]) -> None:
        """Take the worker's agents off the list at once."""
        if cards:
            members = [f"{_entry(card)}|{worker}" for card in cards]
            await self._connection.execute("ZREM", self._serving, *members)

    async def agents(self) -> list[AgentCard]:
        """Return the cards of all live agents, by name and version."""
        entries = await self._live()
        if not entries:
            return []
        cards = await self._connection.execute("HMGET", self._cards, *entries)
        return sorted(_readable(cards), key=lambda card: card.order)

    async def live(self) -> set[tuple[str, str]]:
        """Return names and versions of all live agents."""
        parts = [entry.partition("|") for entry in await self._live()]
        return {(name, version) for name, _, version in parts}

    async def _live(self) -> set[str]:
        now = await self.now_ms()
        serving = await self._connection.execute("ZRANGEBYSCORE", self._serving, now, "+inf")
        return {member.decode().rpartition("|")[0] for member in serving}

    async def catalogue(self) -> list[AgentCard]:
        """Return the cards of all agents served within the last day, even without a worker now.

        So a fleet that is scaled to zero still knows its skills.
        """
        cards = await self._connection.execute("HVALS", self._cards)
        return _readable(cards)

    async def prune(self) -> None:
        """Remove agents that no worker has served for a day."""
        now = await self.now_ms()
        await self._connection.execute("ZREMRANGEBYSCORE", self._serving, "-inf", now - 86_400_000)
        # Cards are read before servers, so that one published in between is not taken for stale.
        listed = await self._connection.execute("HKEYS", self._cards)
        serving = await self._connection.execute("ZRANGE", self._serving, 0, -1)
        alive = {member.rpartition(b"|")[0] for member in serving}
        if stale := [entry for entry in listed if entry not in alive]:
            await self._connection.execute("HDEL", self._cards, *stale)

    async def workers(self) -> list[str]:
        """Return names of all worker processes whose heartbeat lasts."""
        now = await self.now_ms()
        names = await self._connection.execute("ZRANGEBYSCORE", self._workers, now, "+inf")
        return [name.decode() for name in names]

    async def now_ms(self) -> int:
        """Return Redis time, milliseconds since the epoch."""
        return await redis_now_ms(self._connection)


def _readable(cards: Iterable[bytes | None]) -> list[AgentCard]:
    """Return the readable cards: one that another version wrote must not hide the others."""
    found = []
    for card in cards:
        try:
            found += [AgentCard.model_validate_json(card)] if card is not None else []
        except ValidationError as error:
            logger.warning("a card in the directory is unreadable: %s", error)
    return found


def _entry(card: AgentCard) -> str:
    return f"{card.name}|{card.version}"
