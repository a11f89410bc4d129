"""The port's suite for both kinds of local sandboxes."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from skillfleet.ports.sandbox import SandboxProvider
from skillfleet.testing.conformance.sandbox import SandboxSuite
from tests.adapters.sandbox.conftest import open_folder, provider_of, require


@asynccontextmanager
async def _provider(kind: str) -> AsyncIterator[SandboxProvider]:
    require(kind)
    with open_folder() as folder:
        yield provider_of(kind, folder)


class TestBubblewrap(SandboxSuite):
    def provider(self) -> AbstractAsyncContextManager[SandboxProvider]:
        return _provider("bubblewrap")


class TestLandlock(SandboxSuite):
    def provider(self) -> AbstractAsyncContextManager[SandboxProvider]:
        return _provider("landlock")
