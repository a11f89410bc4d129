"""The storages of workspaces pass the port's suite."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from skillfleet.errors import SettingsError
from skillfleet.ports.loading import load
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.workspace import WORKSPACE, WorkspaceProvider
from skillfleet.testing.conformance import WorkspaceSuite
from skillfleet.workspaces.memory import MemoryWorkspaces
from tests.adapters.workspace.object_stores import object_store_workspaces
from tests.support.forms import forms
from tests.support.s3 import S3Server
from tests.support.valkey import ValkeyServer


@asynccontextmanager
async def yielded(provider: WorkspaceProvider) -> AsyncIterator[WorkspaceProvider]:
    yield provider


class TestMemory(WorkspaceSuite):
    def provider(self) -> AbstractAsyncContextManager[WorkspaceProvider]:
        return yielded(MemoryWorkspaces())


class TestDirectory(WorkspaceSuite):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self._folder = tmp_path

    def provider(self) -> AbstractAsyncContextManager[WorkspaceProvider]:
        variables = {"SKILLFLEET_WORKSPACE_DIRECTORY": str(self._folder)}
        provider = load(WORKSPACE, "directory", AdapterEnvironment(variables=variables))
        assert provider is not None
        return yielded(provider)


class TestObjectStore(WorkspaceSuite):
    @pytest.fixture(autouse=True, params=forms(short=["folder"], thorough=["s3"]))
    def server(
        self,
        request: pytest.FixtureRequest,
        valkey: ValkeyServer,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self._server, self._url = valkey, f"file://{tmp_path}/objects"
        if request.param == "s3":
            moto: S3Server = request.getfixturevalue("moto")
            self._url = f"{moto.url}/{uuid.uuid4()}"
            for name, value in moto.variables().items():
                monkeypatch.setenv(name, value)

    def provider(self) -> AbstractAsyncContextManager[WorkspaceProvider]:
        return object_store_workspaces(self._server, self._url)


@pytest.mark.parametrize("variables", [{}, {"SKILLFLEET_WORKSPACE_DIRECTORY": "relative"}])
def test_the_directory_must_be_absolute(variables: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="SKILLFLEET_WORKSPACE_DIRECTORY"):
        load(WORKSPACE, "directory", AdapterEnvironment(variables=variables))
