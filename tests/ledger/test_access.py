"""Access by password, ACL user, database, unix socket and TLS, on all kinds of connections."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection as KombuConnection

from skillfleet.contracts import RunState
from skillfleet.errors import FleetUnavailableError
from skillfleet_ledger import Ledger, Settings
from skillfleet_ledger.sync import BlockingLedger, run_sync
from tests.ledger.helpers import DONE, event, read_all, running
from tests.support.proxy import Proxy
from tests.support.valkey import ValkeyServer


async def use_every_connection(settings: Settings) -> None:
    """Play a run's life over the pipelining, bulk, blocking and pub/sub connections."""
    ledger = Ledger(settings)
    try:
        lease = await running(ledger)
        await ledger.pubsub.listen("a", lambda _: None)
        assert await ledger.artifacts.list(lease.run_id) == []
        await ledger.leases.settle(lease, "librarian.survey", lease.seq, DONE)
        assert len(await read_all(ledger, lease.run_id)) == 2
        await asyncio.to_thread(reach_from_a_thread, settings, lease.run_id)
    finally:
        await ledger.close()


def reach_from_a_thread(settings: Settings, run_id: str) -> None:
    ledger = BlockingLedger(settings)
    assert run_sync(ledger.queries.state(run_id))[0] is RunState.SUCCEEDED
    run_sync(ledger.close())


def reach_through_kombu(url: str) -> None:
    with KombuConnection(url) as broker:
        channel: Any = broker.default_channel
        channel.client.ping()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[ValkeyServer]:
    """Yield a server with a unix socket on which only the user `fleet` has rights."""
    server = ValkeyServer("--unixsocket", str(tmp_path / "s"))
    try:
        server.start()
        with server.client() as client:
            rules = ("on", ">p@ss/word", "~*", "&*", "+@all")
            client.execute_command("ACL", "SETUSER", "fleet", *rules)
            client.execute_command("ACL", "SETUSER", "default", "off")
        yield server
    finally:
        server.close()


async def test_an_acl_user_gets_in_with_its_password(guarded: ValkeyServer) -> None:
    settings = Settings.load(
        redis_url=guarded.url, redis_username="fleet", redis_password="p@ss/word"
    )
    await use_every_connection(settings)
    in_url = guarded.url.replace("//", "//fleet:p%40ss%2Fword@")
    await use_every_connection(Settings.load(redis_url=in_url))


async def test_a_wrong_password_is_a_clear_error(guarded: ValkeyServer) -> None:
    ledger = Ledger(
        Settings.load(
            redis_url=guarded.url,
            redis_username="fleet",
            redis_password="hunter2",
            redis_timeout_seconds=5,
        )
    )
    try:
        with pytest.raises(FleetUnavailableError, match="WRONGPASS") as caught:
            await ledger.queries.status("r")
        assert "hunter2" not in str(caught.value)
    finally:
        await ledger.close()


async def test_a_unix_socket_works_with_and_without_password(
    guarded: ValkeyServer, tmp_path: Path
) -> None:
    url = f"unix://{tmp_path / 's'}"
    secret = {"redis_username": "fleet", "redis_password": "p@ss/word"}
    settings = Settings.load(redis_url=f"{url}?db=2", **secret)
    await use_every_connection(settings)
    reach_through_kombu(settings.celery_broker_url)
    ledger = Ledger(settings)
    try:
        await ledger.connection.execute("ACL", "SETUSER", "default", "on", "nopass", "~*", "+@all")
    finally:
        await ledger.close()
    settings = Settings.load(redis_url=url)
    await use_every_connection(settings)
    reach_through_kombu(settings.celery_broker_url)


async def test_a_connection_may_be_called_anything(valkey: ValkeyServer) -> None:
    ledger = Ledger(Settings.load(redis_url=valkey.url), name="a worker\nof Zoë")
    try:
        lease = await running(ledger)
        await ledger.pubsub.listen("a", lambda _: None)
        await ledger.streams.append(lease, lease.seq + 1, [event("x")])
        await ledger.leases.settle(lease, "librarian.survey", lease.seq + 1, DONE)
        assert len(await read_all(ledger, lease.run_id)) == 3
        with valkey.client() as client:
            names = {one["name"] for one in client.client_list()}
        assert {"a-worker-of-Zo-", "a-worker-of-Zo--blocking", "a-worker-of-Zo--pubsub"} <= names
    finally:
        await ledger.close()


async def test_a_database_of_its_own_is_used_by_all_connections(valkey: ValkeyServer) -> None:
    await use_every_connection(Settings.load(redis_url=valkey.url.replace("/0", "/5")))
    with valkey.client() as client:
        assert client.info("keyspace").keys() == {"db5"}


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `key.pem` and the self-signed `cert.pem` of 127.0.0.1."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )
    return folder


def serving(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    return context


async def test_tls_with_a_private_authority(valkey: ValkeyServer, certificate: Path) -> None:
    async with Proxy(valkey.port, tls=serving(certificate)) as proxy:
        settings = Settings.load(redis_url=proxy.url, redis_ca_file=certificate / "cert.pem")
        await use_every_connection(settings)
        # kombu's client blocks, and the proxy runs on this loop.
        await asyncio.to_thread(reach_through_kombu, settings.celery_broker_url)


async def test_tls_refuses_an_unknown_authority_and_says_so(
    valkey: ValkeyServer, certificate: Path
) -> None:
    async with Proxy(valkey.port, tls=serving(certificate)) as proxy:
        ledger = Ledger(Settings.load(redis_url=proxy.url, redis_timeout_seconds=2))
        try:
            with pytest.raises(FleetUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
                await ledger.queries.status("r")
        finally:
            await ledger.close()


async def test_tls_checks_the_hosts_name(valkey: ValkeyServer, certificate: Path) -> None:
    async with Proxy(valkey.port, tls=serving(certificate)) as proxy:
        url = proxy.url.replace("127.0.0.1", "localhost")
        authority = certificate / "cert.pem"
        ledger = Ledger(
            Settings.load(redis_url=url, redis_ca_file=authority, redis_timeout_seconds=2)
        )
        try:
            with pytest.raises(FleetUnavailableError, match="Hostname mismatch"):
                await ledger.queries.status("r")
        finally:
            await ledger.close()
        unchecked = f"{url}?ssl_check_hostname=false"
        await use_every_connection(Settings.load(redis_url=unchecked, redis_ca_file=authority))
        await use_every_connection(Settings.load(redis_url=f"{url}?ssl_cert_reqs=none"))


async def test_a_missing_authority_file_is_a_clear_error(tmp_path: Path) -> None:
    ledger = Ledger(
        Settings.load(
            redis_url="rediss://127.0.0.1:1/0",
            redis_ca_file=tmp_path / "missing.pem",
            redis_timeout_seconds=5,
        )
    )
    try:
        with pytest.raises(FleetUnavailableError, match="No such file"):
            await ledger.queries.status("r")
    finally:
        await ledger.close()
