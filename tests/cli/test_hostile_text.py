"""Text of skills, callers, workers and messages reaches no terminal as it is."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from skillfleet.contracts import AgentCard, ArtifactInfo, SkillCard, from_millis
from skillfleet_ledger import Ledger, Settings
from tests.cli.commands import Shell
from tests.cli.terminal import HOSTILE, VISIBLE, harmful, on_terminal
from tests.support.valkey import running_server

pytestmark = pytest.mark.xdist_group("cli-hostile")

EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("progress", {"message": HOSTILE, "current": 1, "total": 2}),
    ("progress", {"message": [HOSTILE], "current": HOSTILE, "total": {HOSTILE: HOSTILE}}),
    ("artifact", {"name": HOSTILE, "mime_type": HOSTILE, "size_bytes": HOSTILE}),
    ("error", {"message": HOSTILE, "code": HOSTILE}),
    ("text_delta", {"text": HOSTILE}),
    ("text_delta", {"text": None}),
    (f"my.{HOSTILE}", {HOSTILE: HOSTILE}),
    ("state", {"state": "running", "worker": HOSTILE}),
    ("state", {"state": "queued", "outcome": HOSTILE, "message": HOSTILE, "delay_seconds": "x"}),
    ("state", {"state": "failed", "code": HOSTILE, "message": HOSTILE}),
]


_DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A fleet in which every text that others can write is hostile."""
    with running_server() as server:
        shell = Shell(server.url, tmp_path_factory.mktemp("hostile"))
        yield shell


@pytest.fixture(scope="module")
def run_id(hostile: Shell) -> str:
    run = hostile.enqueue("kit.add", '{"x": 1}')
    asyncio.run(_write_all(hostile.url, run))
    return run


async def _write_all(url: str, run: str) -> None:
    ledger = Ledger(Settings.load(redis_url=url))
    try:
        now = await ledger.directory.now_ms()
        await _write_run(ledger, run, now)
        schema = {"properties": {HOSTILE: 1}, "required": 7}
        skill = SkillCard(name="add", description=HOSTILE, input_schema=schema)
        card = AgentCard(
            name="kit", version=HOSTILE, queue=HOSTILE, description=HOSTILE, skills=(skill,)
        )
        await ledger.directory.publish(HOSTILE, [card], _DAY_MS)
        await ledger.dead_letters.add(HOSTILE, HOSTILE.encode() + b"\xff")
        prefix = ledger.keys.prefix(run)
        await ledger.connection.execute("ZADD", f"{prefix}workers", now + _DAY_MS, HOSTILE)
        await ledger.connection.execute("ZADD", f"{prefix}ready:{HOSTILE}:0", now, "x")
        await ledger.connection.execute("SADD", f"{prefix}queues", f"{HOSTILE}:0")
    finally:
        await ledger.close()


async def _write_run(ledger: Ledger, run: str, now: int) -> None:
    prefix, execute = ledger.keys.prefix(run), ledger.connection.execute
    texts = ("code", "message", "worker", "cancel", "skill", "queue")
    fields = dict.fromkeys(texts, HOSTILE) | {"state": "failed", "seq": len(EVENTS)}
    fields |= {"attempt": 2, "started": now, "finished": now, "token": 2}
    await execute("HSET", f"{prefix}run:{run}", *(part for pair in fields.items() for part in pair))
    first = {"number": 1, "worker": HOSTILE, "started": now, "ended": now, "outcome": HOSTILE}
    await execute("RPUSH", f"{prefix}attempts:{run}", orjson.dumps(first))
    for number, (kind, payload) in enumerate(EVENTS, start=1):
        entry = ("k", kind, "p", orjson.dumps(payload), "a", 1, "t", now)
        stream = f"{prefix}events:{run}"
        await execute("DEL", stream) if number == 1 else None
        await execute("XADD", stream, f"{number}-0", *entry)
    info = ArtifactInfo(
        name=HOSTILE,
        mime_type=HOSTILE,
        size_bytes=1,
        sha256=HOSTILE,
        attempt=1,
        created_at=from_millis(now),
    )
    await execute("HSET", f"{prefix}artifacts:{run}", HOSTILE, info.model_dump_json())


LOOKS: dict[str, tuple[str, ...]] = {
    "status": ("status", "RUN"),
    "events": ("events", "RUN"),
    "trace": ("trace", "RUN"),
    "runs": ("runs",),
    "agents": ("agents",),
    "doctor": ("doctor",),
    "artifacts": ("artifacts", "RUN"),
    "artifact that is missing": ("artifacts", "RUN", "nope"),
    "cancel": ("cancel", "RUN"),
    "dead list": ("dead", "list"),
    "dead show": ("dead", "show", "RUN"),
    "dead retry": ("dead", "retry", "RUN"),
    "refused message": ("dead", "show", "MESSAGE"),
    "unknown run": ("status", HOSTILE),
    "unknown skill": ("enqueue", f"kit.{HOSTILE}"),
    "no JSON": ("enqueue", "kit.add", HOSTILE),
    "unknown verb": (HOSTILE,),
    "unknown option": (f"--{HOSTILE}",),
    "wrong option": ("runs", "--state", HOSTILE),
    "with a traceback": ("--debug", "status", HOSTILE),
}
NOT_ALL = {"trace", "cancel", "dead retry", "artifact that is missing"}
"""Where the hostile text is cut off, or escaped once more in a message."""


def _arguments(shell: Shell, name: str, run_id: str) -> list[str]:
    words = {"RUN": run_id}
    if "MESSAGE" in LOOKS[name]:
        words["MESSAGE"] = shell.ok("dead", "list", "--json").json["refused"][0]["id"]
    return [words.get(word, word) for word in LOOKS[name]]


@pytest.mark.parametrize("name", LOOKS)
def test_nothing_that_others_wrote_steers_a_terminal(
    hostile: Shell, run_id: str, name: str
) -> None:
    arguments = _arguments(hostile, name, run_id)
    piped = hostile.run(*arguments)
    assert piped.code in (0, 1, 2), piped
    assert not harmful(piped.out + piped.err)
    code, shown = on_terminal(hostile, *arguments)
    assert code == piped.code
    assert not harmful(shown)
    if name not in NOT_ALL and arguments[0] in ("status", "events", "dead"):
        assert VISIBLE in piped.out + piped.err, "it is shown as it is"


@pytest.mark.parametrize(
    "name", ["status", "events", "runs", "agents", "doctor", "artifacts", "trace", "dead list"]
)
def test_json_means_the_same_and_holds_no_control_characters(
    hostile: Shell, run_id: str, name: str
) -> None:
    result = hostile.run(*_arguments(hostile, name, run_id), "--json")
    assert result.code in (0, 1)
    assert not harmful(result.out)
    values = [json.loads(line) for line in result.out.splitlines()]
    assert any(HOSTILE in text for value in values for text in _texts(value))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
