"""`skillfleet keys new`, `token` and `dead retry` with signed runs, as an operator uses them."""

import json
from pathlib import Path

import orjson
import pytest
from celery import Celery
from typer.testing import CliRunner

from skillfleet.contracts import HEADER, TOKEN_HEADER
from skillfleet.errors import RunFailed
from skillfleet_auth.sealing import AnswerKeys
from skillfleet_cli.app import app
from skillfleet_producer import Fleet, RunHandle
from tests.auth.keys import Keys
from tests.auth.token_factory import ADA
from tests.cli.commands import Result, Shell
from tests.support.fleet import ROOT
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until


def command(*arguments: str, **environment: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments, env=environment)
    return result.exit_code, result.output


def test_keys_new_writes_a_pair_and_replaces_nothing(tmp_path: Path) -> None:
    code, said = command("keys", "new", "backend", "--out", str(tmp_path))
    assert code == 0
    assert (tmp_path / "backend.private.pem").exists()
    assert str(tmp_path / "backend.pem") in said
    before = (tmp_path / "backend.private.pem").read_bytes()
    assert command("keys", "new", "backend", "--out", str(tmp_path))[0] != 0
    assert (tmp_path / "backend.private.pem").read_bytes() == before


def test_a_token_of_the_command_lets_a_plain_celery_client_in(
    guarded: ValkeyServer, keys: Keys, fleet: Fleet
) -> None:
    code, said = command(
        *("token", "gate.reads", "--subject", "ada", "--scope", "files:read", "--json"),
        SKILLFLEET_AUTH_SIGNING_KEY_FILE=str(keys.private("backend")),
    )
    assert code == 0, said
    made = json.loads(said)
    client = Celery(broker=guarded.url, set_as_current=False)
    client.send_task("gate.reads", task_id=made["run"], headers={TOKEN_HEADER: made["token"]})
    client.close()
    run = fleet.run(made["run"])
    wait_until(lambda: run.id in {status.id for status in fleet.runs()})
    assert run.result(timeout=20) == "read"


def test_keys_new_writes_a_key_for_answers_that_only_its_owner_reads(tmp_path: Path) -> None:
    code, said = command("keys", "new", "2026-01", "--answers", "--out", str(tmp_path))
    assert code == 0
    (path,) = tmp_path.iterdir()
    assert (path.name, path.stat().st_mode & 0o777) == ("2026-01.private.pem", 0o600)
    assert path.name in said
    assert AnswerKeys(tmp_path).newest.id
    assert command("keys", "new", "2026-01", "--answers", "--out", str(tmp_path))[0] != 0


@pytest.mark.parametrize("verb", ["keys new", "token"])
def test_the_verbs_explain_themselves_with_an_example(verb: str) -> None:
    code, said = command(*verb.split(), "--help")
    assert code == 0
    assert f"$ skillfleet {verb}" in said


def test_a_token_needs_a_key() -> None:
    code, _ = command("token", "gate.reads", SKILLFLEET_AUTH_SIGNING_KEY_FILE="")
    assert code != 0


@pytest.fixture
def failed(fleet: Fleet, tmp_path: Path) -> RunHandle:
    """A run of ada's that failed, and would succeed the next time."""
    args = {"journal": str(tmp_path / "journal")}
    run = fleet.enqueue("gate.fails_once", args, auth=ADA)
    with pytest.raises(RunFailed, match="the first time"):
        run.result(timeout=20)
    return run


def retry(server: ValkeyServer, run: RunHandle, **settings: object) -> Result:
    """`skillfleet dead retry` with these settings."""
    environment = {f"SKILLFLEET_{name.upper()}": str(value) for name, value in settings.items()}
    return Shell(server.url, ROOT, environment, users=True).run("dead", "retry", run.id)


def operators(keys: Keys) -> dict[str, object]:
    """A worker's settings, with a key that producers sign with."""
    return keys.worker_settings() | {"auth_signing_key_file": keys.private("backend")}


def test_a_retry_of_a_signed_run_is_signed_anew_for_the_same_caller(
    guarded: ValkeyServer, keys: Keys, fleet: Fleet, failed: RunHandle
) -> None:
    ended = retry(guarded, failed, **operators(keys))
    seen = fleet.run(ended.out.strip()).result(timeout=20)
    assert (seen["sub"], seen["scopes"]) == ("ada", ["files:read"])


def test_a_retry_believes_the_token_and_not_the_record(
    guarded: ValkeyServer, keys: Keys, fleet: Fleet, failed: RunHandle
) -> None:
    key = f"{{skillfleet:0}}:run:{failed.id}"
    with guarded.client() as client:
        headers = orjson.loads(client.hget(key, "headers") or b"")
        headers[HEADER]["auth"] = {"sub": "root", "scopes": ["admin"]}
        client.hset(key, "headers", orjson.dumps(headers))
    ended = retry(guarded, failed, **operators(keys))
    assert fleet.run(ended.out.strip()).result(timeout=20)["sub"] == "ada"


@pytest.mark.parametrize("field", ["headers", "args"])
def test_a_run_without_a_valid_token_is_not_retried(
    guarded: ValkeyServer, keys: Keys, failed: RunHandle, field: str
) -> None:
    changed = {"headers": {HEADER: {"auth": ADA}}, "args": {"journal": "/etc/passwd"}}
    with guarded.client() as client:
        client.hset(f"{{skillfleet:0}}:run:{failed.id}", field, orjson.dumps(changed[field]))
    ended = retry(guarded, failed, **operators(keys))
    assert ended.code == 2
    assert "is not retried" in ended.err


def test_a_retry_of_a_signed_run_needs_the_keys(
    guarded: ValkeyServer, keys: Keys, failed: RunHandle
) -> None:
    ended = retry(guarded, failed, auth="required", auth_keys=keys.producers)
    assert "SKILLFLEET_AUTH_SIGNING_KEY_FILE" in ended.err
    ended = retry(guarded, failed, auth="required")
    assert "SKILLFLEET_AUTH_KEYS" in ended.err


def test_a_called_run_is_retried_for_the_caller_of_its_tree(
    guarded: ValkeyServer, keys: Keys, fleet: Fleet, tmp_path: Path
) -> None:
    args = {"journal": str(tmp_path / "journal")}
    parent = fleet.enqueue("gate.passes_on", {"skill": "fails_once", "args": args}, auth=ADA)
    with pytest.raises(RunFailed, match="the first time"):
        parent.result(timeout=20)
    (child,) = (run for run in fleet.runs() if run.parent_id == parent.id)
    ended = retry(guarded, fleet.run(child.id), **operators(keys))
    seen = fleet.run(ended.out.strip()).result(timeout=20)
    assert (seen["sub"], seen["scopes"]) == ("ada", ["files:read"])
