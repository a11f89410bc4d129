"""Waiting runs on the command line: questions, answers, inbox messages, recorded steps."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import orjson
import pytest

from skillfleet.contracts import EntryKind, WaitOutcome
from skillfleet.ports.journal import EntryFailure
from skillfleet_auth.sealing import AnswerKeys
from skillfleet_auth.signing import write_new_answer_key
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.inbox import InboxMessage
from tests.cli.commands import Shell
from tests.cli.screen import Screen
from tests.cli.terminal import HOSTILE, VISIBLE, harmful, on_terminal
from tests.ledger.helpers import DONE, running, settings_for
from tests.support.valkey import ValkeyServer
from tests.support.waiter import Waiter
from tests.support.waiting import wait_until_async

STATUS = {"type": "object", "properties": {"environment": {"enum": ["staging", "production"]}}}


class Scene(NamedTuple):
    """A run that a worker executes, and a shell on its fleet."""

    waiter: Waiter
    shell: Shell

    @property
    def run_id(self) -> str:
        return self.waiter.lease.run_id


@pytest.fixture
async def ledger(valkey: ValkeyServer) -> AsyncIterator[Ledger]:
    ledger = Ledger(settings_for(valkey))
    yield ledger
    await ledger.close()


@pytest.fixture
async def scene(ledger: Ledger, bare: Shell) -> Scene:
    return Scene(Waiter(ledger, await running(ledger)), bare)


async def test_open_waits_are_listed_the_oldest_first(scene: Scene, ledger: Ledger) -> None:
    waiter, shell = scene
    other = Waiter(ledger, await running(ledger))
    await waiter.opens(question="Deploy\nto production?")
    opened = await ledger.directory.now_ms()

    async def is_later() -> bool:
        return await ledger.directory.now_ms() > opened

    # Of two that opened in the same millisecond, none is the older one.
    await wait_until_async(is_later)
    await other.opens(None, "message")
    await other.parks("1")
    listed = shell.ok("waiting", "--json").json
    assert [wait["run_id"] for wait in listed] == [scene.run_id, other.lease.run_id]
    assert [wait["kind"] for wait in listed] == ["ask", "message"]
    assert listed[0]["value_schema"] == {"type": "boolean"}
    header, first, second = shell.ok("waiting").out.splitlines()
    assert header.split() == ["RUN", "WAIT", "KIND", "AGE", "QUESTION"]
    assert first.split()[:3] == [scene.run_id, "1", "ask"]
    assert first.rstrip().endswith("Deploy")
    assert second.split()[:3] == [other.lease.run_id, "1", "message"]


def test_no_open_wait_is_said_on_stderr(bare: Shell) -> None:
    result = bare.ok("waiting")
    assert (result.out, result.err) == ("", "no run waits\n")
    assert bare.ok("waiting", "--json").json == []


async def test_status_and_runs_show_what_a_run_waits_for(scene: Scene) -> None:
    waiter, shell = scene
    await waiter.opens()
    await waiter.opens(None, "message", identity="more")
    assert "waiting (ask, message)" in shell.ok("status", scene.run_id).out
    await waiter.parks("1", "2")
    shown = shell.ok("status", scene.run_id).out
    assert "waiting (ask, message)" in shown
    assert "parked" in shown
    assert "waiting (ask, message)" in shell.ok("runs", "--state", "waiting").out
    status = shell.ok("status", scene.run_id, "--json").json
    assert (status["state"], status["parked"]) == ("waiting", True)
    assert sorted(status["waits"]) == ["ask", "message"]


@pytest.mark.parametrize(
    ("schema", "given", "value"),
    [
        ({"type": "boolean"}, "true", True),
        ({"type": "string"}, "yes", "yes"),
        ({"type": "string"}, "7", "7"),
        ({"type": "string"}, '"quoted"', "quoted"),
        ({"type": "integer"}, "7", 7),
        ({"enum": ["staging", "production"]}, "staging", "staging"),
        (None, '{"a": [1]}', {"a": [1]}),
        (None, "some text", "some text"),
        (STATUS, '{"environment": "staging"}', {"environment": "staging"}),
    ],
)
async def test_an_answer_is_json_or_text_as_the_schema_takes_it(
    scene: Scene, schema: dict[str, object] | None, given: str, value: object
) -> None:
    waiter, shell = scene
    await waiter.opens(schema)
    result = shell.ok("answer", scene.run_id, given, "--subject", "ada")
    assert result.out == f"{scene.run_id} answered\n"
    decision = await waiter.decision("1")
    assert (orjson.loads(decision.value), decision.by) == (value, "ada")


async def test_an_answer_may_come_from_stdin_or_a_file(scene: Scene) -> None:
    waiter, shell = scene
    await waiter.opens({"type": "string"}, identity="a")
    await waiter.opens(STATUS, identity="b")
    shell.ok("answer", scene.run_id, "-", "--wait", "1", stdin="line one\nline two\n")
    assert orjson.loads((await waiter.decision("1")).value) == "line one\nline two"
    (shell.folder / "answer.json").write_text('{"environment": "staging"}\n')
    shell.ok("answer", scene.run_id, "@answer.json", "--wait", "2")
    assert orjson.loads((await waiter.decision("2")).value) == {"environment": "staging"}


async def test_a_secret_is_no_argument_and_comes_from_stdin(scene: Scene, tmp_path: Path) -> None:
    waiter, shell = scene
    write_new_answer_key(tmp_path, "key")
    keys = AnswerKeys(tmp_path)
    schema = {"type": "string", "writeOnly": True}
    await waiter.opens(schema, secret=True, answer_key=keys.newest)
    refused = shell.run("answer", scene.run_id, "hunter2hunter2")
    assert refused.code == 2
    assert "leave VALUE out" in refused.err
    shell.ok("answer", scene.run_id, stdin="1234567\n")
    sealed = (await waiter.decision("1")).value
    assert keys.open(sealed, scene.run_id, "1") == b'"1234567"'
    assert b"1234567" not in sealed


async def test_a_secret_is_typed_without_being_shown(scene: Scene, tmp_path: Path) -> None:
    waiter, shell = scene
    write_new_answer_key(tmp_path, "key")
    keys = AnswerKeys(tmp_path)
    await waiter.opens({"type": "string"}, secret=True, answer_key=keys.newest)
    code, shown = on_terminal(shell, "answer", scene.run_id, typed="hunter2hunter2\n")
    assert code == 0
    assert "hidden" in shown
    assert "hunter2" not in shown
    assert keys.open((await waiter.decision("1")).value) == b'"hunter2hunter2"'


async def test_a_bad_answer_names_its_field_and_decides_nothing(scene: Scene) -> None:
    waiter, shell = scene
    await waiter.opens(STATUS)
    bad = shell.run("answer", scene.run_id, '{"environment": "moon"}')
    assert (bad.code, bad.out) == (2, "")
    assert bad.err.startswith("skillfleet: the answer does not fit: environment: ")
    assert shell.run("answer", scene.run_id, "[NaN]").code == 2
    assert len(shell.ok("waiting", "--json").json) == 1


async def test_an_answer_counts_once(scene: Scene) -> None:
    waiter, shell = scene
    await waiter.opens()
    assert shell.ok("answer", scene.run_id, "true", "--json").json == {
        "id": scene.run_id,
        "answered": True,
    }
    again = shell.ok("answer", scene.run_id, "true")
    assert again.out == f"{scene.run_id} was answered so before\n"
    for other in (("answer", scene.run_id, "false"), ("reject", scene.run_id, "no")):
        refused = shell.run(*other)
        assert refused.code == 2
        assert "before" in refused.err


async def test_a_rejection_has_its_reason(scene: Scene) -> None:
    waiter, shell = scene
    await waiter.opens(scopes=("approve",))
    refused = shell.run("reject", scene.run_id, "not on a Friday")
    assert refused.code == 2
    assert "approve" in refused.err
    options = ("--subject", "ada", "--scope", "approve")
    assert shell.ok("reject", scene.run_id, "not on a Friday", *options).out.endswith("rejected\n")
    decision = await waiter.decision("1")
    assert (decision.outcome, decision.reason) == (WaitOutcome.REJECTED, "not on a Friday")


async def test_what_cannot_be_answered_is_said(scene: Scene) -> None:
    waiter, shell = scene
    assert "no open question" in shell.run("answer", scene.run_id, "true").err
    await waiter.opens(identity="a")
    await waiter.opens(identity="b")
    several = shell.run("answer", scene.run_id, "true")
    assert several.code == 2
    assert "1 (Deploy?), 2 (Deploy?)" in several.err
    assert shell.run("answer", scene.run_id, "true", "--wait", "9").code == 2
    unknown = shell.run("answer", "no-run", "true")
    assert unknown.code == 2
    assert "no-run" in unknown.err


async def test_a_message_is_sent_as_json(scene: Scene, ledger: Ledger) -> None:
    _, shell = scene
    sent = shell.ok("send", scene.run_id, '{"leave out": ["tests"]}', "--subject", "ada")
    assert sent.out == f"{scene.run_id} sent\n"
    shell.ok("send", scene.run_id, "-", stdin='"go on"')
    entries = []
    key = f"{ledger.keys.prefix(scene.run_id)}inbox:{scene.run_id}"
    for entry in await ledger.connection.execute("LRANGE", key, 0, -1):
        message = InboxMessage.unpacked(entry)
        entries.append((orjson.loads(message.value), message.by))
    assert entries == [({"leave out": ["tests"]}, "ada"), ("go on", "")]
    bad = shell.run("send", scene.run_id, "go on")
    assert bad.code == 2
    assert "is not valid JSON" in bad.err


async def test_a_run_that_has_ended_gets_no_message(scene: Scene, ledger: Ledger) -> None:
    waiter, shell = scene
    await ledger.leases.settle(waiter.lease, "librarian.survey", waiter.seq, DONE)
    refused = shell.run("send", scene.run_id, "1")
    assert refused.code == 2
    assert "has ended" in refused.err


async def test_steps_are_listed_in_order(scene: Scene) -> None:
    waiter, shell = scene
    assert shell.ok("steps", scene.run_id).err == "no recorded steps\n"
    await waiter.records("fetch", b'"' + b"x" * 2000 + b'"')
    failure = EntryFailure("HTTPError", "rate_limited", "too many requests\nreally")
    await waiter.records("charge", None, failure=failure, tries=3)
    listed = shell.ok("steps", scene.run_id, "--json").json
    assert [step["name"] for step in listed] == ["fetch", "charge"]
    assert [step["kind"] for step in listed] == [EntryKind.STEP] * 2
    header, first, second = shell.ok("steps", scene.run_id).out.splitlines()
    assert header.split() == ["STEP", "NAME", "KIND", "ATTEMPT", "TOOK", "SIZE", "OUTCOME"]
    assert first.split() == ["1", "fetch", "step", "1", "250", "ms", "2.0", "kB", "succeeded"]
    assert second.endswith("failed: rate_limited: too many requests (try 3)")
    assert shell.run("steps", "no-run").code == 2
    await waiter.records("Is this question\nlong? " + "x" * 100, b"true")
    await waiter.records("x" * 100, b"true")
    *_, one, other = shell.ok("steps", scene.run_id).out.splitlines()
    assert " Is this question  " in one
    assert f" {'x' * 59}… " in other


async def test_a_fork_begins_with_recorded_steps(scene: Scene, ledger: Ledger) -> None:
    waiter, shell = scene
    await waiter.records("fetch", b"1")
    await waiter.records("draft", b"2")
    forked = shell.ok("fork", scene.run_id, "--at-step", "draft", "--arg", "folder=x").out.strip()
    invocation = await ledger.queries.invocation(forked)
    assert invocation is not None
    assert orjson.loads(invocation.args) == {"folder": "x"}
    header = orjson.loads(invocation.headers)["skillfleet"]
    assert header["fork"] == {"run": scene.run_id, "before": 2}
    assert shell.ok("status", forked, "--json").json["fork_of"] == scene.run_id
    assert f"fork of   {scene.run_id}" in shell.ok("status", forked).out
    shown = shell.ok("fork", scene.run_id, "--json").json
    assert shown["fork_of"] == scene.run_id
    unknown = shell.run("fork", scene.run_id, "--at-step", "charge")
    assert unknown.code == 2
    assert "1 fetch, 2 draft" in unknown.err


async def test_hostile_questions_and_answers_do_not_steer_a_terminal(scene: Scene) -> None:
    waiter, shell = scene
    await waiter.opens({"type": "string"}, question=HOSTILE)
    for command in (("waiting",), ("events", scene.run_id, "--no-follow")):
        code, shown = on_terminal(shell, *command)
        assert (code, harmful(shown)) == (0, set())
    assert VISIBLE not in shell.ok("waiting").out, "a question's further lines are not listed"


async def void_text(waiter: Waiter, ledger: Ledger) -> None:
    """Write a text whose second piece is void, and end the run."""
    step, at = "step/draft#ab12#1", 1_795_000_000_000
    texts = [("Intro. ", ""), ("A first attempt", step), ("A second attempt", step)]
    events = [("text_delta", orjson.dumps({"text": text}), at, of) for text, of in texts]
    events.insert(2, ("superseded", orjson.dumps({"step": step}), at, ""))
    first = waiter.seq + 1
    assert await ledger.streams.append(waiter.lease, first, events, emitted={}) is not None
    end = waiter.seq + len(events)
    await ledger.leases.settle(waiter.lease, "librarian.survey", end, DONE)


async def test_events_of_an_unfinished_step_are_erased_on_a_terminal(
    scene: Scene, ledger: Ledger
) -> None:
    waiter, shell = scene
    await void_text(waiter, ledger)
    piped = shell.ok("events", scene.run_id).out
    assert "A first attempt" in piped
    assert "superseded: the events so far of step draft are void" in piped
    code, shown = on_terminal(shell, "events", scene.run_id)
    assert code == 0
    screen = "\n".join(Screen(width=120, height=24).write(shown).lines)
    assert "A first attempt" not in screen
    for text in ("Intro. ", "step draft are void", "A second attempt", "succeeded"):
        assert text in screen
