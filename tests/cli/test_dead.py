"""Dead runs and dead letters."""

import asyncio

import pytest

from skillfleet.contracts import Budget
from skillfleet_ledger import Ledger, Settings
from skillfleet_producer import Fleet
from tests.cli.commands import Shell
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("cli")


@pytest.fixture(scope="module")
def dead(shell: Shell) -> str:
    """A run whose only attempt was lost with its worker, and that was then given up."""
    settings = Settings.load(redis_url=shell.url, max_deliveries=1)
    with Fleet(settings=settings) as fleet:
        args = {"x": 40, "y": 2}
        budget = Budget(calls=7, tokens=500, seconds=900)
        run = fleet.enqueue(
            "kit.add",
            args,
            queue="unserved",
            priority=3,
            timeout=600,
            budget=budget,
            session="a chat",
        )
        asyncio.run(_claim(settings, run.id))
        wait_until(lambda: run.status().state == "dead", what="the reaper to give the run up")
        return run.id


async def _claim(settings: Settings, run_id: str) -> None:
    """Take the run as a worker that is gone right afterwards."""
    ledger = Ledger(settings)
    try:
        await ledger.leases.claim(run_id, "lost-worker", "claim", 50, None)
    finally:
        await ledger.close()


def test_a_dead_run_is_listed_and_shown_with_its_history(shell: Shell, dead: str) -> None:
    (run,) = shell.ok("dead", "list", "--json").json["runs"]
    assert (run["id"], run["code"]) == (dead, "worker_lost")
    shown = shell.ok("dead", "show", dead, "--json").json
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["dead"]
    invocation = shown["invocation"]
    assert invocation["arguments"] == {"x": 40, "y": 2}
    assert (invocation["queue"], invocation["priority"]) == ("unserved", 3)
    assert invocation["timeout"] == pytest.approx(600, abs=1)


def test_people_read_the_same(shell: Shell, dead: str) -> None:
    assert dead in shell.ok("dead", "list").out
    assert '"x": 40' in shell.ok("dead", "show", dead).out


def test_a_retry_is_a_new_run_of_the_same_invocation_once(shell: Shell, dead: str) -> None:
    later = ("--session", "a chat", "--queue", "unserved", "--arg", "x=1")
    current = shell.enqueue("kit.add", *later)
    new = shell.ok("dead", "retry", dead).out.strip()
    assert new != dead
    assert shell.ok("dead", "retry", dead, "--json").json == {"id": new, "retry_of": dead}
    shown = shell.ok("dead", "show", new, "--json").json
    assert (shown["state"], shown["queue"]) == ("queued", "unserved")
    assert shown["invocation"]["arguments"] == {"x": 40, "y": 2}
    assert shown["invocation"]["timeout"] == pytest.approx(600, abs=1)
    assert asyncio.run(_budget_of(shell.url, new)) == (7, 500)
    waiting = shell.run("dead", "retry", new)
    assert waiting.code == 2
    assert "is queued" in waiting.err
    assert (shown["session"], shown["held"]) == ("a chat", "session:a chat")
    for run in (current, new):
        shell.ok("cancel", run)


async def _budget_of(url: str, run_id: str) -> tuple[int | None, int | None]:
    ledger = Ledger(Settings.load(redis_url=url))
    try:
        return await ledger.budgets.limits(run_id)
    finally:
        await ledger.close()


def test_refused_messages_are_listed_shown_and_purged(shell: Shell, dead: str) -> None:
    asyncio.run(_refuse(shell.url, b"gar\nbage"))
    (message,) = shell.ok("dead", "list", "--json").json["refused"]
    assert (message["reason"], message["body"]) == ("no message", "gar\nbage")
    shown = shell.ok("dead", "show", message["id"]).out
    assert "no message" in shown
    assert "gar\nbage" in shown
    assert shell.run("dead", "retry", message["id"]).code == 2
    asked = shell.run("dead", "purge", stdin="n\n")
    assert asked.code == 1
    assert shell.ok("dead", "purge", "--yes", "--json").json == {"purged": 1}
    left = shell.ok("dead", "list", "--json").json
    assert left["refused"] == []
    assert [run["id"] for run in left["runs"]] == [dead]


async def _refuse(url: str, body: bytes) -> None:
    ledger = Ledger(Settings.load(redis_url=url))
    try:
        await ledger.dead_letters.add("no message", body)
    finally:
        await ledger.close()
