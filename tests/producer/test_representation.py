"""The arguments' representation in a message is the one that Celery itself writes."""

import orjson
from celery.utils.saferepr import saferepr
from hypothesis import given
from hypothesis import strategies as st

from skillfleet_producer.message import _representation

text = st.text(st.characters(codec="utf-8"), max_size=40)
scalar = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
)
value = st.recursive(
    scalar,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(text, value, max_size=6))
def test_it_equals_celerys_for_any_arguments(arguments: dict[str, object]) -> None:
    encoded = orjson.dumps(arguments)
    assert _representation(encoded) == saferepr(orjson.loads(encoded), 1024)
