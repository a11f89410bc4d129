"""Tags and sessions from the producer's side: what is enqueued with them, and found by them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from skillfleet.contracts import RunState
from skillfleet.errors import InvalidArgumentsError
from skillfleet_producer import AsyncFleet, Fleet, Settings
from tests.support.valkey import ValkeyServer
from tests.worker.shared import StartWorker

ACME = {"tenant": "acme"}


@pytest.fixture
def tenants(valkey: ValkeyServer) -> Iterator[Fleet]:
    """A producer whose callers' claim `org_id` is the tenant."""
    settings = Settings.load(redis_url=valkey.producer_url, tenant_claim="org_id")
    with Fleet(settings=settings) as fleet:
        yield fleet


def test_runs_are_found_by_the_tags_that_they_were_enqueued_with(own_fleet: Fleet) -> None:
    one = own_fleet.enqueue("kit.add", {"x": 1}, tags=ACME | {"plan": "pro"})
    others = own_fleet.enqueue_many("kit.add", [{"x": 1}] * 3, tags=ACME)
    own_fleet.enqueue("kit.add", {"x": 1}, tags={"tenant": "umbrella"})
    assert one.status().tags == {"tenant": "acme", "plan": "pro"}

    def ids(**conditions: Any) -> set[str]:
        return {run.id for run in own_fleet.runs(**conditions)}

    assert ids(tags=ACME) == {one.id, *(run.id for run in others)}
    assert ids(tags=ACME | {"plan": "pro"}, agent="kit", state="queued") == {one.id}
    assert ids(tags=ACME, state=RunState.FAILED) == set()
    assert ids(tags=ACME, since=timedelta(hours=1)) == ids(tags=ACME)
    assert ids(since=datetime.now(UTC) + timedelta(hours=1)) == set()


async def test_pages_follow_each_other_by_their_cursor(
    own_fleet: Fleet, valkey: ValkeyServer
) -> None:
    made = [own_fleet.enqueue("kit.add", {"x": 1}, tags=ACME).id for _ in range(5)]
    page = own_fleet.runs(tags=ACME, limit=2)
    found = [run.id for run in page]
    async with AsyncFleet(valkey.producer_url) as fleet:
        while page.cursor is not None:
            page = await fleet.runs(tags=ACME, limit=2, after=page.cursor)
            found += [run.id for run in page]
    assert sorted(found) == sorted(made)
    with pytest.raises(ValueError, match="after must be the cursor"):
        own_fleet.runs(after="the next one")


def test_a_repeated_request_finds_the_run_with_its_first_tags(own_fleet: Fleet) -> None:
    first = own_fleet.enqueue("kit.add", {"x": 1}, idempotency_key="k", tags=ACME)
    again = own_fleet.enqueue("kit.add", {"x": 1}, idempotency_key="k", tags={"tenant": "other"})
    assert (again.id, again.status().tags) == (first.id, ACME)
    assert own_fleet.runs(tags={"tenant": "other"}) == []


def test_runs_are_found_by_their_session(own_fleet: Fleet) -> None:
    runs = [own_fleet.enqueue("kit.add", {"x": 1}, session="chat") for _ in range(2)]
    tagged = own_fleet.enqueue("kit.add", {"x": 1}, session="chat", tags=ACME)
    own_fleet.enqueue("kit.add", {"x": 1}, session="other", tags=ACME)
    own_fleet.enqueue("kit.add", {"x": 1}, tags=ACME)
    page = own_fleet.runs(session="chat", limit=2)
    rest = own_fleet.runs(session="chat", after=page.cursor)
    assert {run.id for run in [*page, *rest]} == {run.id for run in [*runs, tagged]}
    (found,) = own_fleet.runs("queued", "kit", session="chat", tags=ACME)
    assert (found.id, found.session) == (tagged.id, "chat")
    assert own_fleet.runs(session="unknown") == []
    with pytest.raises(InvalidArgumentsError, match="session must be a string"):
        own_fleet.runs(session="")


def test_invalid_tags_are_refused_before_anything_is_written(own_fleet: Fleet) -> None:
    for tags in ({"plan": 7}, {"a b": "x"}):
        with pytest.raises(InvalidArgumentsError, match="tags: "):
            own_fleet.enqueue("kit.add", {"x": 1}, tags=tags)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentsError, match="tags: "):
            own_fleet.runs(tags=tags)  # type: ignore[arg-type]
    assert own_fleet.runs() == []


def test_a_time_without_a_zone_is_refused(own_fleet: Fleet) -> None:
    with pytest.raises(ValueError, match="since must have a time zone"):
        own_fleet.runs(since=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point


def test_called_runs_have_the_tags_of_the_run_that_calls_them(
    own_fleet: Fleet, start_worker: StartWorker
) -> None:
    start_worker("tests.auth.agents")
    run = own_fleet.enqueue("tree.fans_below", {"count": 1}, tags=ACME)
    assert run.result(timeout=30) == 1
    tree = own_fleet.runs(tags=ACME)
    assert sorted(each.name for each in tree) == ["tree.fans", "tree.fans_below", "tree.leaf"]


def test_the_tenant_is_the_callers_claim(tenants: Fleet) -> None:
    auth = {"sub": "ada", "org_id": "acme"}
    assert tenants.enqueue("kit.add", {"x": 1}, auth=auth).status().tags == ACME
    given = tenants.enqueue("kit.add", {"x": 1}, auth=auth, tags=ACME | {"plan": "pro"})
    assert given.status().tags == ACME | {"plan": "pro"}
    assert tenants.enqueue("kit.add", {"x": 1}, auth={"sub": "ada"}).status().tags == {}


@pytest.mark.parametrize(
    ("auth", "words"),
    [
        ({"sub": "ada", "org_id": "umbrella"}, "'tenant' is the claim 'org_id' of the caller"),
        ({"sub": "ada"}, "'tenant' is the claim 'org_id' of the caller"),
        (None, "'tenant' is the claim 'org_id' of the caller"),
    ],
)
def test_another_tenant_than_the_callers_is_refused(
    tenants: Fleet, auth: dict[str, str] | None, words: str
) -> None:
    with pytest.raises(InvalidArgumentsError, match=words):
        tenants.enqueue("kit.add", {"x": 1}, auth=auth, tags=ACME)
    assert tenants.runs() == []


def test_a_claim_that_cannot_be_a_tag_is_refused(tenants: Fleet) -> None:
    with pytest.raises(InvalidArgumentsError, match="'org_id', the run's tenant, must be a string"):
        tenants.enqueue("kit.add", {"x": 1}, auth={"sub": "ada", "org_id": 7})
