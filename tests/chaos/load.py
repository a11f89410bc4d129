"""Runs of all kinds, and how each of them has to end."""

import asyncio
import random
import re
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from skillfleet.contracts import RunEvent, RunState
from skillfleet.errors import FleetUnavailableError
from skillfleet_producer import AsyncFleet, Settings
from skillfleet_producer.fleet_async import AsyncRunHandle
from tests.chaos.harness import REDIS_TIMEOUT_SECONDS
from tests.chaos.plain import Plain, PlainClient
from tests.support.proxy import Proxy, Trap

# An enqueue may ask Redis twice before it writes the record, and then another broker.
ENQUEUE_SECONDS = 4 * REDIS_TIMEOUT_SECONDS + 1
_FOLLOWED = 0.3


CHILD_SECONDS = 40.0
"""How long the call lasts that a caller leaves behind: far longer than it may live on."""


@dataclass(frozen=True)
class Order:
    """One run to be made. `cancel_after` seconds after it was accepted, it is cancelled.

    When `dies`, by one whose first request is answered, and who does nothing any more then. A
    `plain` one is sent by Celery alone.
    """

    skill: str
    args: Mapping[str, Any]
    state: RunState = RunState.SUCCEEDED
    value: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    cancel_after: float | None = None
    dies: bool = False
    plain: Plain | None = None


@dataclass
class Made:
    """A run that was accepted; `followed` are the events a reader saw, resuming again and again.

    `cancelled_at` is when its cancellation was taken, in monotonic nanoseconds.
    """

    order: Order
    followed: list[RunEvent] | None = None
    cancelled_at: int | None = None


def draw_orders(dice: random.Random, journal: str, seconds: float, rate: float) -> list[Order]:
    """Orders for a round of some length, `rate` a second."""
    # Many long ones: what breaks should find them at work.
    makers = [_quick, _long, _long, _long, _long, _stream, _stream, _write, _parent, _flaky]
    makers += [_cancelled, _cancelled, _delayed, _overdue]
    makers += [_leaving, _leaving, _leaving, _plain, _plain, _limited]
    orders = [dice.choice(makers)(dice, journal) for _ in range(int(seconds * rate))]
    # Rare: while they hold the thread, all other runs of their process wait.
    blocked = {"journal": journal, "seconds": 1.5}
    for place in range(len(orders) // 40 + 1):
        orders[place * 40 % len(orders)] = Order("chaos.block", blocked, value=1.5)
    return orders


def _quick(dice: random.Random, journal: str) -> Order:
    return _sleeper(journal, dice.uniform(0, 0.2))


def _long(dice: random.Random, journal: str) -> Order:
    return _sleeper(journal, dice.uniform(5, 10))


def _sleeper(journal: str, seconds: float, **more: Any) -> Order:
    return Order("chaos.sleep", {"journal": journal, "seconds": seconds}, value=seconds, **more)


def _stream(dice: random.Random, journal: str) -> Order:
    count, pause = dice.choice([(400, 0.002), (40, 0.1), (1500, 0)])
    args = {"journal": journal, "count": count, "pause": pause}
    return Order("chaos.stream", args, value=count)


def _write(dice: random.Random, journal: str) -> Order:
    size = dice.choice([10, 70_000, 600_000])
    return Order("chaos.write", {"journal": journal, "size": size}, value=size)


def _parent(dice: random.Random, journal: str) -> Order:
    args = {"journal": journal, "children": 3, "seconds": 0.5}
    return Order("chaos.parent", args, value=1.5)


def _flaky(dice: random.Random, journal: str) -> Order:
    return Order("chaos.flaky", {"journal": journal}, value="at last")


def _cancelled(dice: random.Random, journal: str) -> Order:
    args = {"journal": journal, "children": 3, "seconds": 600}
    state = RunState.CANCELLED
    if dice.random() < 0.5:
        after, dies = dice.uniform(0, 4), dice.random() < 0.5
        return Order("chaos.parent", args, state, cancel_after=after, dies=dies)
    args = {"journal": journal, "seconds": 600}
    options = {"delay": 300} if dice.random() < 0.2 else {}
    return Order("chaos.sleep", args, state, None, options, dice.uniform(0, 4))


def _delayed(dice: random.Random, journal: str) -> Order:
    return _sleeper(journal, 0.1, options={"delay": dice.uniform(0.5, 5)})


def _overdue(dice: random.Random, journal: str) -> Order:
    args = {"journal": journal, "seconds": 600}
    options = {"timeout": dice.uniform(0.5, 5)}
    return Order("chaos.sleep", args, RunState.TIMED_OUT, options=options)


def _leaving(dice: random.Random, journal: str) -> Order:
    ways = ["return", "fire and forget", "first completed", "raise out of gather"]
    args = {"journal": journal, "how": dice.choice(ways), "seconds": dice.uniform(0.2, 3)}
    args["child_seconds"] = CHILD_SECONDS
    if args["how"] == "raise out of gather":
        return Order("chaos.leave", args, RunState.FAILED)
    return Order("chaos.leave", args, value=args["how"])


def _plain(dice: random.Random, journal: str) -> Order:
    plain = Plain(dice.choice(["link", "chain"]))
    if dice.random() < 0.4:
        return Order("chaos.flaky", {"journal": journal}, value="at last", plain=plain)
    return _sleeper(journal, dice.uniform(0, 6), plain=plain)


def _limited(dice: random.Random, journal: str) -> Order:
    limit = dice.choice(["time_limit", "soft_time_limit"])
    plain = Plain(dice.choice(["link", None]), {limit: dice.randint(1, 3)})
    args = {"journal": journal, "seconds": CHILD_SECONDS}
    return Order("chaos.sleep", args, RunState.TIMED_OUT, plain=plain)


class Load:
    """Producers: enqueue, cancel and follow, and do not give up while Redis is away.

    `port` is the server's own, to which cancellers that die have ways of their own.
    """

    def __init__(self, url: str, port: int, dice: random.Random, **broker: str) -> None:
        self._settings = Settings.load(
            redis_url=url,
            redis_timeout_seconds=REDIS_TIMEOUT_SECONDS,
            max_deliveries=1000,
            **broker,
        )
        self.fleet = AsyncFleet(settings=self._settings)
        self._plain = PlainClient(url, **broker)
        self._port = port
        self.made: dict[str, Made] = {}
        self.problems: list[str] = []
        self.died = 0
        """How many cancellers were gone before they could ask for more."""
        self._dice = dice
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self, orders: list[Order], seconds: float) -> None:
        """Place the orders, evenly over the time."""
        began = time.monotonic()
        for number, order in enumerate(orders):
            due = began + seconds * number / len(orders)
            await asyncio.sleep(max(due - time.monotonic(), 0))
            follow = self._dice.random() < _FOLLOWED
            task = asyncio.create_task(self._place(f"order-{number}", order, follow=follow))
            self._tasks.append(task)

    async def finish(self, timeout: float) -> None:
        """Wait until all orders are placed and followed to their ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await asyncio.gather(*self._tasks)
        late = [task for task in self._tasks if not task.done()]
        if late:
            self.problems.append(f"{len(late)} orders or their readers did not come to an end")
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        await self.fleet.close()
        await self._plain.close()

    async def _place(self, key: str, order: Order, *, follow: bool) -> None:
        if order.plain is not None:
            task_id = str(uuid.uuid4())
            await self._plain.send(task_id, order.skill, order.args, order.plain)
            self.made[task_id] = Made(order)
            return
        run = await self._enqueue(key, order)
        made = self.made[run.id] = Made(order)
        async with asyncio.TaskGroup() as group:
            if follow:
                made.followed = []
                group.create_task(self._follow(run, made.followed))
            if order.cancel_after is not None:
                group.create_task(self._cancel(run, made))

    async def _enqueue(self, key: str, order: Order) -> AsyncRunHandle:
        """Until it is accepted; the key makes sure that it is so once."""
        while True:
            began = time.monotonic()
            try:
                return await self.fleet.enqueue(
                    order.skill, order.args, idempotency_key=key, **order.options
                )
            except FleetUnavailableError:
                await asyncio.sleep(0.1)
            finally:
                took = time.monotonic() - began
                if took > ENQUEUE_SECONDS:
                    self.problems.append(f"an enqueue took {took:.1f} s")

    async def _cancel(self, run: AsyncRunHandle, made: Made) -> None:
        await asyncio.sleep(made.order.cancel_after or 0)
        if made.order.dies:
            await self._cancel_and_die(run)
        else:
            await _ask_until_received(run)
        made.cancelled_at = time.monotonic_ns()

    async def _cancel_and_die(self, run: AsyncRunHandle) -> None:
        """Cancel as a process does that is gone as soon as its first request was answered."""
        # Not by the hash of a script that Redis did not have, nor by an error.
        first = Trap(re.compile(re.escape(run.id).encode()), re.compile(rb"\A[*:]"))
        async with Proxy(self._port) as proxy:
            settings = self._settings.model_copy(update={"redis_url": proxy.url})
            async with AsyncFleet(settings=settings) as fleet:
                proxy.set_trap(first)
                asking = asyncio.create_task(_ask_until_received(fleet.run(run.id)))
                answered = asyncio.create_task(first.sprung.wait())
                await asyncio.wait({asking, answered}, return_when=asyncio.FIRST_COMPLETED)
                for task in (asking, answered):
                    task.cancel()
                await asyncio.gather(asking, answered, return_exceptions=True)
                # Nothing that it still had to say arrives.
                proxy.cut()
        self.died += first.sprung.is_set()

    async def _follow(self, run: AsyncRunHandle, seen: list[RunEvent]) -> None:
        while not (seen and seen[-1].final):
            after = seen[-1].id if seen else None
            with suppress(FleetUnavailableError):
                async for event in run.events(after):
                    seen.append(event)
                    if self._dice.random() < 0.01:
                        # A reader that goes away and comes back.
                        break


async def _ask_until_received(run: AsyncRunHandle) -> None:
    while True:
        try:
            await run.cancel("enough")
        except FleetUnavailableError:
            continue
        return
