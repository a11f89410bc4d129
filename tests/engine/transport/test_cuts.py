"""Connections that break at any byte."""

import asyncio
import random
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from skillfleet_engine.transport import broker_settings
from skillfleet_engine.transport.redis_socket import BROKEN
from tests.engine.transport.conftest import StartReader, StartWorker
from tests.engine.transport.readers import Reader, publish
from tests.engine.transport.test_workers import all_acknowledged, noted
from tests.support.forms import forms
from tests.support.proxy import Proxy
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until


class Cutter:
    """A proxy on an event loop in a separate thread."""

    def __init__(self, target: int, tls: ssl.SSLContext | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.proxy = Proxy(target, tls=tls)
        self._await(self.proxy.accept())

    def do(self, function: Callable[..., Any], *args: Any) -> None:
        """Call a method of the proxy on its loop."""

        async def call() -> None:
            function(*args)

        self._await(call())

    def close(self) -> None:
        self._await(self.proxy.__aexit__())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def _await(self, coro: Any) -> None:
        asyncio.run_coroutine_threadsafe(coro, self.loop).result(10)


@pytest.fixture
def cutter(server: ValkeyServer) -> Iterator[Cutter]:
    cutter = Cutter(server.port)
    try:
        yield cutter
    finally:
        cutter.close()


def drain_through_breaks(reader: Reader, wanted: set[Any]) -> None:
    """Read and acknowledge until all wanted messages came, however often the connection breaks."""
    seen: set[Any] = set()
    while seen < wanted:
        try:
            seen.update(reader.drain(1, timeout=5))
            reader.ack_all()
        except BROKEN:
            continue


def test_a_claim_whose_reply_is_cut_anywhere_comes_back_at_once(
    cutter: Cutter, server: ValkeyServer, start_reader: StartReader
) -> None:
    dice = random.Random(11)
    reader = start_reader("jobs", url=cutter.proxy.url, wakeup_timeout=1)
    for round_ in range(15):
        wanted = {round_ * 10 + number for number in range(3)}
        publish(server.url, "jobs", *wanted)
        cutter.do(cutter.proxy.cut_replies_after, dice.randint(1, 900))
        drain_through_breaks(reader, wanted)
    with server.client() as client:
        wait_until(
            lambda: (reader.channel.poll(), all_acknowledged(client))[1],
            what="all to be acknowledged",
        )
        assert client.llen("jobs") == 0


def test_requests_that_are_cut_anywhere_lose_nothing(
    cutter: Cutter, server: ValkeyServer, start_reader: StartReader
) -> None:
    dice = random.Random(12)
    reader = start_reader("jobs", url=cutter.proxy.url, wakeup_timeout=1)
    for round_ in range(15):
        wanted = {round_ * 10 + number for number in range(3)}
        publish(server.url, "jobs", *wanted)
        cutter.do(cutter.proxy.cut_requests_after, dice.randint(1, 1500))
        drain_through_breaks(reader, wanted)
    with server.client() as client:
        wait_until(
            lambda: (reader.channel.poll(), all_acknowledged(client))[1],
            what="all to be acknowledged",
        )


@pytest.mark.parametrize("pool", forms(short=["loop"], thorough=["threads"]))
def test_a_worker_whose_connections_are_cut_executes_all_and_settles_all(
    pool: str, cutter: Cutter, server: ValkeyServer, start_worker: StartWorker
) -> None:
    dice = random.Random(13)
    worker = start_worker(pool, 5, url=cutter.proxy.url)
    sender = start_worker("threads", 1, url=server.url, task_default_queue="other")
    sent = {str(number) for number in range(200)}
    for count, text in enumerate(sorted(sent)):
        sender.send("note", text, ignore_result=True)
        if count % 40 == 20:
            cutter.do(cutter.proxy.cut_replies_after, dice.randint(1, 5000))
    wait_until(lambda: noted(worker) == sent, 40, f"all to be executed\n{worker.log}")
    with server.client() as client:
        wait_until(lambda: all_acknowledged(client), what=f"all to be acknowledged\n{worker.log}")


def test_a_silent_server_is_noticed(
    cutter: Cutter, server: ValkeyServer, start_reader: StartReader
) -> None:
    options = {"health_check_interval": 1, "wakeup_timeout": 1, "socket_timeout": 1}
    reader = start_reader("jobs", url=cutter.proxy.url, **options)
    reader.drain(1, timeout=0.1)
    cutter.do(cutter.proxy.hold)

    def read_until_it_breaks() -> None:
        while True:
            reader.drain(1, timeout=0.1)

    with pytest.raises(RedisConnectionError, match="gave no reply"):
        read_until_it_breaks()
    cutter.do(cutter.proxy.release)
    cutter.do(cutter.proxy.cut)
    publish(server.url, "jobs", "again")
    drain_through_breaks(reader, {"again"})


@pytest.fixture
def encrypted(server: ValkeyServer, tmp_path: Path) -> Iterator[Cutter]:
    """Return a proxy that speaks TLS with a self-signed certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-newkey", "rsa:2048"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    cutter = Cutter(server.port, context)
    try:
        yield cutter
    finally:
        cutter.close()


def test_connections_are_encrypted_and_the_certificate_is_checked(
    encrypted: Cutter, server: ValkeyServer, start_reader: StartReader, tmp_path: Path
) -> None:
    trusted = f"?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={tmp_path / 'cert.pem'}"
    big = ["x" * 100_000 + str(number) for number in range(5)]
    publish(server.url, "jobs", *big)
    settings = broker_settings(encrypted.proxy.url + trusted)
    reader = start_reader("jobs", url=settings["broker_url"])
    assert reader.drain(5) == big
    with pytest.raises(RedisConnectionError, match="certificate"):
        start_reader("jobs", url=broker_settings(encrypted.proxy.url)["broker_url"], transport=None)
