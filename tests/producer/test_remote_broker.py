"""A broker that is not the ledger's Redis: a run is accepted whatever the broker says."""

import logging

import pytest

from skillfleet.contracts import RunState
from skillfleet_ledger import Settings
from skillfleet_producer import Fleet
from tests.support.valkey import ValkeyServer


@pytest.mark.parametrize("broker", ["full", "wrong password", "no right", "nothing there"])
def test_a_run_that_cannot_be_published_yet_is_left_to_the_reaper(
    valkey: ValkeyServer, server: ValkeyServer, broker: str, caplog: pytest.LogCaptureFixture
) -> None:
    with server.client() as client:
        if broker == "full":
            client.config_set("maxmemory", 1)
        client.execute_command("ACL", "SETUSER", "reads", "on", ">pw", "~*", "+@all", "-lpush")
        urls = {
            "full": server.url,
            "wrong password": f"redis://reads:wrong@127.0.0.1:{server.port}/0",
            "no right": f"redis://reads:pw@127.0.0.1:{server.port}/0",
            "nothing there": "redis://127.0.0.1:1/0",
        }
        settings = Settings.load(
            redis_url=valkey.url, broker_url=urls[broker], redis_timeout_seconds=2
        )
        with caplog.at_level(logging.WARNING), Fleet(settings=settings) as fleet:
            run = fleet.enqueue("kit.add", {"x": 1})
            assert run.status().state is RunState.QUEUED
        assert "not published yet" in caplog.text
