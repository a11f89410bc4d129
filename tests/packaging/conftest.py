"""The wheel, built once for all tests of this folder."""

from pathlib import Path

import pytest

from tests.packaging.environments import build_wheel


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give this folder's tests one mark and one xdist group, so that they share a process."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.packaging)
            item.add_marker(pytest.mark.xdist_group("packaging"))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from this checkout."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))
