"""Artifacts in a real S3 server that fails, refuses or is away."""

import asyncio
import hashlib
import uuid
from typing import Any

import httpx
import pytest

from skillfleet.errors import CapabilityUnavailableError, ObjectStoreError
from skillfleet_ledger import Ledger
from skillfleet_ledger.settings import MEBIBYTE
from tests.ledger.helpers import content, pieces, running, settings_for
from tests.support.proxy import Proxy
from tests.support.s3 import S3Server
from tests.support.valkey import ValkeyServer

TEXT = "text/plain"
LARGE = bytes(range(256)) * 1024


@pytest.mark.xdist_group("s3")
class TestFaults:
    """A real S3 server behind a proxy that fails."""

    @pytest.fixture(autouse=True)
    def _variables(self, minio: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        self._minio = minio
        self._set = monkeypatch.setenv
        self._point(minio.endpoint)
        self._set("SKILLFLEET_ARTIFACTS_RETRY_SECONDS", "20")

    def _point(self, endpoint: str) -> None:
        for name, value in self._minio.variables(endpoint).items():
            self._set(name, value)

    def _ledger(self, valkey: ValkeyServer, **values: Any) -> Ledger:
        url = f"{self._minio.url}/{uuid.uuid4()}"
        return Ledger(settings_for(valkey, **({"artifacts_url": url} | values)))

    async def test_a_large_artifact_and_its_url(self, valkey: ValkeyServer) -> None:
        ledger = self._ledger(valkey)
        try:
            lease = await running(ledger)
            await ledger.artifacts.write(lease, "a", pieces(*[LARGE] * 256), TEXT)
            digest, size = hashlib.sha256(), 0
            async for piece in ledger.artifacts.read(lease.run_id, "a"):
                digest.update(piece)
                size += len(piece)
            assert (size, digest.digest()) == (64 * MEBIBYTE, hashlib.sha256(LARGE * 256).digest())
            url = await ledger.artifacts.url(lease.run_id, "a", 60)
            async with httpx.AsyncClient() as client:
                answer = await client.get(url)
            assert answer.raise_for_status().content[: len(LARGE)] == LARGE
            await ledger.artifacts.write(lease, "small", pieces(b"x"), TEXT)
            with pytest.raises(CapabilityUnavailableError, match="lies in Redis"):
                await ledger.artifacts.url(lease.run_id, "small", 60)
        finally:
            await ledger.close()

    async def test_connections_that_break_are_made_again(self, valkey: ValkeyServer) -> None:
        async with Proxy(self._minio.port) as proxy:
            self._point(f"http://127.0.0.1:{proxy.port}")
            ledger = self._ledger(valkey)
            try:
                lease = await running(ledger)
                proxy.cut_requests_after(3 * MEBIBYTE)
                await ledger.artifacts.write(lease, "a", pieces(*[LARGE] * 64), TEXT)
                proxy.cut_replies_after(3 * MEBIBYTE)
                assert await content(ledger, lease.run_id) == LARGE * 64
            finally:
                await ledger.close()

    async def test_a_server_that_refuses_is_named(self, valkey: ValkeyServer) -> None:
        self._set("AWS_SECRET_ACCESS_KEY", "wrong")
        ledger = self._ledger(valkey)
        try:
            lease = await running(ledger)
            with pytest.raises(ObjectStoreError, match="credentials") as caught:
                await ledger.artifacts.write(lease, "a", pieces(LARGE), TEXT)
            assert not caught.value.retryable
            assert await ledger.artifacts.list(lease.run_id) == []
        finally:
            await ledger.close()

    async def test_a_server_that_is_away_is_an_error_in_bounded_time(
        self, valkey: ValkeyServer
    ) -> None:
        self._set("SKILLFLEET_ARTIFACTS_RETRY_SECONDS", "1")
        self._point("http://127.0.0.1:9")
        ledger = self._ledger(valkey)
        try:
            lease = await running(ledger)
            async with asyncio.timeout(20):
                with pytest.raises(ObjectStoreError) as caught:
                    await ledger.artifacts.write(lease, "a", pieces(LARGE), TEXT)
            assert caught.value.retryable
            # Small ones need no object store.
            await ledger.artifacts.write(lease, "small", pieces(b"x"), TEXT)
        finally:
            await ledger.close()
