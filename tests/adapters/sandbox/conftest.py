"""Providers of local sandboxes for tests, in a folder of their own."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.sandbox import SANDBOX, SandboxProvider
from skillfleet.ports.loading import load
from skillfleet_adapters.sandbox.kinds import Bubblewrap, Interpreter, Kind, Landlock

KINDS: dict[str, type[Kind]] = {"bubblewrap": Bubblewrap, "landlock": Landlock}


def require(kind: str) -> None:
    """Skip the test where the machine lacks what a kind needs; in CI it fails."""
    problem = KINDS[kind](Interpreter.find()).problem()
    if problem is not None:
        if os.environ.get("CI") == "true":  # noqa: TID251 - CI promises that nothing is skipped
            pytest.fail(problem)
        pytest.skip(problem)


def provider_of(kind: str, folder: Path, **variables: str) -> SandboxProvider:
    """Return the provider of one kind."""
    variables |= {"SKILLFLEET_SANDBOX_DIRECTORY": str(folder)}
    provider = load(SANDBOX, kind, AdapterEnvironment(variables=variables))
    assert provider is not None
    return provider


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that the sandboxes' user can pass, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="sandboxes-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    """Return each kind that works here."""
    name: str = request.param
    require(name)
    return name
