"""`skillfleet keys new` and `skillfleet token`, as an operator uses them."""

import json
from pathlib import Path

import pytest
from celery import Celery
from typer.testing import CliRunner

from skillfleet.contracts import TOKEN_HEADER
from skillfleet_cli.main import app
from skillfleet_producer import Fleet
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.trust.keys import Keys


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


@pytest.mark.parametrize("verb", ["keys new", "token"])
def test_the_verbs_explain_themselves_with_an_example(verb: str) -> None:
    code, said = command(*verb.split(), "--help")
    assert code == 0
    assert f"$ skillfleet {verb}" in said


def test_a_token_needs_a_key() -> None:
    code, _ = command("token", "gate.reads", SKILLFLEET_AUTH_SIGNING_KEY_FILE="")
    assert code != 0
