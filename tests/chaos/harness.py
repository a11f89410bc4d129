"""A server, its workers and the ways to break them."""

import asyncio
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Self

from redis.exceptions import RedisError

from tests.chaos.evidence import Message, Scene
from tests.chaos.moments import MOMENTS
from tests.chaos.schedule import AT_A_MOMENT, Fault, Kind
from tests.chaos.troubles import Troubles
from tests.support.fleet import FleetWorker
from tests.support.proxy import Proxy, Trap
from tests.support.rabbitmq import RabbitServer
from tests.support.valkey import ValkeyServer

LEASE_SECONDS = 2.0
REDIS_TIMEOUT_SECONDS = 2.0
POOLS = ("loop", "loop", "prefork", "threads")
_ON_CONNECTIONS = (Kind.CUT, Kind.CUT_REPLIES, Kind.CUT_REQUESTS, Kind.PARTITION, Kind.LATE)
_ON_REDIS = (Kind.REDIS_RESTART, Kind.REDIS_FREEZE, Kind.REDIS_PAUSE, Kind.FORGET_SCRIPTS)
_CUTS = (Kind.CUT_AFTER_END, Kind.CUT_RECORD, Kind.CUT_PARK, Kind.CUT_DECISION)
_LOOK_SECONDS = 0.2
_END_SECONDS = 40.0
_TRAP_SECONDS = 10.0
_REPLY_SECONDS = 0.02
"""What the reply that sprung a trap has to reach the worker before its connections are cut."""
_SETTINGS: dict[str, Any] = {
    "lease_seconds": LEASE_SECONDS,
    "redis_timeout_seconds": REDIS_TIMEOUT_SECONDS,
    "reap_seconds": 0.3,
    "stranded_seconds": 2,
    "drain_seconds": 1,
    "cancel_grace_seconds": 0.2,
    "abandon_seconds": 1,
    "max_deliveries": 1000,
    "park_seconds": 0.5,
}


@dataclass
class Machine:
    """One worker, started again whenever it has ended, and its own way to Redis."""

    worker: FleetWorker
    proxy: Proxy
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    asked_to_end: bool = False
    groups: list[int] = field(default_factory=list)
    """Ids of all process groups it ever had."""
    _said_before: int = 0

    def launch(self) -> None:
        self._said_before = len(self.worker.text())
        self.worker.launch()
        self.groups.append(self.worker.pid)
        self.asked_to_end = False

    @property
    def ready(self) -> bool:
        """True once its present process has said that it consumes."""
        return " ready." in self.worker.text()[self._said_before :]

    @property
    def exit_code(self) -> int | None:
        return None if self.worker.process is None else self.worker.process.poll()


class Harness:
    """An async context manager; the last of the proxies is the producer's.

    The broker is the ledger's Redis, or a RabbitMQ node when `rabbit`.
    """

    def __init__(self, *, rabbit: bool = False) -> None:
        self.rabbit = RabbitServer() if rabbit else None
        self.server = ValkeyServer("--appendfsync", "always")
        self.machines: list[Machine] = []
        self.proxies: list[Proxy] = []
        self.problems: list[str] = []
        self.troubles = Troubles()
        self.sprung: Counter[Kind] = Counter()
        """How many faults waited for a moment, and saw it come."""
        self.began = time.monotonic()
        self._redis = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._faults: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _start(self) -> None:
        self._stack.callback(self.server.close)
        await asyncio.to_thread(self.server.start)
        if self.rabbit is not None:
            self._stack.callback(self.rabbit.close)
            await asyncio.to_thread(self.rabbit.start)
        for _ in range(len(POOLS) + 1):
            self.proxies.append(await self._stack.enter_async_context(Proxy(self.server.port)))
        for pool, proxy in zip(POOLS, self.proxies, strict=False):
            worker = FleetWorker(
                self.server,
                "tests.chaos.skills,tests.chaos.durable_skills",
                pool=pool,
                concurrency=30 if pool == "loop" else 4,
                redis_url=proxy.url,
                **self.broker,
                **_SETTINGS,
            )
            machine = Machine(worker, proxy)
            self.machines.append(machine)
            self._stack.callback(self._bury, machine)
            machine.launch()
        for machine in self.machines:
            await self._serves(machine)
        self._keeper = asyncio.create_task(self._keep())
        self.began = time.monotonic()

    async def __aexit__(self, *_: object) -> None:
        for task in (self._keeper, *self._faults):
            if task is not None:
                task.cancel()
        await self._stack.aclose()

    @property
    def broker(self) -> dict[str, str]:
        """The setting that names the broker, where it is not the ledger's Redis."""
        return {} if self.rabbit is None else {"broker_url": self.rabbit.url}

    async def play(self, faults: list[Fault]) -> None:
        """Let the faults happen at their times; returns when all are over and healed."""
        for fault in faults:
            await asyncio.sleep(max(fault.at - (time.monotonic() - self.began), 0))
            task = asyncio.create_task(self._happen(fault))
            self._faults.add(task)
        for outcome in await asyncio.gather(*self._faults, return_exceptions=True):
            if isinstance(outcome, BaseException):
                self.problems.append(f"a fault could not be played: {outcome!r}")

    async def end(self) -> None:
        """Drain all workers; what does not end as it should becomes a problem."""
        if self._keeper is not None:
            self._keeper.cancel()
        for machine in self.machines:
            with suppress(AssertionError):
                await self._serves(machine)
            with suppress(ProcessLookupError):
                machine.worker.send_signal(signal.SIGTERM)
        for number, machine in enumerate(self.machines):
            code = await self._exit(machine)
            if code != 0:
                self.problems.append(f"worker {number} ended its drain with exit code {code}")
            for group in machine.groups:
                if not await _gone(group):
                    self.problems.append(f"processes of worker {number} outlived it ({group})")

    def logs(self) -> str:
        """The workers' logs."""
        return "\n".join(
            f"--- worker {number} ({machine.worker.pool})\n{machine.worker.text()}"
            for number, machine in enumerate(self.machines)
        )

    def scene(self, messages: tuple[Message, ...], states: Mapping[str, Sequence[str]]) -> Scene:
        """Return the facts that the checker needs of the round."""
        groups = {group: number for number, one in enumerate(self.machines) for group in one.groups}
        now = time.monotonic_ns()
        return Scene(self.troubles, groups, time.time_ns() - now, now, messages, states)

    # -- faults

    async def _happen(self, fault: Fault) -> None:
        if fault.kind in _ON_CONNECTIONS:
            with self.troubles.during(fault.worker):
                await self._cut(self.proxies[fault.worker], fault)
        elif fault.kind in _ON_REDIS:
            async with self._redis:
                with self.troubles.during():
                    await self._break_redis(fault)
        elif fault.kind in AT_A_MOMENT:
            await self._break_at_a_moment(fault)
        else:
            number = fault.worker % len(self.machines)
            machine = self.machines[number]
            async with machine.busy:
                if machine.exit_code is None:
                    with self.troubles.during(number):
                        await self._break_worker(machine, fault)

    async def _cut(self, proxy: Proxy, fault: Fault) -> None:
        match fault.kind:
            case Kind.CUT:
                proxy.cut()
            case Kind.CUT_REPLIES:
                proxy.cut_replies_after(fault.size)
            case Kind.CUT_REQUESTS:
                proxy.cut_requests_after(fault.size)
            case Kind.LATE:
                await self._delay(proxy, fault)
            case _:
                await _silence(proxy, fault.seconds)

    async def _delay(self, proxy: Proxy, fault: Fault) -> None:
        """Replies come late; after the first one to a connection that is new, perhaps none."""
        first = Trap(re.compile(rb"SETNAME"), re.compile(rb"\A\*"))
        if fault.size % 3:
            proxy.set_trap(first)
        proxy.late = fault.size % 1000 / 1000 * LEASE_SECONDS
        with suppress(TimeoutError):
            async with asyncio.timeout(fault.seconds + LEASE_SECONDS):
                await first.sprung.wait()
        proxy.remove_trap(first)
        if first.sprung.is_set():
            await asyncio.sleep(2 * LEASE_SECONDS)
            proxy.release()
        proxy.late = 0.0

    async def _break_at_a_moment(self, fault: Fault) -> None:
        """Strike the first one that comes to the fault's moment, right then."""
        moment = MOMENTS[fault.kind]
        proxies = self.proxies[-1:] if moment.producer else self.proxies[:-1]
        traps = [moment.trap() for _ in proxies]
        for proxy, trap in zip(proxies, traps, strict=True):
            proxy.set_trap(trap)
        waiting = [asyncio.create_task(trap.sprung.wait()) for trap in traps]
        await asyncio.wait(waiting, timeout=_TRAP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for proxy, trap, task in zip(proxies, traps, waiting, strict=True):
            proxy.remove_trap(trap)
            task.cancel()
        struck = [proxy for proxy, trap in zip(proxies, traps, strict=True) if trap.sprung.is_set()]
        self.sprung[fault.kind] += len(struck)
        await asyncio.gather(*(self._strike(self.proxies.index(proxy), fault) for proxy in struck))

    async def _strike(self, number: int, fault: Fault) -> None:
        """No byte passes between that worker, or the producers, and Redis when this begins."""
        proxy = self.proxies[number]
        with self.troubles.during(number if number < len(self.machines) else None):
            try:
                if fault.kind is Kind.RESTART_AFTER_PARK:
                    proxy.release()
                    async with self._redis:
                        await self._restart(self.server, fault.seconds)
                elif fault.kind in _CUTS:
                    await asyncio.sleep(_REPLY_SECONDS)
                    proxy.cut()
                elif fault.kind is Kind.SILENCE_AFTER_END:
                    await asyncio.sleep(_REPLY_SECONDS)
                else:
                    await self._end_machine(self.machines[number], fault.kind)
                    return
                # Longer than it waits for an answer.
                await asyncio.sleep(fault.seconds + REDIS_TIMEOUT_SECONDS)
            finally:
                proxy.release()

    async def _end_machine(self, machine: Machine, kind: Kind) -> None:
        if kind is not Kind.DRAIN_AFTER_WAIT:
            machine.asked_to_end = True
            machine.worker.signal_all(signal.SIGKILL)
            return
        machine.proxy.release()
        async with machine.busy:
            if machine.exit_code is None:
                await self._drain(machine, Kind.TERM)

    async def _break_redis(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.REDIS_RESTART:
                # Where there are two servers, now this one and now that one.
                server = self.rabbit if self.rabbit and fault.size % 2 else self.server
                await self._restart(server, fault.seconds)
            case Kind.REDIS_FREEZE:
                self.server.signal(signal.SIGSTOP)
                await asyncio.sleep(fault.seconds)
                self.server.signal(signal.SIGCONT)
            case Kind.FORGET_SCRIPTS:
                forgetting = asyncio.to_thread(self._forget_scripts, fault)
                await asyncio.gather(forgetting, self._cut_now_and_then(fault))
            case _:
                await asyncio.to_thread(self._pause, fault.seconds)
                await asyncio.sleep(fault.seconds)

    async def _restart(self, server: ValkeyServer | RabbitServer, seconds: float) -> None:
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.start)

    def _forget_scripts(self, fault: Fault) -> None:
        dice, end = random.Random(fault.size), time.monotonic() + fault.seconds
        with suppress(RedisError), self.server.client() as client:
            while time.monotonic() < end:
                client.script_flush("SYNC")
                time.sleep(dice.uniform(0, 0.02))

    async def _cut_now_and_then(self, fault: Fault) -> None:
        """Make workers that connect again find a Redis without scripts."""
        for _ in range(int(fault.seconds)):
            self.proxies[fault.worker].cut()
            await asyncio.sleep(1)

    def _pause(self, seconds: float) -> None:
        with suppress(RedisError), self.server.client() as client:
            client.client_pause(int(seconds * 1000), all=True)

    async def _break_worker(self, machine: Machine, fault: Fault) -> None:
        worker = machine.worker
        match fault.kind:
            case Kind.KILL:
                machine.asked_to_end = True
                worker.signal_all(signal.SIGKILL)
            case Kind.KILL_MAIN:
                machine.asked_to_end = True
                worker.send_signal(signal.SIGKILL)
            case Kind.KILL_CHILD:
                if worker.pool == "prefork" and (children := worker.children()):
                    with suppress(ProcessLookupError):
                        os.kill(children[fault.size % len(children)], signal.SIGKILL)
            case Kind.FREEZE:
                await self._freeze(machine, fault.seconds)
            case _:
                await self._drain(machine, fault.kind)

    async def _freeze(self, machine: Machine, seconds: float) -> None:
        machine.worker.signal_all(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            machine.worker.signal_all(signal.SIGCONT)

    async def _drain(self, machine: Machine, kind: Kind) -> None:
        machine.asked_to_end = True
        if not machine.ready:
            # It has nothing to drain, and Celery's handlers are perhaps not in place yet.
            machine.worker.signal_all(signal.SIGKILL)
            return
        number = signal.SIGQUIT if kind is Kind.QUIT else signal.SIGTERM
        machine.worker.send_signal(number)
        if kind is Kind.TERM_TWICE:
            await asyncio.sleep(0.3)
            with suppress(ProcessLookupError):
                machine.worker.send_signal(number)
        await self._exit(machine)

    async def _exit(self, machine: Machine) -> int | None:
        """The exit code; a worker that does not end is killed and reported as a problem."""
        process = machine.worker.process
        assert process is not None
        code: int | None = await _until(process.poll, _END_SECONDS)
        if code is None:
            self.problems.append(f"a worker ({machine.worker.pool}) did not end its drain")
            machine.asked_to_end = True
            # Its log ends with the stacks of all threads then.
            machine.worker.signal_all(signal.SIGABRT)
            await _until(process.poll, 5.0)
            machine.worker.kill()
        return code

    # -- upkeep

    async def _keep(self) -> None:
        """Start workers again that have ended, as Kubernetes does."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for number, machine in enumerate(self.machines):
                # A fault that is still going on is meant for the process that it began with.
                if machine.busy.locked() or (code := machine.exit_code) is None:
                    continue
                if not machine.asked_to_end:
                    self.problems.append(f"worker {number} ended by itself: exit code {code}")
                machine.launch()

    async def _serves(self, machine: Machine) -> None:
        def serves() -> bool:
            with suppress(RedisError):
                return machine.worker.serves()
            return False

        async def ask() -> bool:
            return await asyncio.to_thread(serves)

        await _until(ask, 60.0)

    def _bury(self, machine: Machine) -> None:
        for group in machine.groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        machine.worker.close()


async def _silence(proxy: Proxy, seconds: float) -> None:
    proxy.hold()
    await asyncio.sleep(seconds)
    proxy.release()


async def _gone(group: int) -> bool:
    def gone() -> bool:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        return False

    return bool(await _until(gone, _END_SECONDS))


async def _until(condition: Callable[[], Any], timeout: float) -> Any:
    """Return the condition's first value besides None and False; None after `timeout` seconds."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value is not None and value is not False:
            return value
        await asyncio.sleep(0.05)
    return None
