"""The tidy agent: in memory, and on a fleet that loses its worker while a question is open."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.tidy import clean
from skillfleet import LocalRunContext, NoAuth, WaitRejected, joined_text
from skillfleet.testing import InstantClock, run_to_end
from skillfleet_producer import Fleet
from tests.examples.scripted_model import Message, ModelServer, calls, running_model, says
from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until


def script(messages: list[Message]) -> Message:
    """List the files, delete old.log if that is allowed, and say what became of it."""
    last = messages[-1]
    if last["role"] == "user":
        return calls(1, "list_files")
    if "old.log" in last["content"]:
        return calls(2, "delete_file", name="old.log")
    return says(f"old.log: {last['content']}")


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with running_model(script) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("old.log", "thesis.txt"):
        (folder / name).write_text(name)
    return folder


def arguments(folder: Path, model: ModelServer, **more: Any) -> dict[str, Any]:
    return {"folder": str(folder), "wish": "delete old logs", "url": model.url, **more}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_file_is_deleted_after_the_question(folder: Path, model: ModelServer) -> None:
    ctx = LocalRunContext(auth=NoAuth(), answers={"Delete old.log?": True})
    assert await clean(ctx, **arguments(folder, model)) == "old.log: deleted"
    assert names(folder) == ["thesis.txt"]
    recorded = [step.name for step in ctx.journal.steps()]
    assert recorded == ["think", "list", "think", "Delete old.log?", "delete", "think"]


async def test_a_refusal_keeps_the_file(folder: Path, model: ModelServer) -> None:
    ctx = LocalRunContext(auth=NoAuth(), answers={"Delete old.log?": WaitRejected("I need it")})
    assert await clean(ctx, **arguments(folder, model)) == "old.log: the user refused: I need it"
    assert (folder / "old.log").exists()


async def test_a_question_that_no_one_answers_expires(folder: Path, model: ModelServer) -> None:
    ctx = LocalRunContext(auth=NoAuth(), clock=InstantClock())
    assert await clean(ctx, **arguments(folder, model)) == "old.log: the user did not answer"


async def test_a_lost_attempt_costs_no_recorded_step(folder: Path, model: ModelServer) -> None:
    ctx = LocalRunContext(auth=NoAuth())

    def lose_once(_: object) -> bool:
        if ctx.attempt == 1:
            ctx.lose()
        return True

    ctx.answers["Delete old.log?"] = lose_once
    assert await run_to_end(clean, ctx, arguments(folder, model)) == "old.log: deleted"
    assert ctx.attempt == 2
    assert len(model.requests) == 3, "no step of the first attempt was repeated"
    assert len({request.key for request in model.requests}) == 3


async def test_messages_continue_the_conversation(folder: Path, model: ModelServer) -> None:
    ctx = LocalRunContext(
        auth=NoAuth(),
        answers={"Delete old.log?": False},
        inbox=["try again"],
        clock=InstantClock(),
    )
    keeps = "old.log: the user wants to keep it"
    assert await clean(ctx, **arguments(folder, model, patience=60)) == keeps
    assert joined_text(ctx.events) == f"{keeps}\n{keeps}\n"
    assert [said["content"] for said in model.requests[-1].messages if said["role"] == "user"] == [
        "delete old logs",
        "try again",
    ]


def test_a_question_outlives_its_worker(
    valkey: ValkeyServer, folder: Path, model: ModelServer
) -> None:
    """Asked, parked, all workers stopped, answered, resumed by a new worker."""
    settings: dict[str, Any] = {"park_seconds": 0.1, "reap_seconds": 0.2}
    with Fleet(valkey.producer_url) as fleet:
        with FleetWorker(valkey, "examples.tidy", **settings):
            run = fleet.enqueue("tidy.clean", arguments(folder, model))
            wait_until(lambda: run.status().parked, what="the run to be parked")
        (question,) = run.waits()
        assert question.question == "Delete old.log?"
        assert run.answer(True, auth={"sub": "ann"})
        with FleetWorker(valkey, "examples.tidy", **settings):
            assert run.result(timeout=60) == "old.log: deleted"
        kinds = [event.kind for event in run.events()]
        assert (kinds.count("wait"), kinds.count("wait_ended")) == (1, 1)
        assert joined_text(run.events()) == "old.log: deleted\n"
        recorded = [step.name for step in run.steps()]
        assert recorded == ["think", "list", "think", "Delete old.log?", "delete", "think"]
    assert len(model.requests) == 3, "no step was executed twice"
    assert not (folder / "old.log").exists()
