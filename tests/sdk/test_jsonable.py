"""Arguments are checked as the JSON that travels, or refused by name."""

import dataclasses
import datetime as dt
import enum
import math
import types
import uuid
from collections import OrderedDict, UserDict, defaultdict, deque
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr
from pydantic.dataclasses import dataclass as checked_dataclass

from skillfleet import Agent, LocalRunContext, NoAuth, RunContext
from skillfleet.arguments import json_arguments
from skillfleet.errors import ArgumentsTooLargeError, InvalidArgumentsError
from skillfleet.jsonable import NotJsonError, to_json
from skillfleet.testing.in_process import InProcessA2AClient


class Text(str):
    """As Django's SafeString."""

    __slots__ = ()

    def __str__(self) -> str:
        return "not this"


class Number(int):
    def __int__(self) -> int:
        return -1


class Share(float):
    """As numpy's float64."""


class Kind(enum.StrEnum):
    A = "a"


class Old(str, enum.Enum):  # noqa: UP042 - as it was written before StrEnum
    A = "a"


class Level(enum.IntEnum):
    ONE = 1


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    _y: Any


@checked_dataclass
class Size:
    width: int = Field(alias="w")


class Item(BaseModel):
    user_id: Any = Field(alias="userId")


class Pair(NamedTuple):
    one: int
    two: str


class Login(BaseModel):
    password: SecretStr


AT = dt.datetime(2026, 1, 2, 3, tzinfo=dt.timezone(dt.timedelta(hours=5)))
MADE: list[tuple[Any, Any]] = [
    (Text("<b>"), "<b>"),
    (Number(5), 5),
    (Share(0.5), 0.5),
    (Kind.A, "a"),
    (Old.A, "a"),
    (Level.ONE, 1),
    (Color.RED, "red"),
    (AT, "2026-01-02T03:00:00+05:00"),
    (dt.date(2026, 1, 2), "2026-01-02"),
    (dt.time(3, 4), "03:04:00"),
    (dt.timedelta(minutes=1), "PT1M"),
    (uuid.UUID(int=7), str(uuid.UUID(int=7))),
    (Decimal("1.10"), "1.10"),
    (Decimal("1E+3"), "1000"),
    (Decimal("1E+999999"), "1E+999999"),
    (b"caf\xc3\xa9", "caf\u00e9"),
    (bytearray(b"a"), "a"),
    (PurePosixPath("a/b"), "a/b"),
    (Point(1, Kind.A), {"x": 1, "_y": "a"}),
    (Size(w=3), {"w": 3}),
    (Item(userId=Level.ONE), {"userId": 1}),
    (OrderedDict(a=1), {"a": 1}),
    (defaultdict(int, a=1), {"a": 1}),
    (types.MappingProxyType({"a": (1,)}), {"a": [1]}),
    (UserDict({"a": 1}), {"a": 1}),
    ({Kind.A: 1, Text("b"): 2}, {"a": 1, "b": 2}),
    ((1, "a"), [1, "a"]),
    (Pair(1, "a"), [1, "a"]),
    (deque([1]), [1]),
    (2**64 - 1, 2**64 - 1),
    (-(2**63), -(2**63)),
    (-0.0, -0.0),
    (1e300, 1e300),
    ("a\0\u202e\U0001f600", "a\0\u202e\U0001f600"),
]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def circle() -> Any:
    value: dict[str, Any] = {}
    value["again"] = [value, value]
    return value


class Raising(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise RuntimeError

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError

    def __len__(self) -> int:
        raise RuntimeError


class Unequal(str):
    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError


REFUSED: list[tuple[Any, str, str]] = [
    (math.nan, "v", "NaN"),
    ([1, {"n": -math.inf}], "v.1.n", "infinity"),
    (Share(math.nan), "v", "NaN"),
    (Decimal("sNaN"), "v", "NaN"),
    (Point(1, math.nan), "v._y", "NaN"),
    (Item(userId=math.nan), "v.userId", "NaN"),
    ({"a": 2**64}, "v.a", "64 bits"),
    (Number(-(2**63) - 1), "v", "64 bits"),
    (["\ud800"], "v.0", r"surrogate U\+D800"),
    ({"\ud800": 1}, "v", "surrogate"),
    ({1: "a"}, "v", "keys are text"),
    ({None: "a"}, "v", "keys are text"),
    ({(1, 2): "a"}, "v", "keys are text"),
    ({1, 2}, "v", "write a list"),
    (frozenset(), "v", "write a list"),
    (range(3), "v", "write a list"),
    ((n for n in [1]), "v", "write a list"),
    (map(str, [1]), "v", "write a list"),
    (b"\xff", "v", "base64"),
    (object(), "v", "write its fields"),
    (int, "v", "write its fields"),
    (len, "v", "write its fields"),
    (ValueError("x"), "v", "write its fields"),
    (SecretStr("x"), "v", "keeps a secret"),
    (Login(password=SecretStr("x")), "v.password", "keeps a secret"),
    (Item(userId=[{"a": math.inf}]), "v.userId.0.a", "NaN"),
    (Raising(), "v", "raised RuntimeError"),
    (circle(), r"v.again.0", "holds itself"),
    (nested(200), "v", "200 deep"),
    (nested(100_000), "v", "200 deep"),
]


@pytest.mark.parametrize(("value", "made"), MADE, ids=lambda value: type(value).__name__)
def test_everyday_objects_become_json(value: Any, made: Any) -> None:
    encoded, plain = to_json({"v": [value]})
    assert orjson.loads(encoded) == plain == {"v": [made]}
    assert_plain(plain)


def assert_plain(value: Any) -> None:
    assert type(value) in (dict, list, str, int, float, bool, type(None))
    for item in value.values() if isinstance(value, dict) else value if type(value) is list else ():
        assert_plain(item)


def test_a_text_that_cannot_be_compared_is_a_text() -> None:
    assert to_json({"v": Unequal("a")}).plain == {"v": "a"}


@pytest.mark.parametrize(("value", "where", "why"), REFUSED, ids=lambda value: type(value).__name__)
def test_what_json_cannot_carry_is_refused_by_name(value: Any, where: str, why: str) -> None:
    for given_ in ({"v": value}, {"one": 1, "v": value}, OrderedDict(v=value)):
        with pytest.raises(InvalidArgumentsError, match=why) as caught:
            json_arguments("a.b", given_)
        assert f"argument '{where}" in str(caught.value)


def test_json_may_be_as_deep_as_its_readers_go() -> None:
    assert agent.skills["takes"].bind({"v": nested(199)}) == {"v": nested(199)}


def test_an_object_that_celery_would_take_for_a_typed_value_is_refused() -> None:
    typed = {"__type__": "decimal", "__value__": "1"}
    with pytest.raises(InvalidArgumentsError, match="takes for a typed value"):
        json_arguments("a.b", {"v": [typed]})
    assert json_arguments("a.b", {"v": typed | {"a": 1}, "w": "__type__"}).plain["v"]["a"] == 1


def test_size_counts_what_was_encoded() -> None:
    with pytest.raises(ArgumentsTooLargeError, match="15 bytes, the limit is 14"):
        json_arguments("a.b", {"v": (Kind.A, Kind.A)}, 14)


odd = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.text(st.characters(categories=["Cs"]))
    | st.binary()
    | st.decimals()
    | st.datetimes()
    | st.timedeltas()
    | st.uuids()
    | st.sampled_from([Kind.A, Level.ONE, Color.RED, Text("t"), object(), SecretStr("s"), len]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.sets(st.integers(), max_size=2)
        | st.tuples(inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.builds(Point, st.integers(), inner)
    ),
    max_leaves=8,
)


@given(odd)
def test_any_value_becomes_plain_json_or_is_refused(value: Any) -> None:
    try:
        encoded, plain = to_json(value)
    except NotJsonError as error:
        orjson.dumps([str(error), error.where])
    else:
        assert_plain(plain)
        assert orjson.loads(encoded) == plain


REFUSAL = r"argument 'v' of json\.takes is not JSON"
agent = Agent("json")


@agent.skill
async def takes(ctx: RunContext, v: Any) -> Any:
    return v


@agent.skill
async def calls(ctx: RunContext, made: bool) -> Any:
    value = [each for each, _ in MADE] if made else math.nan
    return (await ctx.call("json", "takes", args={"v": value})).result


async def test_check_bind_and_calls_give_one_answer() -> None:
    made = [each for _, each in MADE]
    given_ = {"v": [each for each, _ in MADE]}
    takes.check(given_)
    assert takes.bind(given_) == {"v": made}
    ctx = LocalRunContext(auth=NoAuth(), a2a=InProcessA2AClient([agent]))
    assert await calls(ctx, made=True) == made
    for ask in (takes.check, takes.bind):
        with pytest.raises(InvalidArgumentsError, match=REFUSAL):
            ask({"v": math.nan})
    with pytest.raises(InvalidArgumentsError, match=REFUSAL):
        await calls(ctx, made=False)


@agent.skill
async def typed(
    ctx: RunContext, price: Decimal, data: bytes, at: dt.datetime, kind: Color
) -> None: ...


def test_typed_values_reach_the_handler_as_their_types() -> None:
    values = {"price": Decimal("1E+2"), "data": b"abc", "at": AT, "kind": Color.RED}
    typed.check(values)
    assert typed.bind(values) == values


class Picky(BaseModel):
    n: int

    def model_post_init(self, _: Any) -> None:
        raise KeyError(self.n)


@agent.skill
async def picky(ctx: RunContext, v: Picky) -> None: ...


def test_a_validator_that_raises_anything_refuses_the_arguments() -> None:
    with pytest.raises(InvalidArgumentsError, match=r"json\.picky cannot be read: KeyError: 1"):
        picky.bind({"v": {"n": 1}})


@pytest.mark.parametrize("timeout", [math.inf, "5", True, 10**12])
async def test_a_calls_timeout_is_refused_like_that_of_a_run(timeout: Any) -> None:
    ctx = LocalRunContext(auth=NoAuth(), a2a=InProcessA2AClient([agent]))
    with pytest.raises(InvalidArgumentsError, match="timeout must be"):
        await ctx.call("json", "takes", args={"v": 1}, timeout=timeout)


async def test_the_code_of_an_emitted_error_is_text() -> None:
    ctx = LocalRunContext(auth=NoAuth())
    await ctx.emit_error("busy", code=429)
    await ctx.emit_error("busy", code=Color.RED)  # type: ignore[arg-type]
    await ctx.emit_error("busy")
    assert [event.payload["code"] for event in ctx.events] == ["429", "red", None]
