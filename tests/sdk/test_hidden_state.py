"""Hidden states: one for each object, as long as it lives, and not reachable from it."""

import gc
from typing import Any
from weakref import ref

import pytest

from skillfleet.hidden_state import HiddenState
from skillfleet.testing.conformance.object_graph import reachable

STATES: HiddenState[Any] = HiddenState()
OTHERS: HiddenState[Any] = HiddenState()


class Owner:
    """Stands for a context or a client."""


class State:
    """A hidden state."""


def test_each_object_has_its_own_state_in_each_table() -> None:
    first, second = Owner(), Owner()
    STATES.attach(first, 1)
    STATES.attach(second, 2)
    OTHERS.attach(first, "other")
    assert (STATES.of(first), STATES.of(second), OTHERS.of(first)) == (1, 2, "other")
    with pytest.raises(KeyError):
        OTHERS.of(second)


def test_a_state_goes_with_its_owner() -> None:
    owner, state = Owner(), State()
    STATES.attach(owner, state)
    held = ref(state)
    del state
    gc.collect()
    assert held() is not None
    del owner
    gc.collect()
    assert held() is None


def test_a_state_is_not_reachable_through_its_owners_weak_references() -> None:
    owner, state = Owner(), State()
    STATES.attach(owner, state)
    found = [value for _, value in reachable(owner)]
    assert any(isinstance(value, ref) for value in found)
    assert state not in found
