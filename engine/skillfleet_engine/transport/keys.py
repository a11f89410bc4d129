"""The Redis keys of a channel, with its prefix: kombu's names, and two additional ones."""

from functools import cached_property
from typing import Any


class Keys:
    """The keys of one channel, whose options must not change afterwards."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._lists: dict[tuple[str, ...], tuple[str, ...]] = {}

    @cached_property
    def unacked(self) -> str:
        """The hash of unacknowledged messages."""
        return self.full(self._channel.unacked_key)

    @cached_property
    def index(self) -> str:
        """The sorted set of unacknowledged messages by the time of delivery."""
        return self.full(self._channel.unacked_index_key)

    @cached_property
    def undecodable(self) -> str:
        """The list of undecodable messages."""
        return self.full(self._channel.undecodable_key)

    def full(self, name: str) -> str:
        """Return a key's full name."""
        return f"{self._channel.global_keyprefix}{name}"

    def list_of(self, queue: str, priority: int) -> str:
        """Return the list of a queue for a priority."""
        return self.full(self._channel._q_for_pri(queue, priority))  # noqa: SLF001

    def woken(self, key: str) -> str:
        """Return the list to which blocking waits move the messages of `key`."""
        return f"{key}{self._channel.sep}woken"

    def lists(self, queues: tuple[str, ...]) -> tuple[str, ...]:
        """Return the lists of queues: most urgent level first, then in the queues' order."""
        found = self._lists.get(queues)
        if found is None:
            steps = self._channel.priority_steps
            found = tuple(self.list_of(queue, step) for step in steps for queue in queues)
            self._lists[queues] = found
        return found

    def claim_arguments(
        self, queues: tuple[str, ...], slots: int, at: float, tags: list[str], *, put_back: bool
    ) -> tuple[Any, ...]:
        """Return the number of keys, the keys and the arguments of claim_and_ack.lua."""
        lists = [key for each in self.lists(queues) for key in (each, self.woken(each))]
        keys = (self.unacked, self.index, self.undecodable, *lists)
        channel = self._channel
        fair = int(channel.queue_order_strategy == "round_robin")
        order = (slots, repr(at), int(put_back), fair, len(queues))
        limits = (channel.undecodable_limit, channel.max_message_bytes)
        return (len(keys), *keys, *order, *limits, *tags)
