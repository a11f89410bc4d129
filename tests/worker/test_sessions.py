"""Sessions on real workers: order, state, what a busy one does, one stream over all runs."""

import itertools
from collections.abc import Iterator

import pytest

from skillfleet.contracts import RunState, SessionEvent
from skillfleet.errors import (
    InvalidArgumentsError,
    ResultTimeoutError,
    RunCancelled,
    RunEndedError,
    RunFailed,
    SessionBusyError,
    UnknownSessionError,
)
from skillfleet_producer import Fleet
from skillfleet_producer.fleet import Session
from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer, running_server
from tests.worker.shared import wait_kind, wait_state

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=["loop", "threads"])
def talkers(request: pytest.FixtureRequest) -> Iterator[ValkeyServer]:
    """A server with a worker that serves `talking`."""
    with (
        running_server() as server,
        FleetWorker(server, "tests.worker.talking", pool=request.param, reap_seconds=0.2),
    ):
        yield server


@pytest.fixture
def fleet(talkers: ValkeyServer) -> Iterator[Fleet]:
    with Fleet(talkers.producer_url) as fleet:
        yield fleet


@pytest.fixture
def session(fleet: Fleet) -> Session:
    """A session of the test's own."""
    return fleet.session(f"chat-{next(_numbers)}")


def test_runs_execute_in_order_and_share_the_state(session: Session) -> None:
    texts = [f"text {number}" for number in range(12)]
    runs = [session.enqueue("talking.say", {"text": text}) for text in texts]
    assert runs[-1].result(timeout=30) == texts
    assert runs[3].result(timeout=30) == texts[:4]
    status = session.status()
    assert (status.runs, status.waiting, status.current) == (12, 0, None)
    assert [run.id for run in session.runs()] == [run.id for run in reversed(runs)]
    assert {run.session for run in session.runs()} == {session.id}


def test_many_runs_are_written_in_the_order_of_their_arguments(
    fleet: Fleet, session: Session
) -> None:
    texts = [f"{number}" for number in range(250)]
    runs = fleet.enqueue_many("talking.say", [{"text": text} for text in texts], session=session.id)
    assert runs[-1].result(timeout=60) == texts


def test_a_busy_session_refuses_or_cancels(session: Session) -> None:
    slow = session.enqueue("talking.say", {"text": "slow", "seconds": 60})
    wait_kind(slow, "text_delta")
    with pytest.raises(SessionBusyError):
        session.enqueue("talking.say", {"text": "b"}, on_busy="reject")
    waiting = session.enqueue("talking.say", {"text": "c"})
    assert waiting.status().held == f"session:{session.id}"
    quick = session.enqueue("talking.say", {"text": "d"}, on_busy="cancel_running")
    with pytest.raises(RunCancelled, match="a later run of its session"):
        slow.result(timeout=20)
    assert quick.result(timeout=20) == ["c", "d"]


def test_a_waiting_run_is_cancelled_at_once(session: Session) -> None:
    slow = session.enqueue("talking.say", {"text": "slow", "seconds": 60})
    waiting = session.enqueue("talking.say", {"text": "b"})
    assert waiting.cancel()
    wait_state(waiting, RunState.CANCELLED)
    slow.cancel()
    wait_state(slow, RunState.CANCELLED)


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("how", ["fail", "retry", "wait"])
def test_a_run_that_does_not_succeed_saves_only_on_request(
    session: Session, how: str, always: bool
) -> None:
    run = session.enqueue("talking.fails", {"always": always, "how": how})
    wait_kind(run, "progress")
    if how == "wait":
        run.cancel("enough")
    with pytest.raises((RunFailed, RunCancelled)):
        run.result(timeout=20)
    after = session.enqueue("talking.say", {"text": "x"})
    if always:
        attempt = 2 if how == "retry" else 1
        assert after.result(timeout=20) == [*f"{how} {attempt}", "x"]
    else:
        assert after.result(timeout=20) == ["x"]


def test_a_message_reaches_the_current_run(session: Session) -> None:
    with pytest.raises(RunEndedError, match="no live run"):
        session.send("early")
    run = session.enqueue("talking.listens")
    wait_kind(run, "progress")
    assert session.send({"stop": True}) == run.id
    assert run.result(timeout=20) == {"stop": True}
    with pytest.raises(RunEndedError):
        session.send("late")


def test_a_run_becomes_a_message_to_the_current_one(session: Session) -> None:
    current = session.enqueue("talking.listens")
    wait_kind(current, "progress")
    sent = session.enqueue("talking.say", {"text": "hi"}, on_busy="send")
    assert current.result(timeout=20) == {"text": "hi"}
    with pytest.raises(RunCancelled, match=f"run {current.id} has received it") as ended:
        sent.result(timeout=20)
    assert ended.value.code == "delivered"
    assert session.enqueue("talking.say", {"text": "x"}).result(timeout=20) == ["x"]


def test_an_unread_message_has_its_turn_as_a_run(session: Session) -> None:
    current = session.enqueue("talking.say", {"text": "a", "seconds": 0.5})
    wait_kind(current, "text_delta")
    sent = session.enqueue("talking.say", {"text": "b"}, on_busy="send")
    assert sent.result(timeout=20) == ["a", "b"]
    idle = session.enqueue("talking.say", {"text": "c"}, on_busy="send")
    assert idle.result(timeout=20) == ["a", "b", "c"]


def test_a_sent_run_that_is_cancelled_is_not_received(session: Session) -> None:
    current = session.enqueue("talking.listens", {"pause": 1.0})
    wait_kind(current, "progress")
    withdrawn, sent = [
        session.enqueue("talking.say", {"text": text}, on_busy="send") for text in ("a", "b")
    ]
    withdrawn.cancel("never mind")
    wait_state(withdrawn, RunState.CANCELLED)
    assert current.result(timeout=20) == {"text": "b"}
    assert wait_state(sent, RunState.CANCELLED).code == "delivered"


def test_one_stream_has_all_runs_and_continues_anywhere(session: Session) -> None:
    runs = [session.enqueue("talking.say", {"text": f"{number}"}) for number in range(3)]
    runs[-1].result(timeout=20)
    events = list(session.events(follow=False))
    assert [event.run_id for event in events if event.final] == [run.id for run in runs]
    assert _texts(events) == ["0", "1", "2"]
    for number in (0, 3, len(events) // 2, len(events) - 2, len(events) - 1):
        assert list(session.events(after=events[number].id, follow=False)) == events[number + 1 :]


def test_the_stream_waits_for_the_next_run(session: Session) -> None:
    first = session.enqueue("talking.say", {"text": "a"})
    first.result(timeout=20)
    stream = session.events(timeout=20)
    seen = [next(stream)]
    while not seen[-1].final:
        seen.append(next(stream))
    session.enqueue("talking.say", {"text": "b", "seconds": 0.2})
    while _texts(seen) != ["a", "b"]:
        seen.append(next(stream))
    with pytest.raises(ResultTimeoutError):
        list(session.events(after=seen[-1].id, timeout=1.5))


def test_expired_runs_are_announced(talkers: ValkeyServer, session: Session) -> None:
    runs = [session.enqueue("talking.say", {"text": f"{number}"}) for number in range(4)]
    runs[-1].result(timeout=20)
    with talkers.client() as client:
        for run in (runs[0], runs[2]):
            client.delete(f"{{skillfleet:0}}:run:{run.id}")
    events = list(session.events(follow=False))
    marks = [event for event in events if event.kind == "trimmed"]
    assert [mark.payload for mark in marks] == [{"runs": 1}, {"runs": 1}]
    assert _texts(events) == ["1", "3"]
    later = [event.id for event in session.events(after=marks[0].id, follow=False)]
    assert later == [event.id for event in events[1:]]


@pytest.mark.parametrize("after", ["x", "1", "1-0", "1:x", "1:2-0:3"])
def test_an_invalid_cursor_is_refused(session: Session, after: str) -> None:
    with pytest.raises(ValueError, match="not an event id"):
        next(session.events(after=after))


@pytest.mark.parametrize("how", ["result", "events", "sync"])
def test_a_run_cannot_wait_for_a_later_one_of_its_session(
    talkers: ValkeyServer, session: Session, how: str
) -> None:
    args = {"url": talkers.producer_url, "how": how}
    run = session.enqueue("talking.waits_for_itself", args)
    assert run.result(timeout=30) == "SessionDeadlockError"


def test_options_that_do_not_fit_are_refused(fleet: Fleet, session: Session) -> None:
    for options in (
        {"delay": 5},
        {"on_busy": "wait"},
        {"session": ""},
        {"session": "x" * 256},
    ):
        with pytest.raises(InvalidArgumentsError):
            fleet.enqueue("talking.say", {"text": "x"}, **({"session": session.id} | options))
    with pytest.raises(InvalidArgumentsError, match="on_busy needs a session"):
        fleet.enqueue("talking.say", {"text": "x"}, on_busy="reject")
    with pytest.raises(UnknownSessionError):
        session.status()


def test_an_idempotency_key_names_one_run_of_the_session(session: Session) -> None:
    runs = {session.enqueue("talking.say", {"text": "x"}, idempotency_key="k").id for _ in range(3)}
    assert len(runs) == 1
    assert session.status().runs == 1


def test_sessions_are_listed(fleet: Fleet, session: Session) -> None:
    session.enqueue("talking.say", {"text": "x"}).result(timeout=20)
    assert session.id in {each.id for each in fleet.sessions(limit=1000)}


def _texts(events: list[SessionEvent]) -> list[str]:
    return [event.payload["text"] for event in events if event.kind == "text_delta"]
