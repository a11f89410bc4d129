"""Hidden state: objects for skills whose state cannot be reached by following attributes."""

from typing import Any, Final, Generic, TypeVar
from weakref import ref

T = TypeVar("T")

_tables: Final[list[dict[ref[object], Any]]] = []
"""The states of all classes, for `_forget`."""


class HiddenState(Generic[T]):
    """The states of the objects of one class; a module keeps one in a private global.

    Skills hold contexts and clients. What these need for their work (a lease, connections) is
    kept here, so that a skill, or a tool that prints or serialises objects, does not find it by
    accident. It does not protect from code that searches for it: a skill shares the worker's
    process.

    A state lives as long as its owner; it must not refer to its owner, or neither is ever freed.
    """

    def __init__(self) -> None:
        self._states: dict[ref[object], T] = {}
        _tables.append(self._states)

    def attach(self, owner: object, state: T) -> None:
        """Keep the state of an object."""
        # No WeakKeyDictionary: it could be reached from the owner's `__weakref__`, whose callback
        # holds it. This callback holds nothing.
        self._states[ref(owner, _forget)] = state

    def of(self, owner: object) -> T:
        """Return the state of an object."""
        return self._states[ref(owner)]


def _forget(owner: ref[object]) -> None:
    for states in _tables:
        states.pop(owner, None)
