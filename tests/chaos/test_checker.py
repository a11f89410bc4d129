"""The judge of the chaos rounds finds what it is there to find; test_durability.py has more."""

from typing import Any

import pytest

from skillfleet.contracts import RunState
from tests.chaos.checker import check
from tests.chaos.evidence import Execution, Message, Run, Scene
from tests.chaos.load import Made
from tests.chaos.orders import Order
from tests.chaos.plain import Plain
from tests.chaos.troubles import Trouble, Troubles

MS = 1_000_000
OVER = 100_000
"""When the made-up rounds are over, in ms; journal and ledger read the same clock."""


class FakeJournal:
    """A journal that is made up: when (ms) the attempts of each run wrote."""

    def __init__(self, **runs: list[Execution]) -> None:
        self.executions = runs


def execution(attempt: int, *times: float, ended: bool = True, word: str = "tick") -> Execution:
    """One attempt, from its start on."""
    words = ["start", *[word] * (len(times) - 1)]
    if ended:
        words[-1] = "end"
    return Execution(attempt, attempt, tuple(words), tuple(int(time * MS) for time in times))


def run(
    name: str,
    skill: str,
    state: str,
    *attempts: tuple[float, float | None, str],
    **record: Any,
) -> Run:
    """One run; an attempt is its start, its end (ms) and its outcome."""
    listed = [
        {"number": number, "started": began, "outcome": outcome}
        | ({} if ended is None else {"ended": ended})
        for number, (began, ended, outcome) in enumerate(attempts, start=1)
    ]
    fields = {"state": state, "skill": skill, "attempt": len(attempts), "seq": 0, "created": 0}
    if RunState(state).terminal:
        fields["finished"] = attempts[-1][1] if attempts else 0
    result = {"result": record.pop("result")} if "result" in record else None
    texts = {key: str(value) for key, value in (fields | record).items()}
    return Run(name, texts, listed, [], [], result)


def verdict(
    runs: list[Run],
    journal: FakeJournal,
    made: dict[str, Made] | None = None,
    troubles: Troubles | None = None,
    messages: tuple[Message, ...] = (),
) -> list[str]:
    scene = Scene(troubles or Troubles(), {7: 0}, 0, OVER * MS, messages)
    by_id = {one.id: one for one in runs}
    return check(by_id, journal, made or {}, scene)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "older",
    [
        pytest.param([0, 100, 200, 2900], id="lost"),
        pytest.param([0, 100, 200, 5000, 5050], id="froze"),
        pytest.param([0, 100, 200, 5000, 5050, 8000, 8020], id="froze twice"),
        pytest.param([0, 100, 200, 2980, 3010], id="woke a moment before"),
    ],
)
def test_an_older_attempt_that_could_not_know_is_forgiven(older: list[int]) -> None:
    assert not overlaps(older)


@pytest.mark.parametrize(
    "older",
    [
        pytest.param([*range(0, 3200, 100)], id="never stood still"),
        pytest.param([0, 100, 200, *range(1900, 3200, 100)], id="went on"),
        pytest.param([0, 100, 200, *range(5000, 6300, 100)], id="awake too long"),
        pytest.param([0, *range(4000, 4700, 100), *range(5200, 5900, 100)], id="in two parts"),
    ],
)
def test_an_older_attempt_that_went_on_is_found(older: list[int]) -> None:
    assert overlaps(older)


def overlaps(older: list[int]) -> bool:
    twice = run("r", "sleep", "succeeded", (0, 2950, "lost"), (2960, 8500, "succeeded"))
    journal = FakeJournal(r=[execution(1, *older), execution(2, 3000, 3100, 3200, 8500)])
    return any("overlapped" in problem for problem in verdict([twice], journal))


# -- a handler that is over, and what it called

LEFT = run("p", "leave", "succeeded", (0, 1100, "succeeded"))
SOON = execution(1, 0, 500, 1000)


def child(state: str, *attempts: tuple[float, float | None, str]) -> Run:
    return run("c", "sleep", state, *attempts, parent="p")


def test_a_caller_that_ends_and_takes_its_call_along_is_in_order() -> None:
    cancelled = child("cancelled", (200, 900, "released"), (1000, 1500, "cancelled"))
    journal = FakeJournal(p=[SOON], c=[execution(1, 210, 890), execution(2, 1010, 1490)])
    assert verdict([LEFT, cancelled], journal) == []


def test_a_caller_that_did_not_end_when_its_handler_had_is_found() -> None:
    late = run("p", "leave", "succeeded", (0, 45_000, "succeeded"))
    cancelled = child("cancelled", (200, 45_100, "cancelled"))
    journal = FakeJournal(p=[SOON], c=[execution(1, 210, 45_000)])
    assert verdict([late, cancelled], journal) == [
        "p (leave, succeeded): attempt 1 went on without its handler for 44.0 s"
    ]
    still = run("p", "leave", "running", (0, None, ""))
    assert verdict([still], FakeJournal(p=[SOON])) == [
        "p (leave, running): did not end",
        "p (leave, running): attempt 1 went on without its handler for 99.0 s",
    ]


@pytest.mark.parametrize("struck", [None, 0])
def test_time_in_trouble_does_not_count(struck: int | None) -> None:
    late = run("p", "leave", "succeeded", (0, 45_000, "succeeded"))
    handler = Execution(1, 1, SOON.words, SOON.times, group=7)
    away = Troubles(Trouble(2000 * MS, 20_000 * MS, struck), Trouble(15_000 * MS, 40_000 * MS))
    assert verdict([late], FakeJournal(p=[handler]), troubles=away) == []
    other_worker = Troubles(Trouble(2000 * MS, 40_000 * MS, worker=1))
    assert verdict([late], FakeJournal(p=[handler]), troubles=other_worker) != []


def test_a_call_that_outlives_its_caller_is_found() -> None:
    runs_on = child("succeeded", (200, 40_200, "succeeded"))
    journal = FakeJournal(p=[SOON], c=[execution(1, 210, 20_000, 40_190)])
    assert verdict([LEFT, runs_on], journal) == [
        "c (sleep, succeeded): was executed for 39.1 s after its caller had ended",
        "c (sleep, succeeded): its caller ended before, so it should be cancelled",
    ]


def test_a_call_that_no_one_ends_in_the_queue_is_found() -> None:
    queued = child("cancelled", (200, 900, "released"))
    queued.record["finished"] = "60000"
    assert verdict([LEFT, queued], FakeJournal(p=[SOON], c=[execution(1, 210, 890)])) == [
        "c (sleep, cancelled): ended 58.9 s after its caller"
    ]


def test_a_call_that_starts_after_its_caller_ended_is_found() -> None:
    again = child("cancelled", (200, 900, "lost"), (1200, 2000, "cancelled"))
    journal = FakeJournal(p=[SOON], c=[execution(1, 210, 890), execution(2, 1210, 1990)])
    assert verdict([LEFT, again], journal) == [
        "c (sleep, cancelled): attempts [2] began after its caller had ended"
    ]


def test_a_call_that_is_started_over_and_over_is_found() -> None:
    caller = run("p", "leave", "succeeded", (0, 6000, "succeeded"))
    attempts = [(500 * n, 500 * n + 400, "released") for n in range(1, 12)]
    restless = child("cancelled", *attempts)
    executions = [execution(n, 500 * n + 10, 500 * n + 390) for n in range(1, 12)]
    journal = FakeJournal(p=[SOON], c=executions)
    assert verdict([caller, restless], journal) == [
        "c (sleep, cancelled): was started 9 times after its caller's handler had ended"
    ]
    excused = Troubles(*(Trouble(n * 1000 * MS, n * 1000 * MS, 1) for n in range(1, 5)))
    assert verdict([caller, restless], journal, troubles=excused) == []


@pytest.mark.parametrize(("last", "wrong"), [(1500, False), (30_000, True)])
def test_a_caller_that_does_not_learn_of_a_failure_is_found(last: int, wrong: bool) -> None:
    caller = run("p", "leave", "failed", (0, last + 100, "failed"))
    failed = run("c", "fail", "failed", (200, 1000, "failed"), parent="p")
    journal = FakeJournal(p=[execution(1, 0, last)], c=[execution(1, 210, 990)])
    assert verdict([caller, failed], journal) == wrong * [
        "c (fail, failed): its caller went on for 29.0 s after it had failed"
    ]


# -- cancellations


@pytest.mark.parametrize(("ended", "wrong"), [(3000, 0), (41_000, 1)])
def test_a_cancelled_run_has_to_end_soon(ended: int, wrong: int) -> None:
    one = run("r", "sleep", "cancelled", (0, ended, "cancelled"))
    order = Order("chaos.sleep", {}, RunState.CANCELLED, cancel_after=2)
    made = {"r": Made(order, cancelled_at=2000 * MS)}
    found = verdict([one], FakeJournal(r=[execution(1, 10, 1990)]), made)
    expected = ["attempt 1 went on without its handler", "after it was cancelled"]
    assert len(found) == wrong * len(expected)
    assert all(text in line for text, line in zip(expected[::-1], found, strict=False))


# -- messages of plain Celery clients

AFTER = {"r": Made(Order("chaos.sleep", {}, value=1, plain=Plain("link")))}
DONE = run("r", "sleep", "succeeded", (0, 1000, "succeeded"), result=1)


def follower(name: str, created: int = 1100, value: int = 1) -> Run:
    end = (created + 10, created + 100, "succeeded")
    return run(name, "linked", "succeeded", end, created=created, result=value)


def linked(*names: str, created: int = 1100) -> FakeJournal:
    executions = {
        name: [
            Execution(
                1, 1, ("start", "for:r", "end"), tuple((created + n) * MS for n in (20, 30, 40))
            )
        ]
        for name in names
    }
    return FakeJournal(r=[execution(1, 10, 990)], **executions)


def test_a_link_that_is_called_once_with_the_value_is_in_order() -> None:
    assert verdict([DONE, follower("l")], linked("l"), AFTER) == []


def test_a_link_whose_message_is_still_at_the_broker_was_called() -> None:
    waiting = (Message("l", {"order": "r"}),)
    assert verdict([DONE], linked(), AFTER, messages=waiting) == []
    claimed = (Message("l", {"order": "r"}), Message("other", {"order": "s"}))
    assert verdict([DONE, follower("l")], linked("l"), AFTER, messages=claimed) == []


def test_a_link_that_is_not_called_or_called_twice_is_found() -> None:
    name = "r (sleep, succeeded): its link was called"
    assert verdict([DONE], linked(), AFTER) == [f"{name} 0 times, not 1"]
    twice = [DONE, follower("l"), follower("m")]
    assert verdict(twice, linked("l", "m"), AFTER) == [f"{name} 2 times, not 1"]


def test_a_link_that_is_called_early_or_with_something_else_is_found() -> None:
    name = "r (sleep, succeeded): its link was called"
    early = [DONE, follower("l", created=900)]
    assert verdict(early, linked("l", created=900), AFTER) == [f"{name} before it had ended"]
    assert verdict([DONE, follower("l", value=2)], linked("l"), AFTER) == [f"{name} with 2, not 1"]


def limited_order(**limits: float) -> dict[str, Made]:
    plain = Plain("link", limits)
    return {"r": Made(Order("chaos.sleep", {}, RunState.TIMED_OUT, plain=plain))}


def test_a_run_that_ends_at_its_time_limit_is_in_order_and_calls_nothing() -> None:
    one = run("r", "sleep", "timed_out", (0, 2100, "timed_out"))
    journal = linked()
    journal.executions["r"] = [execution(1, 10, 2050)]
    assert verdict([one], journal, limited_order(time_limit=2)) == []
    journal = linked("l")
    journal.executions["r"] = [execution(1, 10, 990)]
    assert verdict([one, follower("l", created=2200)], journal, limited_order(time_limit=2)) == [
        "r (sleep, timed_out): its link was called 1 times, not 0"
    ]


def test_a_run_that_goes_on_beyond_its_time_limit_is_found() -> None:
    one = run("r", "sleep", "timed_out", (0, 40_100, "timed_out"))
    journal = FakeJournal(r=[execution(1, 0, 20_000, 40_000)])
    assert verdict([one], journal, limited_order(time_limit=2)) == [
        "r (sleep, timed_out): attempt 1 went on for 38.0 s beyond its time limit"
    ]


def test_a_plain_message_may_wait_at_the_broker_and_nowhere_else() -> None:
    assert verdict([], FakeJournal(), AFTER, messages=(Message("r", {}),)) == []
    assert verdict([], FakeJournal(), AFTER) == ["r was accepted and is not in the ledger"]
    order = {"r": Made(Order("chaos.sleep", {}))}
    lost = verdict([], FakeJournal(), order, messages=(Message("r", {}),))
    assert lost == ["r was accepted and is not in the ledger"]
