"""The port's suite for both kinds of local sandboxes."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from skillfleet.ports.sandbox import SandboxProvider
from skillfleet.testing.conformance.sandbox import SandboxSuite
from tests.adapters.sandbox.conftest import provider_of, require


@asynccontextmanager
async def _provider(kind: str) -> AsyncIterator[SandboxProvider]:
    require(kind)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)  # noqa: ASYNC240 - a local folder
        yield provider_of(kind, Path(folder))


class TestBubblewrap(SandboxSuite):
    def provider(self) -> AbstractAsyncContextManager[SandboxProvider]:
        return _provider("bubblewrap")


class TestLandlock(SandboxSuite):
    def provider(self) -> AbstractAsyncContextManager[SandboxProvider]:
        return _provider("landlock")
