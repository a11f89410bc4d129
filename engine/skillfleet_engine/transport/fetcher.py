"""Fetches messages: claims up to the free slots, then blocks until a list has one.

**Claiming.** One script (claim_and_ack.lua) pops as many messages as the consumer has slots for
and records them as unacknowledged, in one step: a message is always in a list or in that record.
The same call removes what was acknowledged since the last poll, so a busy worker sends one command
for many messages.

**Waiting.** When the lists are empty, a message has to wake one idle worker at once, although
clients only push it with a plain LPUSH. Of Redis's blocking commands
- BRPOP and BLMPOP wait for many lists at once, but they pop: a message is lost when its reply does
  not arrive (a killed worker, a cut connection; a host that vanished loses one message after the
  other until its blocking ends). kombu's own transport has that gap;
- BLMOVE from a list to itself loses nothing, but wakes every waiting worker for each message
  (10 of 10, measured), because each move makes the list ready for the next one;
- BLMOVE to *another* list loses nothing and wakes exactly one (1 of 10, measured: Redis serves
  the client that waits longest, and the list is empty again). It waits for one list only.
So there is one connection per list (queue and priority), blocked in a BLMOVE to the list's `woken`
list. The worker that wakes up runs a claim, which first moves woken messages back to the head of
their list and then takes as many as there are free slots; what it leaves there wakes the next
worker. When a worker dies after a BLMOVE, the message stays in the `woken` list until the next
claim of any worker with this transport. An idle worker makes one every `wakeup_timeout`, which
bounds the delay and is the only cost of idling. While there is no free slot, nothing is armed.

**A lost claim.** The reply to a claim may be lost with its connection after the messages moved.
All messages of a claim have its time as their score, so they are found and requeued after the
reconnect.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery.exceptions import ImproperlyConfigured
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from skillfleet_engine.transport.redis_socket import BROKEN, RedisSocket, RefusedError
from skillfleet_engine.transport.scripts import digest, source


@dataclass(frozen=True, slots=True)
class Sent:
    """A poll whose reply is due, with the queues in the order of its keys."""

    arguments: tuple[Any, ...]
    wanted: int
    at: float
    queues: tuple[str, ...]
    tags: list[str]


class MessageFetcher:
    """The connections of one channel and the replies due on them; one thread at a time.

    `watch(socket, fetcher)` and `unwatch(socket)` have the event hub or the poller call `receive`
    when the socket is readable. A broken connection raises; all are closed then, their unconfirmed
    work is in the channel's `pending_acks`, and the next `poll` opens new ones.
    """

    def __init__(
        self,
        channel: Any,
        watch: Callable[[RedisSocket, "MessageFetcher"], None],
        unwatch: Callable[[RedisSocket], None],
    ) -> None:
        self.channel = channel
        self._watch, self._unwatch = watch, unwatch
        self._main: RedisSocket | None = None
        self._waits: dict[str, RedisSocket] = {}
        self._sent: deque[Sent] = deque()
        self._claiming = False
        self._delivered = False
        # Messages may be in the lists, or in their `woken` lists.
        self._may_have_messages = self._woken = True

    @property
    def is_open(self) -> bool:
        """True while there is a connection to send acknowledgements on."""
        return self._main is not None

    def poll(self, slots: int) -> None:
        """Send what is due: acknowledgements, a claim for `slots` messages, or blocking waits."""
        try:
            self._check_health()
            queues = self.channel.queues_round_robin()
            pending_acks = self.channel.pending_acks
            if self._main is None and (queues or pending_acks.acknowledged):
                self._main = self._open_main()
            if slots <= 0:
                # Without a blocking wait, messages that arrive meanwhile go unnoticed.
                self._may_have_messages = True
            take = slots if self._may_have_messages and not self._claiming and queues else 0
            put_back = self._woken and not self._claiming and bool(queues)
            tags = pending_acks.take_acknowledged()
            if take > 0 or put_back or tags:
                self._send(queues, max(take, 0), tags, put_back=put_back)
            elif slots > 0 and not self._may_have_messages and not self._claiming:
                self._arm_after_delivery(queues)
        except BROKEN:
            self.abandon()
            raise

    def receive(self, socket: RedisSocket) -> int:
        """Read the replies of a socket; return the number of messages delivered."""
        try:
            replies = socket.receive()
        except BROKEN:
            self.abandon()
            raise
        if socket is not self._main:
            for reply in replies:
                if isinstance(reply, ResponseError):
                    self._fail(reply)
                self._woken = self._may_have_messages = True
            return 0
        polls = self._confirmed(replies)
        for sent, (claimed, refused) in polls:
            try:
                self._delivered = self._delivered or bool(claimed)
                self.channel.deliver(sent.queues, claimed, refused)
            except BaseException:
                # Only one claim is in flight at a time: this one.
                self.channel.pending_acks.unconfirmed_claims.add(sent.at)
                raise
        return sum(len(claimed) // 3 for _, (claimed, _) in polls)

    def queues_added(self) -> None:
        """Check all queues again before the next wait."""
        self._may_have_messages = self._woken = True

    def leave(self, queues: tuple[str, ...], seconds: float) -> None:
        """Stop fetching from these queues, and requeue what was claimed meanwhile.

        Waits at most `seconds` for a claim in flight.
        """
        if not queues:
            return
        channel = self.channel
        try:
            for key in channel.keys.lists(queues):
                if (wait := self._waits.pop(key, None)) is not None:
                    # The server must not serve this wait any more when the messages are put back.
                    channel.plain_client.client_unblock(wait.id)
                    self._close_socket(wait)
            while self._claiming and self._main is not None:
                for reply in self._main.wait(seconds):
                    sent = self._confirm(reply)
                    if sent.wanted and reply[0]:
                        channel.pending_acks.unconfirmed_claims.add(sent.at)
            channel.qos.requeue_pending()
            arguments = channel.keys.claim_arguments(queues, 0, 0.0, [], put_back=True)
            channel.plain_client.eval(source("claim_and_ack"), *arguments)
        except BROKEN:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Close all connections; their unconfirmed work moves to `pending_acks`."""
        pending_acks = self.channel.pending_acks
        for sent in self._sent:
            for tag in sent.tags:
                pending_acks.acknowledge(tag)
            if sent.wanted:
                pending_acks.unconfirmed_claims.add(sent.at)
        self._sent.clear()
        self._claiming = False
        self._may_have_messages = self._woken = True
        main, self._main = self._main, None
        for socket in [*self._waits.values(), *([main] if main else [])]:
            self._close_socket(socket)
        self._waits.clear()

    def forget(self) -> None:
        """Drop the parent's connections without closing them, in a forked child."""
        self._main, self._waits = None, {}
        self._sent.clear()

    def _send(self, queues: tuple[str, ...], take: int, tags: list[str], *, put_back: bool) -> None:
        channel = self.channel
        now = time.time()
        arguments = channel.keys.claim_arguments(queues, take, now, tags, put_back=put_back)
        sent = Sent(arguments, take, now, queues, tags)
        # Recorded first, so that nothing is forgotten when sending fails.
        self._sent.append(sent)
        self._claiming = self._claiming or take > 0
        if self._main is not None:
            self._main.send("EVALSHA", digest("claim_and_ack"), *arguments)
        if put_back:
            self._woken = False

    def _open_main(self) -> RedisSocket:
        # Before the first acknowledgement: what is acknowledged by then must not be requeued.
        self.channel.qos.requeue_pending()
        return self._open()

    def _open(self) -> RedisSocket:
        socket = RedisSocket(self.channel.new_connection())
        self._watch(socket, self)
        return socket

    def _close_socket(self, socket: RedisSocket) -> None:
        self._unwatch(socket)
        socket.close()

    def _arm_after_delivery(self, queues: tuple[str, ...]) -> None:
        """Start the blocking waits, after the tasks just delivered had their first turn."""
        delivered, self._delivered = self._delivered, False
        if not (delivered and self.channel.poll_after_coroutines()):
            self._arm_waits(queues)

    def _arm_waits(self, queues: tuple[str, ...]) -> None:
        for key in self.channel.keys.lists(queues):
            wait = self._waits.get(key)
            if wait is None:
                wait = self._waits[key] = self._open()
            if not wait.due:
                seconds = self.channel.wakeup_timeout
                wait.send("BLMOVE", key, self.channel.keys.woken(key), "RIGHT", "LEFT", seconds)

    def _confirmed(self, replies: list[Any]) -> list[tuple[Sent, Any]]:
        """Return the polls that the replies answer, each with its reply."""
        confirmed = []
        for reply in replies:
            if isinstance(reply, ResponseError) and str(reply).startswith("NOSCRIPT"):
                self._repeat()
            else:
                confirmed.append((self._confirm(reply), reply))
        return confirmed

    def _confirm(self, reply: Any) -> Sent:
        if isinstance(reply, ResponseError):
            self._fail(reply)
        sent = self._sent.popleft()
        if sent.wanted:
            self._claiming = False
            came = (len(reply[0]) + len(reply[1])) // 3
            self._may_have_messages = self._woken or came >= sent.wanted
        return sent

    def _repeat(self) -> None:
        """Send a poll again, in order, with the script that the server does not know yet."""
        if self._main is not None:
            sent = self._sent.popleft()
            self._sent.append(sent)
            self._main.send("EVAL", source("claim_and_ack"), *sent.arguments)

    def _fail(self, reply: ResponseError) -> None:
        """Raise for a command that Redis refused: loading, failing over, read-only, or too old."""
        self.abandon()
        if "unknown command" in str(reply):
            raise ImproperlyConfigured(f"the broker needs Redis 6.2 or Valkey: {reply}") from reply
        raise RefusedError(f"Redis refused: {reply}") from reply

    def _check_health(self) -> None:
        """Raise when a reply is overdue: a half-open connection never reports an error."""
        patience = self.channel.health_check_interval or self.channel.socket_timeout
        if not patience:
            return
        now = time.monotonic()
        sockets = [(socket, self.channel.wakeup_timeout) for socket in self._waits.values()]
        if self._main is not None:
            sockets.append((self._main, 0.0))
        for socket, blocked in sockets:
            if (
                socket.due
                and now - socket.waiting_since > blocked + patience
                and not socket.readable
            ):
                raise RedisConnectionError(f"Redis gave no reply for {patience:g} s")
