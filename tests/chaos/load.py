"""The producers of a round, which place its orders and note what came of each."""

import asyncio
import random
import re
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field

from skillfleet.contracts import RunEvent
from skillfleet.errors import FleetUnavailableError
from skillfleet_producer import AsyncFleet, Settings
from skillfleet_producer.fleet_async import AsyncRunHandle
from tests.chaos.harness import REDIS_TIMEOUT_SECONDS
from tests.chaos.inputs import Attendant, Deed, Given, Sent
from tests.chaos.moments import DECIDED, calls_of
from tests.chaos.orders import Order
from tests.chaos.plain import PlainClient
from tests.support.proxy import Proxy, Trap

# An enqueue may ask Redis twice before it writes the record, and then another broker.
ENQUEUE_SECONDS = 4 * REDIS_TIMEOUT_SECONDS + 1
_FOLLOWED = 0.3


@dataclass
class Made:
    """A run that was accepted; `followed` are the events a reader saw, resuming again and again.

    `cancelled_at` is when its cancellation was taken, in monotonic nanoseconds. `given` is what
    answered its questions, `sent` the messages to it in their order.
    """

    order: Order
    followed: list[RunEvent] | None = None
    cancelled_at: int | None = None
    given: list[Given] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)


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
        """How many cancellers, and how many who answered, were gone before they could do more."""
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
            if order.inputs is not None:
                attendant = Attendant(
                    run, order.inputs, made.given, made.sent, self._decide_and_die
                )
                group.create_task(attendant.attend())

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
            # Not by the hash of a script that Redis did not have, nor by an error.
            first = Trap(re.compile(re.escape(run.id).encode()), re.compile(rb"\A[*:]"))
            await self._do_and_die(run, _cancel_until_received, first)
        else:
            await _cancel_until_received(run)
        made.cancelled_at = time.monotonic_ns()

    async def _decide_and_die(self, run: AsyncRunHandle, deed: Deed) -> bool:
        return await self._do_and_die(run, deed, Trap(calls_of("decide"), DECIDED))

    async def _do_and_die(self, run: AsyncRunHandle, deed: Deed, last: Trap) -> bool:
        """Do something as a process that is gone as soon as the trap's reply has reached it.

        Returns whether one did; else the deed was done to its end.
        """
        async with Proxy(self._port) as proxy:
            settings = self._settings.model_copy(update={"redis_url": proxy.url})
            async with AsyncFleet(settings=settings) as fleet:
                proxy.set_trap(last)
                doing = asyncio.ensure_future(deed(fleet.run(run.id)))
                answered = asyncio.create_task(last.sprung.wait())
                await asyncio.wait({doing, answered}, return_when=asyncio.FIRST_COMPLETED)
                for task in (doing, answered):
                    task.cancel()
                await asyncio.gather(doing, answered, return_exceptions=True)
                # Nothing that it still had to say arrives.
                proxy.cut()
        self.died += last.sprung.is_set()
        return last.sprung.is_set()

    async def _follow(self, run: AsyncRunHandle, seen: list[RunEvent]) -> None:
        while not (seen and seen[-1].final):
            after = seen[-1].id if seen else None
            with suppress(FleetUnavailableError):
                async for event in run.events(after):
                    seen.append(event)
                    if self._dice.random() < 0.01:
                        # A reader that goes away and comes back.
                        break


async def _cancel_until_received(run: AsyncRunHandle) -> None:
    while True:
        try:
            await run.cancel("enough")
        except FleetUnavailableError:
            continue
        return
