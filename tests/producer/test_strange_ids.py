"""Ids and names that no run and no artifact can have are refused by name, in every verb."""

from collections.abc import Callable
from typing import Any

import pytest

from skillfleet.errors import UnknownArtifactError, UnknownRunError
from skillfleet_ledger import Settings
from skillfleet_producer import Fleet, RunHandle
from tests.support.valkey import ValkeyServer

IDS = ["", "\ud800", "a\x00b", "a\nb", "{x}", "*", "\u202e", "x" * 5000, "x" * 3_000_000]
VERBS: list[Callable[[RunHandle], Any]] = [
    lambda run: run.status(),
    lambda run: run.cancel(),
    lambda run: run.result(timeout=60),
    lambda run: list(run.events(timeout=60)),
    lambda run: list(run.events(after="1-0", timeout=60)),
    lambda run: run.artifacts(),
    lambda run: run.read_artifact("a"),
    lambda run: list(run.stream_artifact("a")),
]
NO_EVENTS: list[Any] = [
    *("99999999999999999999999-0", "18446744073709551616-0", "9" * 5000, "-1", "1-1", "1-", "-"),
    *("yesterday", "\u0663-0", "\ud800", "1-0\n", " 1-0", "+1", "0x1", "$", "0-0-0", "\x00"),
    *(1, 1.5, b"1-0", ["1-0"]),
]


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("run_id", IDS, ids=lambda run_id: repr(run_id)[:12])
def test_an_id_that_no_run_has_is_unknown(valkey: ValkeyServer, run_id: str, shards: int) -> None:
    with Fleet(settings=Settings.load(redis_url=valkey.url, shards=shards)) as fleet:
        run = fleet.run(run_id)
        for verb in VERBS:
            with pytest.raises(UnknownRunError) as caught:
                verb(run)
            assert str(caught.value).encode()


@pytest.mark.parametrize("after", NO_EVENTS, ids=lambda after: repr(after)[:12])
def test_an_invalid_event_id_is_refused(valkey: ValkeyServer, after: Any) -> None:
    with Fleet(valkey.producer_url) as fleet:
        run = fleet.enqueue("kit.add", {"x": 1})
        with pytest.raises(ValueError, match="not an event id") as caught:
            list(run.events(after=after))
        assert len(str(caught.value)) < 200


def test_the_last_number_of_a_stream_is_an_event_id(valkey: ValkeyServer) -> None:
    with Fleet(valkey.url) as fleet:
        run = fleet.enqueue("kit.add", {"x": 1})
        assert run.cancel("half of a pair: \ud800")
        assert run.status().message == "half of a pair: ?"
        for last in ("18446744073709551615-0", "18446744073709551615"):
            assert list(run.events(after=last)) == []


@pytest.mark.parametrize("name", ["", "\ud800", "a\x00b", "x" * 3_000_000], ids=lambda n: n[:3])
def test_a_name_that_no_artifact_has_is_unknown(valkey: ValkeyServer, name: str) -> None:
    with Fleet(valkey.producer_url) as fleet:
        run = fleet.enqueue("kit.add", {"x": 1})
        with pytest.raises(UnknownArtifactError):
            run.read_artifact(name)
