"""The wheel, built once for the tests of this folder: they share one process."""

from pathlib import Path

import pytest

from tests.packaging.environments import build_wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from this checkout."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))
