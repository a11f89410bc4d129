"""Object stores pass the published suite: a folder, and two real S3 servers."""

import os
import uuid
from pathlib import Path

import httpx
import pytest

from skillfleet.ports.objects import ObjectStore
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.testing.conformance import ObjectStoreSuite
from skillfleet_adapters.objects import stores
from tests.support.s3 import S3Server


def store_of(url: str) -> ObjectStore:
    variables = {**os.environ, "SKILLFLEET_ARTIFACTS_URL": url}
    store = stores.create(AdapterEnvironment(variables=variables))
    assert store is not None
    return store


class TestFolder(ObjectStoreSuite):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self._url = f"file://{tmp_path}/{uuid.uuid4()}"

    def store(self) -> ObjectStore:
        return store_of(self._url)


class _S3(ObjectStoreSuite):
    def _use(self, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in server.variables().items():
            monkeypatch.setenv(name, value)
        self._url = f"{server.url}/{uuid.uuid4()}"

    def store(self) -> ObjectStore:
        return store_of(self._url)

    def fetch(self, url: str) -> bytes:
        return httpx.get(url).raise_for_status().content


@pytest.mark.xdist_group("s3")
class TestMinio(_S3):
    @pytest.fixture(autouse=True)
    def _server(self, minio: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        self._use(minio, monkeypatch)


@pytest.mark.xdist_group("s3")
class TestMoto(_S3):
    @pytest.fixture(autouse=True)
    def _server(self, moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        self._use(moto, monkeypatch)
