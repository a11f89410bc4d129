"""A consumer reads the same values as kombu's own transport."""

import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.transport.conftest import StartReader
from tests.engine.transport.readers import publish
from tests.support.valkey import ValkeyServer

NUMBERS = st.integers() | st.floats(allow_nan=False) | st.sampled_from([2**63, -(2**63), 2**64])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types all through; NaN equals itself."""
    return json.dumps(one) == json.dumps(other) and type(one) is type(other)


@settings(
    max_examples=60,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(value=VALUES)
def test_any_value_arrives_as_it_was_sent(
    valkey: ValkeyServer, start_reader: StartReader, value: Any
) -> None:
    reader = start_reader("values")
    try:
        publish(valkey.url, "values", {"given": value}, headers={"given": value})
        [read] = reader.drain(1)
        assert same(read["given"], value)
        assert same(reader.got[-1].headers["given"], value)
        reader.ack_all()
    finally:
        reader.close()


@pytest.mark.parametrize("number", [math.nan, math.inf, 10**40, -(10**19), 1.5e300])
def test_numbers_that_are_not_everybodys(
    valkey: ValkeyServer, start_reader: StartReader, number: float
) -> None:
    reader = start_reader("numbers")
    publish(valkey.url, "numbers", {"number": number})
    [read] = reader.drain(1)
    assert same(read, {"number": number})
    reader.ack_all()
