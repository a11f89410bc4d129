"""A recorded value comes back in the type it had."""

import functools
import math
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Secret,
    SecretBytes,
    SecretStr,
    computed_field,
)
from typing_extensions import TypedDict

from skillfleet.durable.values import answer_type, type_of_result
from skillfleet.errors import DeclarationError, InvalidResultError

T = TypeVar("T")


class Colour(StrEnum):
    RED = "red"


class Aliased(BaseModel):
    model_config = ConfigDict(extra="forbid")

    inner: int = Field(validation_alias="readName", serialization_alias="writeName")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return 2 * self.inner


class Box(BaseModel, Generic[T]):
    value: T


@dataclass
class Point:
    x: float
    tags: frozenset[str] = field(default_factory=frozenset)


class Pair(NamedTuple):
    a: int
    b: str


class Keys(TypedDict):
    a: bytes


VALUES: list[tuple[Any, Any]] = [
    (int, 7),
    (str, "Grüße, 世界"),
    (bytes, b"\x00\xff"),
    (float, math.inf),
    (type(None), None),
    (tuple[int, str], (1, "a")),
    (set[int], {1, 2}),
    (dict[int, date], {1: date(2026, 1, 2)}),
    (datetime, datetime(2026, 1, 2, 3, tzinfo=UTC)),
    (Decimal, Decimal("1.10")),
    (Path, Path("a/b")),
    (Colour, Colour.RED),
    (Aliased, Aliased.model_validate({"readName": 3})),
    (Box[Point], Box[Point](value=Point(1.5, frozenset({"a"})))),
    (Point, Point(2)),
    (Pair, Pair(1, "b")),
    (Keys, {"a": b"text"}),
    (list[Aliased | None], [None, Aliased.model_validate({"readName": 3})]),
    (Annotated[list[int], Field(max_length=3)], [1]),
]


@pytest.mark.parametrize(("hint", "value"), VALUES, ids=lambda value: str(value)[:20])
def test_a_value_comes_back_in_its_type(hint: Any, value: Any) -> None:
    kind = type_of_result("x", lambda: None, hint)
    back = kind.decode(kind.encode(value))
    assert back == value
    assert type(back) is type(value)


def test_nan_comes_back() -> None:
    kind = type_of_result("x", lambda: None, float)
    assert math.isnan(kind.decode(kind.encode(math.nan)))


@pytest.mark.parametrize("value", [None, True, 1, 2.5, "a", [1, {"b": None}], {"a": []}])
def test_plain_values_need_no_type(value: Any) -> None:
    kind = type_of_result("x", lambda: value, None)
    assert kind.decode(kind.encode(value)) == value


@pytest.mark.parametrize("value", [(1, 2), {1, 2}, Point(1), Decimal(1), {1: "a"}, math.nan])
def test_other_values_without_a_type_are_refused_with_advice(value: Any) -> None:
    kind = type_of_result("x", lambda: value, None)
    with pytest.raises(InvalidResultError, match=r"returned"):
        kind.encode(value)


@pytest.mark.parametrize(
    ("hint", "value", "problem"),
    [
        (int, "text", "valid integer"),
        (Box[int], {"value": "text"}, "value: "),
    ],
)
def test_a_value_of_another_type_is_refused(hint: Any, value: Any, problem: str) -> None:
    kind = type_of_result("x", lambda: None, hint)
    with pytest.raises(InvalidResultError, match=problem):
        kind.encode(value)


@pytest.mark.parametrize("hint", [SecretStr, list[SecretStr], Box[SecretStr]])
def test_a_secret_is_no_result(hint: Any) -> None:
    with pytest.raises(DeclarationError, match=r"step 'x'.*secret"):
        type_of_result("x", lambda: None, hint)


def test_what_was_recorded_for_another_type_is_refused() -> None:
    with pytest.raises(InvalidResultError, match="read back"):
        type_of_result("x", lambda: None, int).decode(b'"text"')


def annotated(a: int) -> tuple[int, ...]:
    return (a,)


def named(a: int) -> "tuple[int, ...]":
    return (a,)


async def coroutine(a: int) -> tuple[int, ...]:
    return (a,)


def awaitable(a: int) -> Awaitable[tuple[int, ...]]:
    return coroutine(a)


def coroutine_of(a: int) -> Coroutine[Any, Any, tuple[int, ...]]:
    return coroutine(a)


class Callables:
    def method(self, a: int) -> tuple[int, ...]:
        return (a,)

    @staticmethod
    def static(a: int) -> tuple[int, ...]:
        return (a,)

    def __call__(self, a: int) -> tuple[int, ...]:
        return (a,)


@functools.wraps(annotated)
def decorated(*args: Any) -> Any:
    return annotated(*args)


@pytest.mark.parametrize(
    "function",
    [
        annotated,
        named,
        coroutine,
        awaitable,
        coroutine_of,
        functools.partial(annotated, 1),
        functools.partial(functools.partial(annotated), 1),
        Callables().method,
        Callables.static,
        Callables(),
        decorated,
    ],
)
def test_the_return_annotation_is_found(function: Callable[..., Any]) -> None:
    kind = type_of_result("x", function, None)
    assert kind.decode(kind.encode((1, 2))) == (1, 2)


def test_a_class_returns_its_objects() -> None:
    kind = type_of_result("x", Aliased, None)
    assert kind.decode(b'{"inner":3}').inner == 3


def test_none_is_a_return_type() -> None:
    def nothing() -> None: ...

    kind = type_of_result("x", nothing, None)
    assert kind.encode(None) == b"null"
    with pytest.raises(InvalidResultError):
        kind.encode("something")


def test_types_that_cannot_be_written_are_refused_before_the_call() -> None:
    class Opaque: ...

    def opaque() -> Opaque:
        return Opaque()

    with pytest.raises(DeclarationError, match=r"step 'x'.*cannot be written as JSON"):
        type_of_result("x", opaque, None)


def test_an_annotation_that_cannot_be_resolved_asks_for_returns() -> None:
    def unresolved() -> "Missing":  # type: ignore[name-defined]  # noqa: F821
        ...

    with pytest.raises(DeclarationError, match="pass returns="):
        type_of_result("x", unresolved, None)
    assert type_of_result("x", unresolved, int).encode(1) == b"1"


def test_an_annotation_that_cannot_be_hashed_is_a_type_too() -> None:
    kind = type_of_result("x", lambda: None, Annotated[int, {"not": "hashable"}])
    assert kind.encode(1) == b"1"


def test_answers_have_the_names_of_their_schema() -> None:
    kind = answer_type(Aliased)
    assert kind.schema["required"] == ["readName"]
    assert kind.decode(b'{"readName":3}').inner == 3
    with pytest.raises(InvalidResultError, match="readName"):
        kind.decode(b'{"inner":3}')


@pytest.mark.parametrize(
    ("hint", "secret"),
    [(SecretStr, True), (dict[str, list[SecretStr]], True), (str, False), (Aliased, False)],
)
def test_a_secret_in_an_answer_is_recognised(hint: Any, secret: bool) -> None:
    assert answer_type(hint).secret is secret


class Credentials(BaseModel):
    user: str
    password: SecretStr
    pins: list[Secret[int]] = []
    token: SecretBytes = SecretBytes(b"")


def test_the_secrets_in_an_answer_are_found() -> None:
    kind = answer_type(Credentials)
    answer = kind.decode(b'{"user": "ada", "password": "hunter22", "pins": [4711], "token": "x"}')
    assert {"hunter22", "4711", "x", "eA==", "78"} == set(kind.secrets_in(answer))
    marked = answer_type(Annotated[str, Field(json_schema_extra={"writeOnly": True})])
    assert marked.secret
    assert marked.secrets_in("hunter22") == ("hunter22",)


def test_the_error_of_a_secret_answer_shows_nothing_of_it() -> None:
    answer = b'{"user": "ada", "password": ["hunter22"]}'
    with pytest.raises(InvalidResultError) as error:
        answer_type(Credentials).decode(answer)
    shown = "".join(traceback.format_exception(error.value))
    assert "hunter22" not in shown
    assert error.value.__context__ is None
