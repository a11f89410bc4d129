"""Positions: where in its run an event is emitted or an entry is asked for."""

import asyncio
import hashlib
from collections import defaultdict
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Final, NamedTuple
from weakref import ref

Task = asyncio.Task[Any]

_MOST_ADDRESS_CHARS: Final = 500
_MANY_TASKS: Final = 1000


class Position(NamedTuple):
    """The position of a task: the last entry that it passed, and the step that it executes.

    `address` is the identity of that entry, "" at the start of the run. A task begins at the
    address of the task that created it, with its number among those that did: "2@<identity>".
    Positions never change: a task that is created gets the position its creator has then.
    """

    task: "ref[Task] | None"
    address: str
    step: str | None = None


class Positions:
    """The positions of the tasks of one attempt. Belongs to the handler's loop."""

    def __init__(self) -> None:
        # One variable for each attempt: a called skill may run in a task of its caller.
        self._position: ContextVar[Position | None] = ContextVar("position", default=None)
        self._numbers: defaultdict[str, int] = defaultdict(int)
        self._passed: dict[str, ref[Task] | None] = {}
        self._tasks: list[ref[Task]] = []

    @property
    def step(self) -> str | None:
        """The identity of the step that is executing here, in threads too; None outside."""
        position = self._position.get()
        return None if position is None else position.step

    @property
    def alone(self) -> bool:
        """True if no other task that used the journal is alive."""
        own = asyncio.current_task()
        self._tasks = [task for task in self._tasks if _is_live(task)]
        return all(task() is own for task in self._tasks)

    def current(self) -> Position:
        """Return the position of the current task."""
        position = self._position.get()
        task = asyncio.current_task()
        if position is not None and (position.task is None or position.task() is task):
            return position
        if position is not None:
            address, step = self._numbered(position.address), position.step
        else:
            # A task that descends from no known one counts as created at the start.
            address, step = self._numbered("") if self._tasks else "", None
        if task is not None:
            self._tasks.append(ref(task))
            if len(self._tasks) % _MANY_TASKS == 0:
                self._tasks = [each for each in self._tasks if _is_live(each)]
        return self._move(address, step)

    def passed(self, address: str) -> None:
        """Move the current task past an entry."""
        position = self.current()
        own = position.task
        first = self._passed.setdefault(address, own)
        if first is not None and first is not own and first() is not asyncio.current_task():
            # Another task passed the same entry: their events are counted apart.
            address = self._numbered(address)
        if own is None:
            self._move(address, position.step)
        else:
            self._position.set(Position(own, address, position.step))

    def executing(self, step: str) -> AbstractContextManager[None]:
        """Return a context manager inside of which the current task executes a step."""
        return _Executing(self._position, self.current(), step)

    def _move(self, address: str, step: str | None) -> Position:
        task = asyncio.current_task()
        position = Position(None if task is None else ref(task), address, step)
        self._position.set(position)
        return position

    def _numbered(self, address: str) -> str:
        self._numbers[address] += 1
        numbered = f"{self._numbers[address]}@{address}"
        if len(numbered) <= _MOST_ADDRESS_CHARS:
            return numbered
        return f"{hashlib.sha256(numbered.encode()).hexdigest()}@"


class _Executing(AbstractContextManager[None]):
    """The block in which a task executes a step. A class: each step enters one."""

    __slots__ = ("_before", "_position", "_step")

    def __init__(self, position: ContextVar[Position | None], before: Position, step: str) -> None:
        self._position = position
        self._before = before
        self._step = step

    def __enter__(self) -> None:
        self._position.set(Position(self._before.task, self._before.address, self._step))

    def __exit__(self, *_: object) -> None:
        self._position.set(self._before)


def _is_live(task: "ref[Task]") -> bool:
    found = task()
    return found is not None and not found.done()
