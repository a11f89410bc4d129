"""The keys that tokens are signed and verified with: their files, rotation, and wrong ones."""

import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import OKPAlgorithm

from skillfleet.errors import RunFailed, SettingsError
from skillfleet_auth import keys as public_keys
from skillfleet_auth.keys import PublicKeys
from skillfleet_auth.signing import Signing, load_private_key, write_new_key
from skillfleet_producer import Fleet, Settings
from skillfleet_worker import create_app
from skillfleet_worker.settings import WorkerSettings
from tests.auth.conftest import StartWorker
from tests.auth.keys import make_keys
from tests.auth.token_factory import ADA
from tests.support.fleet import POOL_FORMS
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def _always_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public_keys, "_FRESH_SECONDS", 0.0)


def jwk_of(private: Path) -> dict[str, str]:
    _, key = load_private_key(private)
    fields = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {name: str(fields[name]) for name in ("kty", "crv", "x")}


def test_a_new_key_is_for_its_owners_eyes_only_and_never_replaces_another(tmp_path: Path) -> None:
    private, public = write_new_key(tmp_path, "2026-11")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert b"PRIVATE" not in public.read_bytes()
    assert load_private_key(private)[0] == "2026-11"
    with pytest.raises(FileExistsError):
        write_new_key(tmp_path, "2026-11")


@pytest.mark.parametrize("name", ["", "../up", "with.dot", "a b"])
def test_a_key_cannot_be_called_just_anything(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="name"):
        write_new_key(tmp_path, name)


def test_keys_come_from_pem_files_jwk_files_and_a_jwks_file(tmp_path: Path) -> None:
    private, _ = write_new_key(tmp_path, "made")
    folder = tmp_path / "public"
    folder.mkdir()
    (folder / "a.pem").write_bytes((tmp_path / "made.pem").read_bytes())
    (folder / "b.jwk").write_text(json.dumps(jwk_of(private)))
    (folder / "c.json").write_text(json.dumps(jwk_of(private) | {"kid": "own-id"}))
    (folder / "notes.txt").write_text("no key")
    found = PublicKeys(folder, "X")
    assert all(found.get(key_id) is not None for key_id in ("a", "b", "own-id"))
    assert found.get("notes") is None
    jwks = tmp_path / "jwks.json"
    jwks.write_text(json.dumps({"keys": [jwk_of(private) | {"kid": "k1"}]}))
    assert PublicKeys(jwks, "X").get("k1") is not None


def test_a_key_that_is_added_is_trusted_and_one_that_is_removed_is_not(tmp_path: Path) -> None:
    keys = make_keys(tmp_path)
    found = PublicKeys(keys.producers, "X")
    assert found.get("untrusted") is None
    keys.trust("untrusted", keys.producers)
    (keys.producers / "backend.pem").unlink()
    assert found.get("untrusted") is not None
    assert found.get("backend") is None


def test_a_broken_file_that_turns_up_later_leaves_the_keys_as_they_were(tmp_path: Path) -> None:
    keys = make_keys(tmp_path)
    found = PublicKeys(keys.producers, "X")
    (keys.producers / "broken.pem").write_text("no key")
    assert found.get("backend") is not None


def test_a_private_key_among_the_public_ones_is_refused(tmp_path: Path) -> None:
    keys = make_keys(tmp_path)
    private = keys.private("untrusted")
    (keys.producers / "oops.pem").write_bytes(private.read_bytes())
    with pytest.raises(SettingsError, match=r"SKILLFLEET_AUTH_KEYS.*oops\.pem.*no private key"):
        PublicKeys(keys.producers, "SKILLFLEET_AUTH_KEYS")


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    pem = other.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    file = tmp_path / "ec.pem"
    file.write_bytes(pem)
    with pytest.raises(SettingsError, match=r"ec\.pem does not contain a private Ed25519 key"):
        Signing(Settings.load(auth_signing_key_file=file))


def test_a_signing_key_that_is_missing_or_broken_is_named_by_its_variable(tmp_path: Path) -> None:
    for content in (None, "garbage", '{"kty": "OKP"}'):
        file = tmp_path / "key.pem"
        if content is not None:
            file.write_text(content)
        with pytest.raises(SettingsError, match="SKILLFLEET_AUTH_SIGNING_KEY_FILE") as error:
            Signing(Settings.load(auth_signing_key_file=file))
        assert "garbage" not in str(error.value)


def test_a_worker_that_requires_tokens_does_not_start_without_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for keys in (None, tmp_path):
        if keys is not None:
            monkeypatch.setenv("SKILLFLEET_AUTH_KEYS", str(keys))
        settings = WorkerSettings.load(auth="required")
        with pytest.raises(SettingsError, match="SKILLFLEET_AUTH_KEYS"):
            create_app("tests.auth.agents", settings=settings)


def test_a_new_key_works_on_a_running_worker_and_a_withdrawn_one_no_more(
    start_worker: StartWorker, server: ValkeyServer, tmp_path: Path
) -> None:
    keys = make_keys(tmp_path)
    start_worker("tests.auth.agents", **keys.worker_settings())
    write_new_key(tmp_path, "next")
    keys.trust("next", keys.producers)
    with Fleet(settings=keys.settings(server.producer_url, "next")) as fleet:
        assert fleet.enqueue("gate.reads", auth=ADA).result(timeout=20) == "read"
    (keys.producers / "backend.pem").unlink()
    with Fleet(settings=keys.settings(server.producer_url)) as fleet:

        def refused() -> bool:
            try:
                fleet.enqueue("gate.reads", auth=ADA).result(timeout=20)
            except RunFailed as error:
                return error.code == "unauthorized"
            return False

        wait_until(refused, what="the withdrawn key to be refused")


def test_a_worker_without_tokens_says_so_loudly(start_worker: StartWorker) -> None:
    worker = start_worker("tests.auth.agents")
    wait_until(lambda: "SKILLFLEET_AUTH is off" in worker.text())
    lines = worker.text().splitlines()
    assert "warning" in next(line for line in lines if "SKILLFLEET_AUTH is off" in line).lower()


def test_a_worker_without_a_key_of_its_own_cannot_call(
    start_worker: StartWorker, server: ValkeyServer, tmp_path: Path
) -> None:
    keys = make_keys(tmp_path)
    settings = keys.worker_settings()
    del settings["auth_signing_key_file"]
    worker = start_worker("tests.auth.agents", **settings)
    assert "cannot call others" in worker.text()
    with Fleet(settings=keys.settings(server.producer_url)) as fleet:
        with pytest.raises(RunFailed, match="SKILLFLEET_AUTH_SIGNING_KEY_FILE") as refused:
            fleet.enqueue("gate.calls", {"skill": "whoami"}, auth=ADA).result(timeout=20)
        assert refused.value.code == "unauthorized"


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_nothing_of_a_token_is_logged(
    start_worker: StartWorker, server: ValkeyServer, tmp_path: Path, pool: str
) -> None:
    keys = make_keys(tmp_path)
    worker = start_worker(
        "tests.auth.agents", pool=pool, options=("-l", "DEBUG"), **keys.worker_settings()
    )
    untrusted = keys.settings(server.producer_url, "untrusted")
    with Fleet(settings=untrusted) as fleet, pytest.raises(RunFailed):
        fleet.enqueue("gate.whoami", auth=ADA).result(timeout=20)
    with Fleet(settings=keys.settings(server.producer_url)) as fleet:
        fleet.enqueue("gate.whoami", auth=ADA).result(timeout=20)
        # Celery's line about a message is cut off: where its token stands in it depends.
        with pytest.raises(RunFailed):
            fleet.enqueue("gate.reads", auth={"sub": "x"}).result(timeout=20)
    assert "debug" in worker.text()
    # Every token begins so: the header {"alg":"EdDSA",...} in base64.
    assert "eyJhbGciOiJFZERTQS" not in worker.text()
