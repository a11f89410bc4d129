"""Hidden state: objects for skills whose state cannot be reached by following attributes."""

from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


class HiddenState(Generic[T]):
    """The states of the objects of one class; a module keeps one in a private global.

    Skills hold contexts and clients. What these need for their work (a lease, connections) is
    kept here, so that a skill, or a tool that prints or serialises objects, does not come upon
    it. It is no protection from code that looks for it: a skill shares the worker's process.

    A state lives as long as its owner; it must not refer to its owner, or both live for ever.
    """

    def __init__(self) -> None:
        self._states: WeakKeyDictionary[object, T] = WeakKeyDictionary()

    def attach(self, owner: object, state: T) -> None:
        """Keep the state of an object."""
        self._states[owner] = state

    def of(self, owner: object) -> T:
        """The state of an object."""
        return self._states[owner]
