"""The doctor tells what is wrong, how bad it is and what to do."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from skillfleet_ledger import Ledger, Settings
from tests.cli.commands import Shell
from tests.support.ports import free_port
from tests.support.valkey import ValkeyServer

pytestmark = pytest.mark.xdist_group("cli")


def findings(shell: Shell, *options: str, code: int = 0) -> dict[str, dict[str, Any]]:
    """What the doctor finds, by check."""
    result = shell.run("doctor", "--json", *options)
    assert result.code == code, result
    assert result.json["healthy"] is (code == 0)
    return {finding["check"]: finding for finding in result.json["findings"]}


def test_a_working_fleet_is_healthy(shell: Shell) -> None:
    found = findings(shell)
    sound = {"redis", "eviction", "memory", "persistence", "clock", "workers", "agents", "reaper"}
    assert {name: found[name]["level"] for name in sound} == dict.fromkeys(sound, "ok")
    assert found["agents"]["text"] == "annex, fleet, lab"
    assert found["queue annex-queue"]["text"] == "0 waiting, 0 running"


def test_a_fleet_without_workers_is_warned_of_and_fails_only_when_strict(bare: Shell) -> None:
    bare.enqueue("lab.add", '{"x": 1}', "--queue", "lonely")
    found = findings(bare)
    assert {name for name, finding in found.items() if finding["level"] == "warning"} == {
        "workers",
        "agents",
        "queue lonely",
    }
    assert "1 waiting" in found["queue lonely"]["text"]
    assert "skillfleet worker MODULE -Q lonely" in found["queue lonely"]["advice"]
    findings(bare, "--strict", code=1)
    shown = bare.ok("doctor").out
    assert "-> start one: skillfleet worker MODULE" in shown


def test_runs_of_a_lost_worker_are_told(bare: Shell) -> None:
    run_id = bare.enqueue("lab.add", '{"x": 1}')
    asyncio.run(_hold_long_ago(bare.url, run_id))
    found = findings(bare)
    assert found["stuck"]["level"] == "warning"
    assert "1 runs" in found["stuck"]["text"]


async def _hold_long_ago(url: str, run_id: str) -> None:
    """A running run whose lease ran out a minute ago, and that nobody restarted."""
    ledger = Ledger(Settings.load(redis_url=url))
    try:
        await ledger.runs.claim(run_id, "lost-worker", "claim", 50, None)
        past = await ledger.directory.now_ms() - 60_000
        await ledger.connection.execute("ZADD", f"{ledger.keys.prefix(run_id)}leases", past, run_id)
    finally:
        await ledger.close()


@pytest.fixture
def evicting(valkey: ValkeyServer) -> Iterator[ValkeyServer]:
    """A server that would delete runs when it is full, and that writes nothing to disk."""
    with valkey.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
        try:
            yield valkey
        finally:
            client.config_set("appendonly", "yes")
            client.config_set("maxmemory-policy", "noeviction")


def test_an_evicting_redis_is_a_problem_and_no_persistence_a_warning(
    evicting: ValkeyServer, bare: Shell
) -> None:
    found = findings(bare, code=1)
    assert found["eviction"]["level"] == "problem"
    assert "noeviction" in found["eviction"]["advice"]
    assert found["persistence"]["level"] == "warning"


def test_a_redis_out_of_reach_is_a_problem(bare: Shell) -> None:
    settings = {"SKILLFLEET_REDIS_TIMEOUT_SECONDS": "0.5"}
    away = Shell(f"redis://127.0.0.1:{free_port()}/0", bare.folder, settings)
    found = findings(away, code=1)
    assert found["redis"]["level"] == "problem"


def test_a_broker_of_its_own_is_checked_too(bare: Shell) -> None:
    broker = {
        "SKILLFLEET_BROKER_URL": f"redis://127.0.0.1:{free_port()}/0",
        "SKILLFLEET_REDIS_TIMEOUT_SECONDS": "1",
    }
    found = findings(replace(bare, settings=broker), code=1)
    assert found["broker"]["level"] == "problem"
    assert found["redis"]["level"] == "ok"
