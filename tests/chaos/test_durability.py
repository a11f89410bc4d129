"""The judge finds repeated steps, decisions that are lost or contradicted, repeated texts."""

import dataclasses

import pytest

from skillfleet.contracts import RunEvent, RunState, from_millis
from tests.chaos.checker import check
from tests.chaos.evidence import Entry, Execution, Run, Scene
from tests.chaos.inputs import Given, Inputs, Luck, Sent
from tests.chaos.load import Made
from tests.chaos.occurrences import Kept, Pulse, occurred
from tests.chaos.orders import ITS_OWN, Order
from tests.chaos.test_checker import MS, FakeJournal, run, verdict

KEY = "step:first:k1"
DONE = (KEY, "made:first:v1", "have:first:v1")
FIRST = {"first": "v1"}
TEXT = ("first.0;", "first.1;", "first.2;", "after-first;")


def noted(attempt: int, *words: str, began: int = 0, every: int = 10) -> Execution:
    """One attempt that noted these words, and its start and end."""
    all_ = ("start", *words, "end")
    times = tuple((began + every * n) * MS for n in range(len(all_)))
    return Execution(attempt, attempt, all_, times)


def texts(*pieces: str, step: str = "s1") -> list[Entry]:
    """The events of a text; what does not begin with `after` belongs to a step."""
    return [
        Entry(
            f"{number}-0",
            "text_delta",
            {"text": piece},
            1,
            None if piece.startswith("after") else step,
        )
        for number, piece in enumerate(pieces, start=1)
    ]


def durable_run(
    skill: str,
    *attempts: tuple[float, float, str],
    had: dict[str, str],
    events: list[Entry] | None = None,
    recorded: dict[str, int] | None = None,
) -> Run:
    """A run of a durable kind which returned what its handler got."""
    one = run("r", skill, attempts[-1][2], *attempts, result=had)
    return dataclasses.replace(one, events=events or [], recorded=recorded or {})


def steps_run(events: list[Entry] | None = None) -> Run:
    """A run whose first attempt was lost."""
    attempts = ((0, 200, "lost"), (300, 500, "succeeded"))
    found = events if events is not None else texts(*TEXT)
    return durable_run("steps", *attempts, events=found, recorded={"first": 1}, had=FIRST)


def problems_of(one: Run, *executions: Execution, made: Made | None = None) -> list[str]:
    found = verdict([one], FakeJournal(r=list(executions)), {"r": made} if made else None)
    name = f"r ({one.skill}, {one.state}): "
    assert all(line.startswith(name) for line in found)
    return [line.removeprefix(name) for line in found]


# -- steps


def test_a_step_that_is_replayed_is_in_order() -> None:
    first, second = noted(1, *DONE), noted(2, "have:first:v1", began=310)
    assert problems_of(steps_run(), first, second) == []


def test_a_step_that_died_before_it_was_recorded_may_execute_again() -> None:
    one = dataclasses.replace(steps_run(), recorded={"first": 2})
    assert problems_of(one, noted(1, KEY, "made:first:v0"), noted(2, *DONE, began=310)) == []


@pytest.mark.parametrize(
    ("recorded", "had", "how"), [({}, "have:first:v1", "got"), ({"first": 1}, "tick", "recorded")]
)
def test_a_recorded_step_that_executes_again_is_found(
    recorded: dict[str, int], had: str, how: str
) -> None:
    one = dataclasses.replace(steps_run(), recorded=recorded)
    first, second = noted(1, KEY, "made:first:v1", had), noted(2, *DONE, began=310)
    assert problems_of(one, first, second) == [
        f"step first was {how} in attempt 1 and executed again in [2]"
    ]


def test_a_step_that_executes_twice_in_one_attempt_is_found() -> None:
    twice, second = noted(1, KEY, *DONE), noted(2, "have:first:v1", began=310)
    assert problems_of(steps_run(), twice, second) == [
        "step first was executed 2 times in attempt 1"
    ]
    tried = noted(1, KEY, "broke:first", *DONE)
    assert problems_of(steps_run(), tried, second) == []


def test_a_step_with_two_keys_and_a_key_with_two_steps_are_found() -> None:
    one = dataclasses.replace(steps_run(), recorded={})
    first = noted(1, "step:first:k0")
    assert problems_of(one, first, noted(2, *DONE, began=310)) == [
        "step first had the keys ['k0', 'k1']"
    ]
    other = noted(1, "step:second:k1")
    assert problems_of(one, other, noted(2, *DONE, began=310)) == [
        "steps ['first', 'second'] had one key"
    ]


def test_attempts_that_get_different_results_are_found() -> None:
    first, second = noted(1, *DONE), noted(2, "have:first:v2", began=310)
    assert problems_of(steps_run(), first, second) == [
        "first led to v1 in attempt 1 and v2 in attempt 2",
        "step first led to ['v2'], which it never made",
        "returned {'first': 'v1'}, its skill got {'first': 'v2'}",
    ]


def test_a_step_that_was_executing_when_its_run_was_parked_is_found() -> None:
    attempts = ((0, 200, "parked"), (300, 500, "succeeded"))
    one = durable_run("steps", *attempts, events=texts(*TEXT), recorded={"first": 2}, had=FIRST)
    assert problems_of(one, noted(1, KEY), noted(2, *DONE, began=310)) == [
        "step first was executing when attempt 1 was parked"
    ]


@pytest.mark.parametrize(
    ("last", "wrong"), [pytest.param(400, False, id="at once"), pytest.param(2400, True, id="late")]
)
def test_a_parked_handler_that_goes_on_is_found(last: int, wrong: bool) -> None:
    attempts = ((0, 200, "parked"), (300, 5000, "succeeded"))
    one = durable_run("steps", *attempts, events=texts(*TEXT), recorded={"first": 1}, had=FIRST)
    times = tuple(time * MS for time in (0, 10, 20, 30, *range(110, last, 100)))
    older = Execution(1, 1, ("start", *DONE, *["tick"] * (len(times) - 4)), times)
    found = problems_of(one, older, noted(2, "have:first:v1", began=310))
    assert [text.partition(":")[0] for text in found] == wrong * [
        "attempts 1 (parked) and 2 overlapped"
    ]


# -- texts


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param(TEXT[1:], id="without its beginning"),
        pytest.param((TEXT[0], *TEXT), id="a piece twice"),
        pytest.param((*TEXT[:3], *TEXT), id="a step twice"),
        pytest.param((TEXT[1], TEXT[0], *TEXT[2:]), id="out of order"),
        pytest.param((*TEXT, TEXT[-1]), id="after it twice"),
        pytest.param((*TEXT, "other.0;"), id="of a step that made nothing"),
    ],
)
def test_a_text_that_is_not_shown_once_is_found(pieces: tuple[str, ...]) -> None:
    first, second = noted(1, *DONE), noted(2, "have:first:v1", began=310)
    (problem,) = problems_of(steps_run(texts(*pieces)), first, second)
    assert problem.startswith("its stream says [")


def test_void_text_does_not_count_and_a_reader_has_to_know_that() -> None:
    first, second = noted(1, *DONE), noted(2, "have:first:v1", began=310)
    void = Entry("3-0", "superseded", {"from": "1-0", "to": "2-0", "step": "s1"}, 1)
    events = [*texts(*TEXT[:2]), void, *texts(*TEXT)]
    events = [dataclasses.replace(one, id=f"{n}-0") for n, one in enumerate(events, start=1)]
    assert problems_of(steps_run(events), first, second) == []
    made = Made(Order("durable.steps", {}, value=ITS_OWN))
    made.followed = [read(one) for one in events]
    assert problems_of(steps_run(events), first, second, made=made) == []
    made.followed[2] = made.followed[2].model_copy(update={"payload": {"step": "s2"}})
    (problem,) = problems_of(steps_run(events), first, second, made=made)
    assert problem.startswith("its reader's text says [")


def read(entry: Entry) -> RunEvent:
    return RunEvent(
        id=entry.id,
        kind=entry.kind,
        payload=entry.payload,
        attempt=entry.attempt,
        at=from_millis(0),
        step=entry.step,
    )


# -- questions


def asked(
    had: str | None,
    *given: Given,
    state: str = "succeeded",
    events: list[Entry] | None = None,
    timeout: float | None = None,
    after: int = 10,
) -> list[str]:
    """The problems of a run with one question."""
    words = ["ask:q1", *([] if had is None else [f"have:q1:{had}"])]
    values = {} if had is None else {"q1": had}
    shown = [] if had is None else texts("after-q1;")
    one = durable_run("questions", (0, 4000, state), events=events or shown, had=values)
    order = Order("durable.questions", {"timeout": timeout}, RunState(state), ITS_OWN)
    made = Made(order, given=list(given))
    return problems_of(one, noted(1, *words, every=after), made=made)


YES, NO = "answer=1", "rejected=no"
ACCEPTED = Given("q1", YES, Luck.ACCEPTED)


def test_decisions_that_are_received_are_in_order() -> None:
    assert asked(YES, ACCEPTED, ACCEPTED, Given("q1", NO, Luck.REFUSED)) == []
    assert asked(YES, Given("q1", YES)) == []
    assert asked("expired", Given("q1", YES, Luck.REFUSED), timeout=1, after=1000) == []
    assert asked(None, ACCEPTED, state="cancelled") == []


def test_an_accepted_answer_that_is_not_received_is_found() -> None:
    assert asked(None, ACCEPTED) == ["question q1: ['answer=1'] was accepted and lost"]


@pytest.mark.parametrize("had", ["answer=2", "expired", NO])
def test_an_acceptance_that_is_contradicted_is_found(had: str) -> None:
    found = asked(had, ACCEPTED, Given("q1", had, Luck.UNKNOWN))
    assert found == [f"question q1: ['answer=1'] was accepted, its skill got {had}"]


def test_two_that_were_accepted_are_found() -> None:
    found = asked(YES, ACCEPTED, Given("q1", "answer=2", Luck.ACCEPTED))
    assert found == ["question q1 was decided several times: ['answer=1', 'answer=2']"]


@pytest.mark.parametrize("given", [[], [Given("q1", YES, Luck.REFUSED)]])
def test_an_answer_that_no_one_gave_or_that_was_refused_is_found(given: list[Given]) -> None:
    assert asked(YES, *given) == [
        "question q1: its skill got answer=1, which no one gave or which was refused"
    ]


def test_a_question_that_expires_early_is_found() -> None:
    assert asked("expired", timeout=1, after=900) == [
        "question q1 expired before its 1.0 s were over"
    ]


def test_a_question_that_is_asked_again_is_found() -> None:
    again = [
        Entry("1-0", "wait", {"id": "1", "kind": "ask", "question": "Question q1"}, 1),
        Entry("2-0", "wait", {"id": "2", "kind": "ask", "question": "Question q1"}, 1),
        *(Entry("3-0", "wait_ended", {"id": "2"}, 1),) * 2,
        *texts("after-q1;"),
    ]
    assert asked(YES, ACCEPTED, events=again) == [
        "question q1 was asked 2 times",
        "wait 2 ended 2 times",
    ]


# -- messages


def received(*tokens: str, sent: list[Sent]) -> list[str]:
    """The problems of a run that received these messages."""
    had = {f"m{number}": token for number, token in enumerate(tokens, start=1)}
    shown = texts(*(f"after-{name};" for name in had))
    one = durable_run("inbox", (0, 900, "succeeded"), events=shown, had=had)
    order = Order("durable.inbox", {}, value=ITS_OWN, inputs=Inputs(pauses=(0.0,)))
    words = [f"have:{name}:{token}" for name, token in had.items()]
    return problems_of(one, noted(1, *words), made=Made(order, sent=sent))


A, B = Sent("a", Luck.ACCEPTED), Sent("b", Luck.ACCEPTED)


@pytest.mark.parametrize(
    ("tokens", "sent", "wrong"),
    [
        pytest.param("ab", [A, B], [], id="in order"),
        pytest.param("ab", [Sent("a"), B], [], id="one whose reply was lost"),
        pytest.param("b", [Sent("a"), B], [], id="one that did not arrive"),
        pytest.param("a", [A, B], ["1 messages were accepted and not received"], id="lost"),
        pytest.param(
            "ba", [A, B], ["received the messages [1, 0] of 2, in this order"], id="out of order"
        ),
        pytest.param(
            "aab", [A, B], ["received the messages [0, 0, 1] of 2, in this order"], id="twice"
        ),
        pytest.param(
            "abx", [A, B], ["received the messages [0, 1, -1] of 2, in this order"], id="unknown"
        ),
        pytest.param(
            "ab",
            [A, Sent("b", Luck.REFUSED)],
            ["received a message that was refused"],
            id="refused",
        ),
    ],
)
def test_messages(tokens: str, sent: list[Sent], wrong: list[str]) -> None:
    assert received(*tokens, sent=sent) == wrong


def test_a_message_that_is_another_one_in_the_next_attempt_is_found() -> None:
    attempts = ((0, 200, "lost"), (300, 500, "succeeded"))
    one = durable_run("inbox", *attempts, events=texts("after-m1;"), had={"m1": "b"})
    order = Order("durable.inbox", {}, value=ITS_OWN, inputs=Inputs(pauses=(0.0,)))
    executions = (noted(1, "have:m1:a"), noted(2, "have:m1:b", began=310))
    assert problems_of(one, *executions, made=Made(order, sent=[Sent("a"), B])) == [
        "m1 led to a in attempt 1 and b in attempt 2"
    ]


def test_a_call_that_is_made_again_is_found() -> None:
    one = durable_run("caller", (0, 900, "succeeded"), events=texts(*TEXT), had=FIRST)
    one = dataclasses.replace(one, children=["a", "b", "c", "d"])
    assert problems_of(one, noted(1, *DONE)) == ["called 4 runs, not 3"]


# -- sessions


def in_session(
    *runs: tuple[int, int, str], state: str = "ab", turns: str = "01", late: int = 0
) -> list[str]:
    """The problems of the runs a, b, ... of a session: start, end (ms) and state of each."""
    found, executions = [], {}
    for number, (name, (began, ended, how)) in enumerate(zip("abc", runs, strict=False), start=1):
        had = {"turns": turns[number - 1]}
        one = run(name, "turn", how, (began, ended, how), result=had, session="/s1")
        shown = texts("after-turns;")
        found.append(dataclasses.replace(one, events=shown, turn=number))
        times = tuple((began + n) * MS for n in (1, 2))
        last = (ended - 1 + (late if number == 1 else 0)) * MS
        words = ("start", f"have:turns:{turns[number - 1]}", "end")
        executions[name] = [Execution(1, number, words, (*times, last))]
    scene = Scene(now=100_000 * MS, states={"/s1": list(state)})
    return check({one.id: one for one in found}, FakeJournal(**executions), {}, scene)  # type: ignore[arg-type]


TURNS = ((0, 100, "succeeded"), (200, 300, "succeeded"))


def test_turns_that_follow_each_other_are_in_order() -> None:
    assert in_session(*TURNS) == []
    cancelled = ((0, 100, "cancelled"), (200, 300, "succeeded"))
    assert in_session(*cancelled, state="b", turns="00", late=500) == []


def test_turns_at_once_or_out_of_order_are_found() -> None:
    assert in_session((0, 250, "succeeded"), (200, 300, "succeeded")) == [
        "session /s1: run 2 began before run 1 had ended",
        "session /s1: runs 1 and 2 were executed at once",
    ]
    assert in_session((200, 300, "succeeded"), (0, 100, "succeeded")) == [
        "session /s1: run 2 began before run 1 had ended",
        "session /s1: runs 1 and 2 were executed at once",
    ]
    assert in_session(*TURNS, late=150) == ["session /s1: runs 1 and 2 were executed at once"]


def test_a_state_that_does_not_follow_is_found() -> None:
    assert in_session(*TURNS, turns="00") == [
        "session /s1: run 2 found ['0'] turns in the state, not 1"
    ]
    for state in ("a", "ba", "abb", ""):
        assert in_session(*TURNS, state=state) == [
            f"session /s1: its state has {len(state)} turns, or others: 2 runs succeeded"
        ]


# -- schedules


def pulses(*created: int, overlap: str = "allow", until: int = 3000) -> list[str]:
    """The problems of a schedule that is due each second from the first on; a run takes 500 ms."""
    kept = Kept(Pulse("pulse", 1.0, 0.1, overlap), 1000, until + 1000, until + 500)
    runs = {
        f"p{number}": run(
            *(f"p{number}", "pulse", "succeeded", (at + 1, at + 500, "succeeded")), created=at
        )
        for number, at in enumerate(created)
    }
    return list(occurred(runs, [kept]))


def test_a_run_for_each_occurrence_is_in_order() -> None:
    assert pulses(1000, 2100, 3900) == []
    assert pulses(1000, 3000, overlap="skip") == []


@pytest.mark.parametrize("overlap", ["allow", "skip"])
def test_an_occurrence_with_no_run_or_two_is_found(overlap: str) -> None:
    said = "schedule pulse: was due 3 times and led to"
    assert pulses(overlap=overlap) == [f"{said} 0 runs"]
    assert pulses(1000, 2000, 3000, 4000, overlap=overlap) == [f"{said} 4 runs"]
    if overlap == "allow":
        assert pulses(1000, 2000) == [f"{said} 2 runs"]


def test_a_run_before_its_time_or_beside_another_one_is_found() -> None:
    assert pulses(1000, 1900, 3000) == ["schedule pulse: 1 runs were enqueued before they were due"]
    assert pulses(1600, 2000, overlap="skip") == [
        "schedule pulse: run p1 was enqueued before run p0 had ended"
    ]
