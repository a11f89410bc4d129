"""How a channel gets its messages: it claims when it has room, and waits at doorbells.

**Claiming.** One script (claim_and_ack.lua) pops up to as many messages as the consumer has room
for and records them as unacknowledged, in one step: there is no moment at which a message is nowhere.
It also removes what was acknowledged since the last turn, so a busy worker sends one command for
many messages.

**Waiting.** When the lists are empty, a message must wake one idle worker, at once, whoever
pushed it with a plain LPUSH. Of Redis's blocking commands
- BRPOP and BLMPOP wait for many lists at once, but they pop: a message is lost when its reply does
  not arrive (a killed worker, a cut connection; a node that vanished loses one push after the
  other until its blocking ends). kombu's own transport has that gap;
- BLMOVE from a list to itself loses nothing, but wakes every waiting worker for each message
  (10 of 10, measured), as each move makes the list ready for the next;
- BLMOVE to *another* list loses nothing and wakes exactly one (1 of 10, measured: Redis serves
  the one that waits longest, and the list is empty again). It waits for one list only.
So there is one connection for each list (queue and priority), blocked in a BLMOVE to the list's
`rung` neighbour: its doorbell. Whoever is woken runs a claim, which puts rung messages back to
the head of their list first and then takes what it has room for; what it leaves there wakes the
next worker. A message that is rung while its worker dies lies in the neighbour until the next
claim of any worker of ours: an idle worker makes one every `doorbell_seconds`, which bounds the
delay and is all that idling costs. While there is no room, doorbells that rang stay silent.

**A lost claim.** The reply of a claim may be lost with its connection, though the messages moved.
All messages of a claim have its time as their score, and so are found and put back after the
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

from skillfleet_engine.transport.redis_socket import BROKEN, Line, RefusedError
from skillfleet_engine.transport.scripts import digest, source

RUNG = "rung"


@dataclass(frozen=True, slots=True)
class Sent:
    """A turn whose reply is due, with the queues in the order in which it looked into them."""

    arguments: tuple[Any, ...]
    wanted: int
    at: float
    queues: tuple[str, ...]
    tags: list[str]


class Intake:
    """The connections of one channel and what is due on them; one thread at a time.

    `watch(line, intake)` and `unwatch(line)` have the event hub or the poller call `receive`
    when the line is readable. Broken connections raise; all of them are closed then, what they
    owed is in the channel's `unsettled`, and the next `turn` opens new ones.
    """

    def __init__(
        self,
        channel: Any,
        watch: Callable[[Line, "Intake"], None],
        unwatch: Callable[[Line], None],
    ) -> None:
        self.channel = channel
        self._watch, self._unwatch = watch, unwatch
        self._main: Line | None = None
        self._bells: dict[str, Line] = {}
        self._sent: deque[Sent] = deque()
        self._claiming = False
        self._delivered = False
        # Something may be in the lists, or in their neighbours.
        self._hungry = self._rung = True

    @property
    def is_open(self) -> bool:
        """True while there is a connection that acknowledgements can leave on."""
        return self._main is not None

    def turn(self, room: int) -> None:
        """Send what is due: acknowledgements, a claim for `room` messages, waits at doorbells."""
        try:
            self._check_health()
            queues = self.channel.queues_in_turn()
            unsettled = self.channel.unsettled
            if self._main is None and (queues or unsettled.acknowledged):
                self._main = self._open_main()
            if room <= 0:
                # Without an armed doorbell nobody tells what arrives meanwhile.
                self._hungry = True
            take = room if self._hungry and not self._claiming and queues else 0
            put_back = self._rung and not self._claiming and bool(queues)
            tags = unsettled.take_acknowledged()
            if take > 0 or put_back or tags:
                self._send(queues, max(take, 0), tags, put_back=put_back)
            elif room > 0 and not self._hungry and not self._claiming:
                self._arm_after_delivery(queues)
        except BROKEN:
            self.abandon()
            raise

    def receive(self, line: Line) -> int:
        """Read what came on a line; the number of messages that were delivered."""
        try:
            replies = line.receive()
        except BROKEN:
            self.abandon()
            raise
        if line is self._main:
            return self._on_turns(replies)
        for reply in replies:
            if isinstance(reply, ResponseError):
                self._fail(reply)
            self._rung = self._hungry = True
        return 0

    def queues_added(self) -> None:
        """Look into all queues again before the next wait."""
        self._hungry = self._rung = True

    def leave(self, queues: tuple[str, ...], seconds: float) -> None:
        """Take nothing more from these queues, and give back what was asked for meanwhile.

        Waits for a claim under way, at most `seconds`.
        """
        if not queues:
            return
        channel = self.channel
        try:
            for key in channel.keys.lists(queues):
                if (bell := self._bells.pop(key, None)) is not None:
                    # The server must not serve it any more when the messages are put back.
                    channel.plain_client.client_unblock(bell.id)
                    self._close_line(bell)
            while self._claiming and self._main is not None:
                for reply in self._main.wait(seconds):
                    sent = self._settle(reply)
                    if sent.wanted and reply[0]:
                        channel.unsettled.unseen_claims.add(sent.at)
            channel.qos.restore_abandoned()
            arguments = channel.keys.turn(queues, 0, 0.0, [], put_back=True)
            channel.plain_client.eval(source("claim_and_ack"), *arguments)
        except BROKEN:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Close all connections; what they owed is owed by the process from now on."""
        unsettled = self.channel.unsettled
        for sent in self._sent:
            for tag in sent.tags:
                unsettled.acknowledge(tag)
            if sent.wanted:
                unsettled.unseen_claims.add(sent.at)
        self._sent.clear()
        self._claiming = False
        self._hungry = self._rung = True
        main, self._main = self._main, None
        for line in [*self._bells.values(), *([main] if main else [])]:
            self._close_line(line)
        self._bells.clear()

    def forget(self) -> None:
        """In a forked child: leave the parent's connections alone."""
        self._main, self._bells = None, {}
        self._sent.clear()

    def _send(self, queues: tuple[str, ...], take: int, tags: list[str], *, put_back: bool) -> None:
        channel = self.channel
        now = time.time()
        arguments = channel.keys.turn(queues, take, now, tags, put_back=put_back)
        sent = Sent(arguments, take, now, queues, tags)
        # Noted first: should sending fail, nothing of it is forgotten.
        self._sent.append(sent)
        self._claiming = self._claiming or take > 0
        if self._main is not None:
            self._main.send("EVALSHA", digest("claim_and_ack"), *arguments)
        if put_back:
            self._rung = False

    def _open_main(self) -> Line:
        # Before anything is acknowledged on it: what is settled by then must not come back.
        self.channel.qos.restore_abandoned()
        return self._open()

    def _open(self) -> Line:
        line = Line(self.channel.new_connection())
        self._watch(line, self)
        return line

    def _close_line(self, line: Line) -> None:
        self._unwatch(line)
        line.close()

    def _arm_after_delivery(self, queues: tuple[str, ...]) -> None:
        """Wait at the doorbells; what was just delivered begins first."""
        delivered, self._delivered = self._delivered, False
        if not (delivered and self.channel.turn_after_coroutines()):
            self._arm(queues)

    def _arm(self, queues: tuple[str, ...]) -> None:
        for key in self.channel.keys.lists(queues):
            bell = self._bells.get(key)
            if bell is None:
                bell = self._bells[key] = self._open()
            if not bell.due:
                seconds = self.channel.doorbell_seconds
                bell.send("BLMOVE", key, self.channel.keys.rung(key), "RIGHT", "LEFT", seconds)

    def _on_turns(self, replies: list[Any]) -> int:
        settled = []
        for reply in replies:
            if isinstance(reply, ResponseError) and str(reply).startswith("NOSCRIPT"):
                self._repeat()
            else:
                settled.append((self._settle(reply), reply))
        for sent, (claimed, refused) in settled:
            try:
                self._delivered = self._delivered or bool(claimed)
                self.channel.hand_over(sent.queues, claimed, refused)
            except BaseException:
                # Only one claim is under way at a time: this one.
                self.channel.unsettled.unseen_claims.add(sent.at)
                raise
        return sum(len(claimed) // 3 for _, (claimed, _) in settled)

    def _settle(self, reply: Any) -> Sent:
        if isinstance(reply, ResponseError):
            self._fail(reply)
        sent = self._sent.popleft()
        if sent.wanted:
            self._claiming = False
            came = (len(reply[0]) + len(reply[1])) // 3
            self._hungry = self._rung or came >= sent.wanted
        return sent

    def _repeat(self) -> None:
        """The server does not know the script: what it refused is sent again, in its order."""
        if self._main is not None:
            sent = self._sent.popleft()
            self._sent.append(sent)
            self._main.send("EVAL", source("claim_and_ack"), *sent.arguments)

    def _fail(self, reply: ResponseError) -> None:
        """Redis refused a command: loading, failing over, read-only, or too old."""
        self.abandon()
        if "unknown command" in str(reply):
            raise ImproperlyConfigured(f"the broker needs Redis 6.2 or Valkey: {reply}") from reply
        raise RefusedError(f"Redis refused: {reply}") from reply

    def _check_health(self) -> None:
        """Give up connections that owe a reply for too long (half-open ones never tell)."""
        patience = self.channel.health_check_interval or self.channel.socket_timeout
        if not patience:
            return
        now = time.monotonic()
        lines = [(line, self.channel.doorbell_seconds) for line in self._bells.values()]
        if self._main is not None:
            lines.append((self._main, 0.0))
        for line, blocked in lines:
            if line.due and now - line.waiting_since > blocked + patience and not line.readable:
                raise RedisConnectionError(f"Redis gave no reply for {patience:g} s")
