"""Grants travel with the run that is called, through a real fleet."""

from collections.abc import Iterator

import pytest

from skillfleet.errors import RunFailed, UnknownRunError, UnknownSessionError
from skillfleet_producer import Fleet, RunHandle
from skillfleet_producer.fleet import Session
from tests.auth.keys import Keys
from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer, running_server
from tests.support.waiting import wait_until

ADA, BOB = {"sub": "ada"}, {"sub": "bob"}


@pytest.fixture(scope="module")
def house(keys: Keys) -> Iterator[ValkeyServer]:
    """A server with a worker whose agents hand grants to each other."""
    options = keys.worker_settings() | {"reap_seconds": 0.2}
    with running_server() as server, FleetWorker(server, "tests.auth.granting", **options):
        yield server


@pytest.fixture
def signing(house: ValkeyServer, keys: Keys) -> Iterator[Fleet]:
    with Fleet(settings=keys.settings(house.producer_url)) as fleet:
        yield fleet


def test_a_called_run_gets_the_access_that_was_handed_to_it(signing: Fleet) -> None:
    found = signing.enqueue("granting.hands_over", auth=ADA).result(timeout=20)
    assert found["seen"] == {"src/a": True, "docs/a": False}
    assert found["grant"]
    assert not found["shown"]


def test_a_run_of_a_session_hands_its_access_over_too(signing: Fleet) -> None:
    run = signing.session("files", auth=ADA).enqueue("granting.hands_over")
    assert run.result(timeout=20)["seen"] == {"src/a": True, "docs/a": False}


def test_access_that_is_handed_on_is_what_both_links_allow(signing: Fleet) -> None:
    run = signing.enqueue("granting.hands_over", {"skill": "delegates_on"}, auth=ADA)
    assert run.result(timeout=20)["seen"] == {"src/a": False, "docs/a": False}


@pytest.mark.parametrize(
    ("audience", "caller", "why"),
    [
        ("granted", ADA, "another session or tree"),
        ("granted", BOB, "another session or tree"),
        ("others", ADA, "another audience"),
    ],
)
def test_a_grant_is_refused_outside_of_its_tree_before_anything_is_called(
    signing: Fleet, audience: str, caller: dict[str, str], why: str
) -> None:
    token = signing.enqueue("granting.delegates", {"audience": audience}, auth=ADA).result(20)
    run = signing.enqueue("granting.passes", {"token": token}, auth=caller)
    with pytest.raises(RunFailed, match=why) as error:
        run.result(timeout=20)
    assert error.value.code == "grant_invalid"
    assert token not in str(error.value)
    assert run.status().children == 0


def test_a_grant_reaches_another_tree_of_its_session(signing: Fleet) -> None:
    session = signing.session("trees", auth=ADA)
    token = session.enqueue("granting.delegates", {"audience": "granting"}).result(timeout=20)
    other = signing.session("others", auth=ADA).enqueue("granting.narrows", {"token": token})
    with pytest.raises(RunFailed, match="another session or tree"):
        other.result(timeout=20)
    run = session.enqueue("granting.narrows", {"token": token})
    assert run.result(timeout=20) == {"src/a": True, "docs/a": False}


@pytest.mark.parametrize(
    ("skill", "why"),
    [("calls_twice", "installed by another run"), ("revokes", "has been revoked")],
)
def test_a_grant_is_refused_when_it_is_replayed_or_revoked(
    signing: Fleet, skill: str, why: str
) -> None:
    with pytest.raises(RunFailed, match=why) as error:
        signing.enqueue(f"granting.{skill}", auth=ADA).result(timeout=20)
    assert error.value.code == "grant_invalid"


@pytest.mark.parametrize("of", ["session", "run", "called run"])
def test_a_producer_revokes_the_grants_of_a_session(signing: Fleet, of: str) -> None:
    session = signing.session(f"revoked by {of}", auth=ADA)
    run = session.enqueue("granting.hands_over")
    run.result(timeout=20)
    delegated = session.enqueue("granting.delegates", {"audience": "granting"})
    token = delegated.result(timeout=20)
    (called,) = run.children()
    revoked: dict[str, Session | RunHandle] = {
        "session": session,
        "run": delegated,
        "called run": signing.run(called),
    }
    revoked[of].revoke_grants()
    with pytest.raises(RunFailed, match="has been revoked"):
        session.enqueue("granting.narrows", {"token": token}).result(timeout=20)
    later = session.enqueue("granting.delegates", {"audience": "granting"}).result(timeout=20)
    assert session.enqueue("granting.narrows", {"token": later}).result(timeout=20)


def test_a_producer_revokes_the_grants_of_a_tree_while_it_is_used(signing: Fleet) -> None:
    run = signing.enqueue("granting.waits_before_it_hands_over", auth=ADA)
    wait_until(run.waits)
    run.revoke_grants()
    run.answer(value=True, auth=ADA)
    with pytest.raises(RunFailed, match="has been revoked"):
        run.result(timeout=20)


def test_grants_of_what_there_is_not_cannot_be_revoked(signing: Fleet) -> None:
    with pytest.raises(UnknownRunError):
        signing.run("nothing").revoke_grants()
    with pytest.raises(UnknownSessionError):
        signing.session("revoked by session", auth=BOB).revoke_grants()


def test_neither_key_nor_ledger_is_reachable_through_the_grants_of_a_run(signing: Fleet) -> None:
    found = signing.enqueue("granting.hands_over", {"skill": "reaches"}, auth=ADA)
    assert found.result(timeout=20)["seen"] == []
