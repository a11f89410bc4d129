"""The coder: its program in a real sandbox, over an overlay that a person decides about."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.coder import change
from skillfleet import LocalRunContext, NoAuth, WaitRejected, joined_text
from skillfleet.testing import run_to_end
from skillfleet_producer import Fleet
from tests.examples.scripted_model import Message, ModelServer, running_model, says
from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

PROGRAM = """\
lines = open('prices.csv').read().splitlines()
open('prices.csv', 'w').write('\\n'.join(sorted(lines)) + '\\n')
"""
PRICES = b"pear,2\napple,1\n"
SORTED = b"apple,1\npear,2\n"
PATCH = "--- a/prices.csv\n+++ b/prices.csv\n@@ -1,2 +1,2 @@\n+apple,1\n pear,2\n-apple,1\n"
QUESTION = "Keep the changes of prices.csv?"


def script(messages: list[Message]) -> Message:
    """Write a program that fails at first, after it has changed the file."""
    if "Files:\nprices.csv" not in messages[1]["content"]:
        return says("raise SystemExit('which file?')")
    return says(PROGRAM if len(messages) > 2 else f"{PROGRAM}\nopen('missing.csv')")


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with running_model(script) as server:
        yield server


def arguments(model: ModelServer) -> dict[str, Any]:
    return {"wish": "sort the prices", "url": model.url}


@pytest.mark.parametrize("answer", [True, False, WaitRejected("no")])
async def test_the_changes_are_kept_if_the_user_agrees(model: ModelServer, answer: Any) -> None:
    files = {"prices.csv": PRICES, ".env": b"KEY=1"}
    ctx = LocalRunContext(
        auth=NoAuth(), workspace=files, sandbox="auto", answers={QUESTION: answer}
    )
    changed = await run_to_end(change, ctx, arguments(model))
    assert changed == (["prices.csv"] if answer is True else [])
    assert joined_text(ctx.events) == PATCH
    assert len(model.requests) == 2


def test_the_patch_is_the_same_after_the_death_of_the_worker(
    valkey: ValkeyServer, model: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed once after its second program was written, and once while its question is open."""
    monkeypatch.setenv("SKILLFLEET_SANDBOX", "auto")
    monkeypatch.setenv("SKILLFLEET_WORKSPACE", "directory")
    monkeypatch.setenv("SKILLFLEET_WORKSPACE_DIRECTORY", str(tmp_path))
    workers = [
        FleetWorker(valkey, "examples.coder", lease_seconds=3, reap_seconds=0.2) for _ in range(3)
    ]
    try:
        with Fleet(valkey.producer_url) as fleet:
            session = fleet.session("demo")
            session.workspace.put("prices.csv", PRICES)
            workers[0].start()
            run = session.enqueue("coder.change", arguments(model))
            wait_until(lambda: len(model.requests) == 2, what="the second program")
            workers[0].kill()
            workers[1].start()
            wait_until(run.waits, 60, "the question")
            workers[1].kill()
            assert session.workspace.get("prices.csv") == PRICES
            assert run.answer(True)
            workers[2].start()
            assert run.result(timeout=60) == ["prices.csv"]
            assert session.workspace.get("prices.csv") == SORTED
            assert joined_text(run.events()) == PATCH
    finally:
        for worker in workers:
            worker.close()
