"""The doctor reports problems, their severity and advice."""

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from skillfleet_ledger import Ledger, Settings
from tests.cli.commands import Shell
from tests.ledger.helpers import running
from tests.support import acl
from tests.support.ports import free_port
from tests.support.valkey import ValkeyServer, running_server
from tests.support.waiter import Waiter
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("cli")


def findings(shell: Shell, *options: str, code: int = 0) -> dict[str, dict[str, Any]]:
    """Return the doctor's findings, by check."""
    result = shell.run("doctor", "--json", *options)
    assert result.code == code, result
    assert result.json["healthy"] is (code == 0)
    return {finding["check"]: finding for finding in result.json["findings"]}


def test_a_working_fleet_is_healthy(shell: Shell) -> None:
    found = findings(shell)
    sound = {"redis", "eviction", "memory", "persistence", "writing", "clock", "workers", "agents"}
    sound.add("reaper")
    assert {name: found[name]["level"] for name in sound} == dict.fromkeys(sound, "ok")
    assert found["agents"]["text"] == "annex, fleet, kit"
    assert found["queue annex-queue"]["text"] == "0 queued, 0 running"


def test_workspaces_are_tried_where_they_are_configured(bare: Shell) -> None:
    assert "workspace" not in findings(bare)
    (bare.folder / "file").touch()
    for directory, level, said in (
        (str(bare.folder / "workspaces"), "ok", "take, return and delete"),
        (str(bare.folder / "file" / "workspaces"), "problem", "Not a directory"),
        ("relative", "problem", "SKILLFLEET_WORKSPACE_DIRECTORY: must be an absolute path"),
    ):
        settings = {
            "SKILLFLEET_WORKSPACE": "directory",
            "SKILLFLEET_WORKSPACE_DIRECTORY": directory,
        }
        shell = replace(bare, settings=settings)
        found = findings(shell, code=0 if level == "ok" else 1)["workspace"]
        assert (found["level"], said in found["text"]) == (level, True), found


def test_a_fleet_without_workers_is_warned_of_and_fails_only_when_strict(bare: Shell) -> None:
    bare.enqueue("kit.add", '{"x": 1}', "--queue", "lonely")
    found = findings(bare)
    assert {name for name, finding in found.items() if finding["level"] == "warning"} == {
        "workers",
        "agents",
        "queue lonely",
    }
    assert "1 queued" in found["queue lonely"]["text"]
    assert "skillfleet worker MODULE -Q lonely" in found["queue lonely"]["advice"]
    findings(bare, "--strict", code=1)
    shown = bare.ok("doctor").out
    assert "-> start one: skillfleet worker MODULE" in shown


def test_the_reaper_is_named_when_nothing_wakes_what_is_due(bare: Shell) -> None:
    assert findings(bare)["reaper"]["level"] == "ok"
    asyncio.run(_wait_for_a_minute(bare.url))
    found = findings(bare)["reaper"]
    assert found["level"] == "warning"
    assert found["text"] == "none: nothing wakes 1 wait that expires"
    assert found["advice"] == "a worker is the reaper, too: start one"
    bare.ok("enqueue", "kit.add", '{"x": 1}', "--delay", "60")
    for name in ("one", "two"):
        every = ("--every", "3600", "--arg", "x=1")
        bare.ok("schedules", "add", name, "kit.add", *every)
    text = "1 wait that expires, 1 delayed run, 2 schedules"
    assert findings(bare)["reaper"]["text"] == f"none: nothing wakes {text}"


async def _wait_for_a_minute(url: str) -> None:
    """Park a run with a timer."""
    ledger = Ledger(Settings.load(redis_url=url))
    waiter = Waiter(ledger, await running(ledger))
    expires_ms = await ledger.directory.now_ms() + 60_000
    await waiter.parks(await waiter.opens(None, "timer", expires_ms=expires_ms))
    await ledger.close()


def test_runs_of_a_lost_worker_are_reported(bare: Shell) -> None:
    run_id = bare.enqueue("kit.add", '{"x": 1}')
    asyncio.run(_hold_long_ago(bare.url, run_id))
    found = findings(bare)
    assert found["stuck"]["level"] == "warning"
    assert "1 runs" in found["stuck"]["text"]


async def _hold_long_ago(url: str, run_id: str) -> None:
    """A running run whose lease expired a minute ago, and that was not restarted."""
    ledger = Ledger(Settings.load(redis_url=url))
    try:
        await ledger.leases.claim(run_id, "lost-worker", "claim", 50, None)
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


@contextmanager
def replica() -> Iterator[str]:
    """A read-only replica."""
    with ExitStack() as stack:
        primary = stack.enter_context(running_server())
        replicates = ("--replicaof", f"127.0.0.1 {primary.port}")
        yield stack.enter_context(running_server(*replicates)).url


@contextmanager
def cluster(last_slot: int = 16_383) -> Iterator[str]:
    """The only node of a Redis Cluster; it is down unless it has all slots."""
    bus = ("--cluster-port", str(free_port()))
    with running_server("--cluster-enabled", "yes", *bus) as server:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, last_slot)
            state = b"ok" if last_slot == 16_383 else b"fail"
            wait_until(lambda: b"cluster_state:" + state in _cluster_info(client), what="slots")
        yield server.url


def _cluster_info(client: Any) -> bytes:
    info: bytes = client.execute_command("CLUSTER", "INFO", NEVER_DECODE=True)
    return info


@contextmanager
def sentinel() -> Iterator[str]:
    """A Sentinel, which knows of servers and keeps no data."""
    port = free_port()
    with running_server() as primary:
        file = primary.folder / "sentinel.conf"
        watched = f"sentinel monitor m 127.0.0.1 {primary.port} 1"
        file.write_text(f"port {port}\nbind 127.0.0.1\n{watched}\n")
        with subprocess.Popen(
            [primary.binary(), str(file), "--sentinel"], stdout=subprocess.DEVNULL
        ) as process:
            try:
                wait_until(lambda: _answers(port), what="the Sentinel")
                yield f"redis://127.0.0.1:{port}/0"
            finally:
                process.kill()


def _answers(port: int) -> bool:
    try:
        with redis.Redis(port=port) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


@contextmanager
def configured(name: str, value: str) -> Iterator[str]:
    """A server with a setting that keeps it from writing."""
    with running_server() as server, server.client() as client:
        client.config_set(name, value)
        yield server.url


@contextmanager
def database_99() -> Iterator[str]:
    """A database that the server does not have."""
    with running_server() as server:
        yield server.url.removesuffix("/0") + "/99"


@pytest.mark.parametrize(
    ("place", "check", "text", "advice"),
    [
        (replica, "writing", "READONLY", "to the primary"),
        (cluster, "writing", "CROSSSLOT", "a Redis Cluster"),
        (partial(cluster, 5000), "writing", "", "a Redis Cluster"),
        (sentinel, "redis", "unknown command", "not a Sentinel"),
        (partial(configured, "maxmemory", "1"), "writing", "OOM", "raise maxmemory"),
        (
            partial(configured, "min-replicas-to-write", "2"),
            *("writing", "NOREPLICAS", "too few replicas"),
        ),
        (database_99, "redis", "DB index", "SKILLFLEET_REDIS_URL"),
    ],
)
def test_a_server_that_takes_no_writes_is_a_problem_with_advice(
    tmp_path: Path,
    place: Callable[[], AbstractContextManager[str]],
    check: str,
    text: str,
    advice: str,
) -> None:
    with place() as url:
        settings = {"SKILLFLEET_REDIS_TIMEOUT_SECONDS": "2"}
        found = findings(Shell(url, tmp_path, settings), code=1)
    assert found[check]["level"] == "problem"
    assert text in found[check]["text"]
    assert advice in found[check]["advice"]


RIGHTS = {
    "without scripts": ("~*", "&*", "+@all", "-@scripting"),
    "without the broker's lists": ("~{skillfleet:*}:*", "~celery-task-meta-*", "&*", "+@all"),
    "without results": ("~{skillfleet:*}:*", "~celery", "~celery??[0-9]", "&*", "+@all"),
    "without channels": ("~*", "resetchannels", "+@all"),
    "of another fleet": ("~{north:*}:*", "~north:*", "&*", "+@all"),
}


@pytest.fixture
def ruled() -> Iterator[ValkeyServer]:
    """A server whose refusals are what the test is about."""
    server = ValkeyServer()
    try:
        yield server.start()
    finally:
        server.close()


def test_a_user_without_rights_is_a_problem_and_one_that_only_reads_a_warning(
    ruled: ValkeyServer, tmp_path: Path
) -> None:
    def found(user: str, password: str, code: int) -> dict[str, dict[str, Any]]:
        url = f"redis://{user}:{password}@127.0.0.1:{ruled.port}/0"
        return findings(Shell(url, tmp_path), code=code)

    with ruled.client() as client:
        for number, rules in enumerate(RIGHTS.values()):
            client.execute_command("ACL", "SETUSER", f"u{number}", "on", ">pw", *rules)
        reading = ("~*", "&*", "-@all", "+@read", "+@connection", "+info", "+time")
        client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", *reading)
    for number, what in enumerate(RIGHTS):
        problems = found(f"u{number}", "pw", 1).values()
        shown = [finding for finding in problems if finding["level"] == "problem"]
        assert shown, what
        assert "users.acl" in shown[0]["advice"], what
    reader = found("reader", "pw", 0)["writing"]
    assert (reader["level"], "may only read" in reader["text"]) == ("warning", True)
    producer = found(acl.PRODUCER, acl.password_of(acl.PRODUCER), 0)["writing"]
    assert (producer["level"], "may enqueue runs" in producer["text"]) == ("warning", True)
    with ruled.client() as client:
        assert client.keys() == [], "nothing is left behind"


def test_what_the_doctor_writes_is_gone_and_counts_nowhere(bare: Shell) -> None:
    with closing(redis.Redis.from_url(bare.url)) as client:
        assert findings(bare)["writing"]["level"] == "ok"
        assert client.keys() == []


def test_data_of_another_program_is_a_finding_and_not_a_bug(bare: Shell) -> None:
    with closing(redis.Redis.from_url(bare.url)) as client:
        client.set("{skillfleet:0}:queues", "text")
        assert "WRONGTYPE" in findings(bare, code=1)["fleet"]["text"]
        client.delete("{skillfleet:0}:queues")
        client.hset("{skillfleet:0}:cards", "a|1", "no JSON")
        client.zadd("{skillfleet:0}:serving", {"a|1|w": 10**14})
        assert findings(bare, code=0)["agents"]["text"] == "none served"
        client.flushall()


def test_a_broker_of_its_own_is_checked_too(bare: Shell) -> None:
    broker = {
        "SKILLFLEET_BROKER_URL": f"redis://127.0.0.1:{free_port()}/0",
        "SKILLFLEET_REDIS_TIMEOUT_SECONDS": "1",
    }
    found = findings(replace(bare, settings=broker), code=1)
    assert found["broker"]["level"] == "problem"
    assert found["redis"]["level"] == "ok"
