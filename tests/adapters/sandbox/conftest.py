"""Providers of local sandboxes for tests, in a folder of their own."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from skillfleet.errors import SandboxUnavailable
from skillfleet.ports.loading import load
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.sandbox import SANDBOX
from skillfleet_adapters.sandbox.provider import LocalSandboxProvider
from tests.adapters.sandbox.processes import own_number
from tests.support.waiting import wait_until_async

KINDS = ("bubblewrap", "landlock")


@cache
def problem_of(kind: str) -> str | None:
    """Return why a kind does not work on this machine, after a trial."""
    with open_folder() as folder, ThreadPoolExecutor(1) as thread:
        try:
            # The caller may have a running loop.
            thread.submit(asyncio.run, provider_of(kind, folder).kind()).result()
        except SandboxUnavailable as error:
            return str(error)
    return None


def require(kind: str) -> None:
    """Skip the test where a kind does not work; in CI, which has what it needs, it fails."""
    problem = problem_of(kind)
    if problem is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(problem, pytrace=False)
        pytest.skip(problem)


def provider_of(kind: str, folder: Path, **variables: str) -> LocalSandboxProvider:
    """Return the provider of one kind, without warm sandboxes unless a variable asks for them."""
    variables = {"SKILLFLEET_SANDBOX_WARM": "0"} | variables
    variables |= {"SKILLFLEET_SANDBOX_DIRECTORY": str(folder)}
    provider = load(SANDBOX, kind, AdapterEnvironment(variables=variables))
    assert isinstance(provider, LocalSandboxProvider)
    return provider


async def until_warm(provider: LocalSandboxProvider) -> None:
    """Wait until no attempt has a sandbox of the provider, and the warm ones are ready."""

    async def is_idle() -> bool:
        return provider.is_idle

    await wait_until_async(is_idle, what="the warm sandboxes")


@contextmanager
def open_folder() -> Iterator[Path]:
    """Yield a folder that the sandboxes' user can pass, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="sandboxes-"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that the sandboxes' user can pass."""
    with open_folder() as path:
        yield path


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Return each kind that works here."""
    name: str = request.param
    require(name)
    return name


@pytest.fixture
def number() -> Iterator[int]:
    """Return an argument of `sleep` that no other test has."""
    with own_number() as number:
        yield number
