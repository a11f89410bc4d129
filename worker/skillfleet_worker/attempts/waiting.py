"""Waiting of an attempt: what it waits for, and whether anything else is under way.

The slot is given back and the run parked only while a handler does nothing but wait. What is
under way is counted: steps, model and tool calls, uploads, children executed inline.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from skillfleet.contracts.waits import WaitKind
from skillfleet.ports.journal import WaitSpec
from skillfleet_worker.attempts.clock import Clock


class WaitingRoom:
    """The runs that wait in the memory of a process. Any thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._inside: set[int] = set()

    @property
    def is_full(self) -> bool:
        """True while no further run should wait in memory."""
        return len(self._inside) >= self._most

    @contextlib.contextmanager
    def entered(self, waiter: object) -> Iterator[None]:
        """Count a waiting object inside the block."""
        self._inside.add(id(waiter))
        try:
            yield
        finally:
            self._inside.discard(id(waiter))


class Waiting:
    """The open waits of one attempt. Belongs to the loop of its handler, unless noted.

    The attempt's clock stands while its handler does nothing but wait.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock
        self._busy = 0
        self._writes = 0
        self._opening: set[str] = set()
        self._awaited: dict[str, WaitKind] = {}
        self._checks: dict[str, asyncio.Event] = {}
        self._free = asyncio.Event()
        self._free.set()
        self.holds_slot = False
        """True once a wait could not give the attempt's slot back: its pool has no such slots."""
        self._listeners: list[Callable[[], None]] = []

    @property
    def is_busy(self) -> bool:
        """True while a step, a call or an upload is under way."""
        return self._busy > 0

    @property
    def is_writing(self) -> bool:
        """True while a script that may end a wait is under way, or its answer is."""
        return self._writes > 0

    @property
    def is_opening(self) -> bool:
        """True while a wait is opened, or open, that the handler awaits next."""
        return bool(self._opening)

    @property
    def awaited(self) -> tuple[str, ...]:
        """The ids of the waits that the handler awaits now."""
        return tuple(self._awaited)

    @property
    def kinds(self) -> tuple[WaitKind, ...]:
        """The kinds of these waits, each once, in order."""
        return tuple(sorted(set(self._awaited.values()))) if self._awaited else ()

    @property
    def only_waits(self) -> bool:
        """True while the handler awaits something and does nothing else."""
        return bool(self._awaited) and not self._busy

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever waits or work begin or end."""
        self._listeners.append(listener)

    @contextlib.contextmanager
    def listening(self, listener: Callable[[], None]) -> Iterator[None]:
        """Do the same inside the block."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

    def busy(self) -> contextlib.AbstractContextManager[None]:
        """Return a context manager that notes that work is under way inside its block."""
        return _Work(self)

    def begin_work(self) -> None:
        """Note that work begins, until `end_work`."""
        self._busy += 1
        if self._busy == 1:
            self.changed()

    def end_work(self) -> None:
        """Note that work has ended."""
        self._busy -= 1
        if not self._busy:
            self.changed()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Keep the run from being parked inside the block, without counting it as work."""
        self._writes += 1
        try:
            yield
        finally:
            self._writes -= 1

    @contextlib.contextmanager
    def opening(self, identity: str) -> Iterator[None]:
        """Note that a wait is opened inside the block, and is to be awaited after it.

        The note ends with `awaiting`, with `not_awaited`, or with an error in the block.
        """
        self._opening.add(identity)
        try:
            yield
        except BaseException:
            self.not_awaited(identity)
            raise

    def not_awaited(self, identity: str) -> None:
        """Note that a wait is not to be awaited: it was withdrawn, or its decision is known."""
        self._opening.discard(identity)
        self.changed()

    @contextlib.contextmanager
    def awaiting(self, wait_id: str, spec: WaitSpec) -> Iterator[asyncio.Event]:
        """Note that the handler awaits a wait inside the block.

        The event is set when its state in the ledger is to be read again.
        """
        check = self._checks[wait_id] = asyncio.Event()
        self._awaited[wait_id] = spec.kind
        self._opening.discard(spec.identity)
        self.changed()
        try:
            yield check
        finally:
            del self._awaited[wait_id]
            del self._checks[wait_id]
            self.changed()

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Inside the block, hold back what was decided: the run is being parked."""
        self._free.clear()
        try:
            yield
        finally:
            self._free.set()

    async def until_free(self) -> None:
        """Return while the run is not being parked."""
        await self._free.wait()

    def check(self) -> None:
        """Have all awaited waits read again: one may be decided. Any thread."""
        if self._awaited and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._check)

    def changed(self) -> None:
        """Stop or start the clock, and call the listeners."""
        if self.only_waits:
            self._clock.pause()
        else:
            self._clock.resume()
        for listener in tuple(self._listeners):
            listener()

    def close(self) -> None:
        """Call no listener any more: the handler has ended."""
        self._listeners.clear()

    def _check(self) -> None:
        for event in self._checks.values():
            event.set()


class _Work(contextlib.AbstractContextManager[None]):
    """The block in which work is under way. A class: each step enters one."""

    __slots__ = ("_waiting",)

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting

    def __enter__(self) -> None:
        self._waiting.begin_work()

    def __exit__(self, *_: object) -> None:
        self._waiting.end_work()
