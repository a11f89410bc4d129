"""Secrets: their sources, their access, and their redaction in all output of a run."""

import base64
import importlib
import json
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from skillfleet.contracts import RunState
from skillfleet.errors import RunFailed, SettingsError, UnknownSecretError, UnknownSkillError
from skillfleet.ports import loading
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.secrets import SECRETS, Secrets
from skillfleet.redaction import HIDDEN
from skillfleet_adapters.secrets.chain import ChainedSecrets
from skillfleet_producer import Fleet, RunHandle
from skillfleet_worker.adapters import load_adapters
from skillfleet_worker.settings import WorkerSettings
from tests.support.collector import Collector
from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer, running_server
from tests.support.waiting import wait_until

SECRET = 'sk-test-9f8e7d6c5b4a"ä'
ROTATED = "sk-next-0011223344556677"


class House:
    """One worker with secrets in files, and all that can be seen of it."""

    def __init__(self, server: ValkeyServer, worker: FleetWorker, folder: Path) -> None:
        self.server = server
        self.worker = worker
        self.folder = folder

    def seen(self, run: RunHandle) -> str:
        """Everything of a run that anybody may see."""
        events = [(event.kind, event.payload) for event in run.events(timeout=20)]
        try:
            result = run.result(timeout=20)
        except RunFailed as error:
            result = str(error)
        status = run.status().model_dump(mode="json")
        with self.server.client() as client:
            stored = client.get(f"celery-task-meta-{run.id}")
        return repr((events, result, status, stored))


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.shutdown()
    collector.thread.join()
    collector.server_close()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "api-key").write_text(SECRET + "\n")
    with running_server() as server:
        worker = FleetWorker(server, "tests.auth.agents", secrets_dir=folder)
        worker._environment |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "SKILLFLEET_SECRET_PIN": "123",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        }
        with worker:
            yield House(server, worker, folder)


@pytest.fixture
def fleet(house: House) -> Iterator[Fleet]:
    (house.folder / "api-key").write_text(SECRET + "\n")
    with Fleet(house.server.producer_url) as fleet:
        yield fleet


def hides(text: str, secret: str = SECRET) -> bool:
    forms = (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], secret[:12])
    return not any(form in text for form in forms)


WAYS = ("progress", "event", "text", "slow text", "error", "skill error", "code", "chained error")


@pytest.mark.parametrize("way", [*WAYS, "span", "result"])
def test_a_secret_in_the_output_of_a_skill_is_hidden(house: House, fleet: Fleet, way: str) -> None:
    run = fleet.enqueue("keeper.leaks", {"how": way})
    seen = house.seen(run)
    assert hides(seen), seen
    if way == "slow text":
        assert f"{{'text': '{HIDDEN}>'}}" in seen, "no letter of it before the pause"
    if way in {"progress", "event", "text", "error", "skill error", "code", "result"}:
        assert HIDDEN in seen
    wait_until(lambda: run.id in house.worker.text())
    assert hides(house.worker.text())


def test_a_span_holds_no_secret(house: House, fleet: Fleet, collector: Collector) -> None:
    before = len(collector.bodies)
    fleet.enqueue("keeper.leaks", {"how": "span"}).result(timeout=20)
    wait_until(lambda: b"said" in b"".join(collector.bodies[before:]), what="the span")
    reported = b"".join(collector.bodies)
    assert SECRET.encode() not in reported
    assert HIDDEN.encode() in reported


def test_a_monitor_of_celery_sees_no_secret_of_a_failure(house: House, fleet: Fleet) -> None:
    with house.server.client() as client, client.pubsub() as pubsub:
        pubsub.psubscribe("*celeryev*")
        run = fleet.enqueue("keeper.leaks", {"how": "chained error"})
        reported: list[str] = []

        def failed() -> bool:
            message = pubsub.get_message(timeout=0.1)
            if message is not None and message["type"] == "pmessage":
                envelope = json.loads(message["data"])
                reported.append(base64.b64decode(envelope["body"]).decode())
            return any("task-failed" in event and run.id in event for event in reported)

        wait_until(failed, what="the event task-failed")
    assert any(HIDDEN in event for event in reported)
    assert all(hides(event) for event in reported)


def test_a_text_that_is_written_letter_by_letter_keeps_all_but_the_secret(
    house: House, fleet: Fleet
) -> None:
    run = fleet.enqueue("keeper.leaks", {"how": "text"})
    said = "".join(
        event.payload["text"] for event in run.events(timeout=20) if event.kind == "text_delta"
    )
    assert said == f"<{HIDDEN}>"


def test_a_secret_that_an_earlier_run_kept_is_hidden_too(house: House, fleet: Fleet) -> None:
    fleet.enqueue("keeper.leaks", {"how": "progress"}).result(timeout=20)
    assert fleet.enqueue("keeper.leaks_from_memory").result(timeout=20) == HIDDEN


def test_a_rotated_file_is_picked_up_and_both_values_are_hidden(house: House, fleet: Fleet) -> None:
    fleet.enqueue("keeper.leaks", {"how": "progress"}).result(timeout=20)
    (house.folder / "api-key").write_text(ROTATED)
    assert fleet.enqueue("keeper.uses").result(timeout=20) == len(ROTATED)
    assert fleet.enqueue("keeper.leaks_from_memory").result(timeout=20) == HIDDEN
    assert hides(house.seen(fleet.enqueue("keeper.leaks", {"how": "text"})), ROTATED)


def test_an_undeclared_secret_is_refused(fleet: Fleet) -> None:
    with pytest.raises(RunFailed, match="did not declare the secret 'api-key'") as refused:
        fleet.enqueue("keeper.undeclared").result(timeout=20)
    assert refused.value.code == "unknown_secret"


def test_a_skill_whose_secret_is_missing_is_not_served_and_the_others_are(
    house: House, fleet: Fleet
) -> None:
    said = house.worker.text()
    assert "keeper.never is not served" in said
    assert "'missing-secret'" in said
    line = next(line for line in said.splitlines() if "keeper.never is not served" in line)
    assert "'api-key'" not in line
    with pytest.raises(UnknownSkillError, match=r"keeper\.never"):
        fleet.enqueue("keeper.never")
    run = fleet.enqueue("keeper.innocent")
    assert run.result(timeout=20) == "fine"
    assert run.status().state is RunState.SUCCEEDED


def test_a_skill_whose_secret_is_too_short_to_be_hidden_is_not_served(
    house: House, fleet: Fleet
) -> None:
    said = house.worker.text()
    line = next(line for line in said.splitlines() if "keeper.too_short is not served" in line)
    assert "'pin' has fewer than 4 characters" in line
    assert "123" not in line.partition("not served")[2]
    with pytest.raises(UnknownSkillError, match=r"keeper\.too_short"):
        fleet.enqueue("keeper.too_short")


def test_a_secret_that_is_rotated_to_one_that_cannot_be_hidden_is_not_given(
    house: House, fleet: Fleet
) -> None:
    (house.folder / "api-key").write_text("abc")
    with pytest.raises(RunFailed, match="fewer than 4 characters") as refused:
        fleet.enqueue("keeper.uses").result(timeout=20)
    assert refused.value.code == "unknown_secret"


@pytest.mark.parametrize(
    ("name", "mime_type", "problem"),
    [
        ("{}.txt", "text/plain", "name contains the value of a secret"),
        ("a.txt", "text/{}", "media type contains the value of a secret"),
        ("a.txt", f"{'x' * 60} {{}}", f"{HIDDEN}' is not of the form"),
    ],
)
def test_a_secret_is_no_name_of_an_artifact(
    house: House, fleet: Fleet, name: str, mime_type: str, problem: str
) -> None:
    (house.folder / "api-key").write_text(ROTATED)
    run = fleet.enqueue("keeper.names_artifact", {"name": name, "mime_type": mime_type})
    reported = run.result(timeout=20)
    assert problem in reported
    assert hides(reported, ROTATED)
    assert run.artifacts() == []


class FromVault(Secrets):
    """A source of somebody else's."""

    def get(self, name: str) -> str | None:
        return {"a": "vault"}.get(name)


def from_vault(environment: AdapterEnvironment) -> Secrets:
    assert environment.fleet
    return FromVault()


def _load(entry_point: EntryPoint) -> Any:
    """A test's module is not found by its name: its factory is this one."""
    if entry_point.module == __name__:
        return from_vault
    return getattr(importlib.import_module(entry_point.module), entry_point.attr)


class Broken(Secrets):
    """A source whose errors talk."""

    def get(self, name: str) -> str | None:
        raise RuntimeError(f"the password was {SECRET}")


def test_sources_are_asked_in_the_order_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = loading._entry_points()
    vault = {"vault": EntryPoint("vault", f"{__name__}:from_vault", SECRETS.group)}
    patched = {**known, SECRETS.group: {**known[SECRETS.group], **vault}}
    monkeypatch.setattr(loading, "_entry_points", lambda: patched)
    monkeypatch.setattr(EntryPoint, "load", _load)
    monkeypatch.setenv("SKILLFLEET_SECRET_A", "environment")
    monkeypatch.setenv("SKILLFLEET_SECRETS_DIR", str(tmp_path))
    (tmp_path / "a").write_text("file")
    for order, value in {
        "files,environment": "file",
        "environment,files": "environment",
        "vault,files": "vault",
        " files , vault ": "file",
    }.items():
        secrets = load_adapters(WorkerSettings.load(secrets_sources=order), "loop").secrets
        assert secrets.get("a") == value
        assert secrets.get("b") is None


def test_a_source_that_does_not_exist_is_named_with_those_that_do() -> None:
    settings = WorkerSettings.load(secrets_sources="files,keyrin")
    with pytest.raises(SettingsError, match=r"'keyrin'; known are: environment, files"):
        load_adapters(settings, "loop")


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("no_such_module:create", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("json:no_such_name", "AttributeError: module 'json' has no attribute 'no_such_name'"),
        ("json:loads", "TypeError: the JSON object must be str"),
    ],
)
def test_an_adapter_that_cannot_be_created_is_named_with_its_setting(
    monkeypatch: pytest.MonkeyPatch, target: str, why: str
) -> None:
    broken = {SECRETS.group: {"broken": EntryPoint("broken", target, SECRETS.group)}}
    monkeypatch.setattr(loading, "_entry_points", lambda: broken)
    with pytest.raises(SettingsError) as error:
        load_adapters(WorkerSettings.load(secrets_sources="broken"), "loop")
    expected = f"SKILLFLEET_SECRETS_SOURCES: the secrets adapter 'broken' ({target}) cannot be"
    assert str(error.value).startswith(f"{expected} created: {why}")


def test_a_source_that_fails_is_named_without_its_words() -> None:
    with pytest.raises(UnknownSecretError, match="'vault'") as error:
        ChainedSecrets({"vault": Broken()}).get("a")
    assert hides(str(error.value))
    assert error.value.__cause__ is None
