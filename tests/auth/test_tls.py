"""A fleet over TLS, on a real server with a self-signed certificate."""

from collections.abc import Iterator

import pytest

from skillfleet.errors import FleetUnavailableError
from skillfleet_producer import Fleet, Settings
from tests.support.fleet import FleetWorker
from tests.support.tls import TlsServer


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    server = TlsServer(tmp_path_factory.mktemp("tls"))
    try:
        server.start()
        yield server
    finally:
        server.close()


def test_a_worker_and_a_producer_meet_over_tls(secure: TlsServer) -> None:
    settings = Settings.load(redis_url=secure.producer_url, redis_ca_file=secure.certificate)
    with (
        FleetWorker(secure, "tests.worker.kit", redis_ca_file=secure.certificate),
        Fleet(settings=settings) as fleet,
    ):
        run = fleet.enqueue("kit.stream", {"n": 3})
        kinds = [event.kind for event in run.events(timeout=20)]
        assert kinds == ["state", *["progress"] * 3, "state"]
        assert run.result(timeout=20) == "done"
        assert fleet.enqueue("kit.parent", {"n": 2}).result(timeout=20) == 1


def test_a_certificate_of_an_unknown_authority_is_refused(secure: TlsServer) -> None:
    settings = Settings.load(redis_url=secure.producer_url, redis_timeout_seconds=1)
    with Fleet(settings=settings) as fleet, pytest.raises(FleetUnavailableError):
        fleet.enqueue("kit.add", {"x": 1})
