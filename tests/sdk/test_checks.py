"""The checks of every context for events and artifacts."""

from pathlib import PurePosixPath
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from skillfleet import AgentEvent
from skillfleet.contracts import Limits
from skillfleet.errors import (
    ArtifactTooLargeError,
    EventTooLargeError,
    InvalidArtifactError,
    InvalidEventError,
)
from skillfleet.validation import artifact_chunks, check_artifact_name, check_mime_type, event_json


class Opaque:
    """Nothing that JSON could hold."""

    def __repr__(self) -> str:
        return "OPAQUE"


OPAQUE = Opaque()
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(-1e300, 1e300) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(text, json_values, max_size=5))
def test_every_json_object_is_a_payload(payload: dict[str, Any]) -> None:
    written = event_json(AgentEvent("custom", payload), Limits())
    assert orjson.loads(written) == orjson.loads(orjson.dumps(payload))


@given(st.integers(0, 100), st.integers(1, 100))
def test_a_payload_over_the_limit_is_refused_and_one_at_the_limit_is_not(
    size: int, limit: int
) -> None:
    event = AgentEvent("custom", {"": "x" * size})
    if size + len('{"":""}') <= limit:
        assert len(event_json(event, Limits(event_bytes=limit))) <= limit
    else:
        with pytest.raises(EventTooLargeError, match=f"allowed are {limit}"):
            event_json(event, Limits(event_bytes=limit))


def test_a_model_may_be_the_payload() -> None:
    class Found(BaseModel):
        files: int

    payload: Any = Found(files=3)
    assert event_json(AgentEvent("found", payload), Limits()) == b'{"files":3}'


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (AgentEvent("state"), "kind 'state' is reserved"),
        (AgentEvent("two words"), "kind 'two words' must start with a letter"),
        (AgentEvent("custom", {"a": OPAQUE}), "payload of event 'custom' cannot be written as"),
        (AgentEvent("custom", 3), "payload of event 'custom' must be a dict, got int"),  # type: ignore[arg-type]
        ("progress", r"takes an AgentEvent, got str: write AgentEvent\(kind="),
    ],
    ids=str,
)
def test_a_refused_event_is_named(event: Any, message: str) -> None:
    with pytest.raises(InvalidEventError, match=message):
        event_json(event, Limits())


@given(st.text(max_size=300))
def test_an_accepted_artifact_name_stays_inside_its_folder(name: str) -> None:
    try:
        check_artifact_name(name)
    except InvalidArtifactError:
        return
    path = PurePosixPath("folder") / name
    assert path.parts[0] == "folder"
    assert len(path.parts) > 1
    assert ".." not in path.parts
    assert "\x00" not in name
    assert name.encode()


@pytest.mark.parametrize(
    "name", ["a", "report.md", "a/b/c.txt", "a..b", ".hidden", "größe ✓", "n" * 255]
)
def test_plain_names_are_accepted(name: str) -> None:
    check_artifact_name(name)


@pytest.mark.parametrize(
    "mime_type",
    [
        "text/plain",
        "text/html; charset=utf-8",
        'multipart/mixed; boundary="a b"',
        "application/vnd.api+json;v=1",
    ],
)
def test_media_types_are_accepted(mime_type: str) -> None:
    check_mime_type(mime_type)


@pytest.mark.parametrize(
    "mime_type", ["", "text", "text/", "/plain", "a/b c", "a/b\n", "a/" + "b" * 300]
)
def test_what_is_no_media_type_is_refused(mime_type: str) -> None:
    with pytest.raises(InvalidArtifactError, match="type/subtype"):
        check_mime_type(mime_type)


@given(st.lists(st.binary(max_size=10), max_size=10), st.integers(0, 60))
async def test_pieces_come_whole_and_in_order_or_not_at_all(
    pieces: list[bytes], limit: int
) -> None:
    whole = b"".join(pieces)
    if len(whole) <= limit:
        chunks = [chunk async for chunk in artifact_chunks("a", pieces, limit)]
        assert b"".join(chunks) == whole
        assert all(chunks)
    else:
        with pytest.raises(ArtifactTooLargeError):
            _ = [chunk async for chunk in artifact_chunks("a", pieces, limit)]
