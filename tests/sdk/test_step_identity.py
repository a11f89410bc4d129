"""The identities of entries: the same in every process, different for what differs."""

import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, SecretStr

from skillfleet.contracts import EntryKind
from skillfleet.durable.identity import (
    arguments_digest,
    backoff_of,
    check_name,
    counted,
    digest_of,
    keyed,
    read_backoff,
    step_key,
)
from skillfleet.errors import InvalidArgumentsError, StepKeyRequired


class Page(BaseModel):
    url: str
    words: set[str] = set()


@dataclass
class Point:
    x: int


class Colour(Enum):
    RED = "red"


class Opaque:
    pass


def digest(*args: Any, **kwargs: Any) -> str:
    return arguments_digest("fetch", args, kwargs)


DIFFERENT: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    (("a",), {}),
    ((), {"a": "a"}),
    ((["a"],), {}),
    (({"a": 1, "b": 2},), {}),
    (({1: "a"},), {}),
    ((b"\xff",), {}),
    (({"x", "y"},), {}),
    ((Page(url="a", words={"x", "y"}),), {}),
    ((Page(url="a"),), {}),
    ((Point(1),), {}),
    ((Colour.RED, 1), {}),
    ((datetime(2026, 1, 1, tzinfo=UTC),), {}),
    ((UUID(int=1),), {}),
    (({"nested": [{"z", "y"}, (1, 2.5, None, True)]},), {}),
]


def test_different_arguments_have_different_digests() -> None:
    assert len({digest(*args, **kwargs) for args, kwargs in DIFFERENT}) == len(DIFFERENT)


def test_the_order_of_names_does_not_matter() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(a=1, b=2) == digest(b=2, a=1)


def test_a_digest_is_the_same_in_every_process() -> None:
    script = (
        "from tests.sdk.test_step_identity import DIFFERENT, digest\n"
        "print([digest(*args, **kwargs) for args, kwargs in DIFFERENT])"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", script],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert seen == {f"{[digest(*args, **kwargs) for args, kwargs in DIFFERENT]}\n"}


def test_a_secret_is_no_part_of_a_digest() -> None:
    assert digest(SecretStr("one")) == digest(SecretStr("two"))


@pytest.mark.parametrize("value", [Opaque(), [Opaque()], {"a": lambda: 1}, 2**70])
def test_arguments_without_json_need_a_key(value: Any) -> None:
    with pytest.raises(StepKeyRequired, match=r"'fetch'.*as JSON.*pass key="):
        digest(value)


def test_identities_of_all_forms_differ() -> None:
    found = {
        keyed(EntryKind.STEP, "fetch"),
        keyed(EntryKind.ASK, "fetch"),
        keyed(EntryKind.ASK, "fetch", "0123"),
        counted(EntryKind.STEP, "fetch", "0123", 1),
        counted(EntryKind.STEP, "fetch", "0123", 2),
        counted(EntryKind.TIMER, "fetch", "0123", 1),
        backoff_of(counted(EntryKind.STEP, "fetch", "0123", 1), 1),
        backoff_of(counted(EntryKind.STEP, "fetch", "0123", 1), 2),
    }
    assert len(found) == 8


def test_the_step_of_a_pause_is_found_again() -> None:
    step = keyed(EntryKind.STEP, "me@example.org")
    assert read_backoff(backoff_of(step, 12)) == (step, 12)
    assert read_backoff(step) is None


def test_a_steps_key_belongs_to_one_step_of_one_run() -> None:
    keys = {step_key(run, step) for run in ("a", "b") for step in ("x", "y")}
    assert len(keys) == 4
    assert all(len(key) == 64 for key in keys)
    assert step_key("a", "x") == step_key("a", "x")


@pytest.mark.parametrize("name", ["", "x" * 201, "two\nlines", "\ud800", 7, None])
def test_names_are_short_printable_texts(name: Any) -> None:
    with pytest.raises(InvalidArgumentsError, match="key"):
        check_name("key", name)


def test_a_name_may_be_any_text() -> None:
    check_name("key", "Größe: a/b#c=d@e")
    assert digest_of({"a": 1}) == digest_of({"a": 1})
