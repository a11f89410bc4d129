"""One answer for the same arguments: before the first worker, after it, alone, in a batch."""

import datetime as dt
import enum
import math
from collections import OrderedDict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from skillfleet.errors import IdempotencyConflictError, InvalidArgumentsError, RunFailed
from skillfleet_producer import Fleet
from skillfleet_producer.submission import Options, claims_of
from tests.producer.typed import CODES
from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer, running_server
from tests.worker.plain import plain_celery

pytestmark = pytest.mark.xdist_group("producer arguments")


class Text(str):
    """As Django's SafeString."""

    __slots__ = ()


class Kind(enum.StrEnum):
    A = "a"


class Level(enum.IntEnum):
    ONE = 1


AT = dt.datetime(2026, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=1)))
TAKEN: list[tuple[str, Any, Any]] = [
    ("text", Text("<b>"), "<b>"),
    ("text", Kind.A, "a"),
    ("number", Level.ONE, 1),
    ("when", AT, "2026-01-02T00:00:00+01:00"),
    ("money", Decimal("1E+2"), "100"),
    ("raw", b"a\n", [97, 10]),
    ("anything", OrderedDict(at=AT, kind=(Kind.A,)), {"at": AT.isoformat(), "kind": ["a"]}),
]
REFUSED: list[tuple[str, Any, str]] = [
    ("anything", {"n": [math.nan]}, r"'v\.n\.0'"),
    ("anything", {"s": {1}}, r"'v\.s'"),
    ("anything", {1: "a"}, "'v'"),
    ("number", 2**64, "'v'"),
    ("text", "\ud800", "'v'"),
    ("anything", object(), "'v'"),
]


def kind(value: Any) -> str:
    """The name of a case: the same in all processes that collect it."""
    return value if type(value) is str and value.isalpha() else type(value).__name__


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """A server where a worker of these skills was seen."""
    with running_server() as server, FleetWorker(server, "tests.producer.typed"):
        yield server


@pytest.fixture(scope="module")
def typed(server: ValkeyServer) -> Iterator[Fleet]:
    """A producer of that server."""
    with Fleet(server.producer_url) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def empty() -> Iterator[Fleet]:
    """A producer of a server that no worker has ever used."""
    with running_server() as server, Fleet(server.producer_url) as fleet:
        yield fleet


@pytest.mark.parametrize(("skill", "value", "got"), TAKEN, ids=kind)
def test_everyday_objects_arrive_as_json(
    typed: Fleet, empty: Fleet, skill: str, value: Any, got: Any
) -> None:
    one = typed.enqueue(f"typed.{skill}", {"v": value})
    many = typed.enqueue_many(f"typed.{skill}", [{"v": value}] * 2)
    assert [run.result(timeout=30) for run in (one, *many)] == [got] * 3
    empty.enqueue(f"typed.{skill}", {"v": value})
    empty.enqueue_many(f"typed.{skill}", [{"v": value}])


@pytest.mark.parametrize(("skill", "value", "where"), REFUSED, ids=kind)
def test_values_that_json_cannot_carry_are_refused_everywhere(
    typed: Fleet, empty: Fleet, skill: str, value: Any, where: str
) -> None:
    reported = set()
    for fleet in (typed, empty):
        for ask in (
            lambda: fleet.enqueue(f"typed.{skill}", {"v": value}),  # noqa: B023 - called at once
            lambda: fleet.enqueue_many(f"typed.{skill}", [{"v": value}]),  # noqa: B023
        ):
            with pytest.raises(InvalidArgumentsError, match=where) as caught:
                ask()
            reported.add(str(caught.value))
    assert len(reported) == 1


def test_the_same_json_is_the_same_call(empty: Fleet) -> None:
    first = empty.enqueue("typed.anything", {"v": (Kind.A, Level.ONE)}, idempotency_key="k")
    again = empty.enqueue("typed.anything", {"v": ["a", 1]}, idempotency_key="k")
    assert again.id == first.id
    with pytest.raises(IdempotencyConflictError):
        empty.enqueue("typed.anything", {"v": ["a", 2]}, idempotency_key="k")


@pytest.mark.parametrize(
    ("skill", "value", "got"),
    [
        ("money", 'Decimal("1.10")', "1.10"),
        ("raw", 'b"abc"', [97, 98, 99]),
        ("when", "datetime(2026, 1, 2)", "2026-01-02T00:00:00"),
        ("anything", '{"m": Decimal("1.10"), "b": [b"abc"]}', {"m": "1.10", "b": ["abc"]}),
    ],
)
def test_typed_values_of_celerys_own_json_are_taken(
    server: ValkeyServer, skill: str, value: str, got: Any
) -> None:
    code = (
        "from datetime import datetime; from decimal import Decimal\n"
        f'report(outcome(app.send_task("typed.{skill}", kwargs={{"v": {value}}})))\n'
        f'report(outcome(app.send_task("typed.{skill}", args=[{value}])))\n'
    )
    assert plain_celery(server.url, code) == [["value", got, "SUCCESS"]] * 2


def test_bytes_of_a_plain_client_that_are_not_text_are_refused_by_name(
    server: ValkeyServer, typed: Fleet
) -> None:
    code = (
        r'sent = app.send_task("typed.raw", kwargs={"v": b"\xff"}); '
        "report([sent.id, *outcome(sent)])"
    )
    [[run_id, _, message, state]] = plain_celery(server.url, code)
    assert state == "FAILURE"
    assert "argument 'v' of typed.raw is not JSON: these bytes are not UTF-8" in message
    status = typed.run(run_id).status()
    assert (status.state, status.code, status.attempt) == ("failed", "invalid_arguments", 1)


@pytest.mark.parametrize("how", CODES)
def test_a_code_is_the_same_text_everywhere(typed: Fleet, how: str) -> None:
    run = typed.enqueue("typed.fails", {"how": how})
    with pytest.raises(RunFailed) as caught:
        run.result(timeout=30)
    status, final = run.status(), list(run.events(timeout=30))[-1]
    code = caught.value.code
    assert type(code) is str
    assert {status.code, final.payload["code"], caught.value.code} == {code}
    assert (status.state, status.attempt) == ("failed", 1)
    assert status.message == caught.value.message == str({"why": how})
    assert typed.enqueue("typed.calls", {"how": how}).result(timeout=30) == code


@pytest.mark.parametrize(
    ("errors", "attempts"),
    [
        ([[True, None], [True, "no time"]], 2),
        ([[True, "0.01"], [False, None]], 1),
    ],
)
def test_a_group_is_retried_when_each_of_its_errors_may_be(
    typed: Fleet, errors: list[list[Any]], attempts: int
) -> None:
    run = typed.enqueue("typed.busy", {"errors": errors})
    if attempts == 2:
        assert run.result(timeout=30) == 2
    else:
        with pytest.raises(RunFailed, match="2 errors: skill_error: no 0; skill_error: no 1"):
            run.result(timeout=30)
    assert run.status().attempt == attempts


class Claims(BaseModel):
    sub: str
    since: dt.datetime
    level: Any


def test_claims_become_json_or_are_refused_by_name() -> None:
    assert claims_of(Claims(sub="a", since=AT, level=Level.ONE)) == {
        "sub": "a",
        "since": AT.isoformat(),
        "level": 1,
    }
    assert claims_of({"scopes": {"a"}, "sub": Text("a"), "kind": Kind.A}) == {
        "scopes": ["a"],
        "sub": "a",
        "kind": "a",
    }
    for wrong in (
        {"n": math.nan},
        {"n": "\ud800"},
        {"n": object()},
        Claims.model_construct(sub=len),
    ):
        with pytest.raises(InvalidArgumentsError, match="auth: "):
            claims_of(wrong)


@pytest.mark.parametrize(
    "options",
    [
        *({"idempotency_key": "\ud800"}, {"queue": "\ud800"}, {"queue": 5}, {"queue": ""}),
        *({"timeout": True}, {"timeout": math.inf}, {"delay": math.nan}, {"delay": 10**400}),
    ],
    ids=str,
)
def test_options_that_no_record_can_hold_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentsError, match=next(iter(options))):
        Options(**options)
