"""A folder, and the adapter `archive` with a store in another folder."""

from pathlib import Path

import pytest

from skillfleet_adapters.checkpoint.archive import ArchiveClient
from tests.adapters.checkpoint.helpers import store_in


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def client(store: Path) -> ArchiveClient:
    return ArchiveClient(store_in(store))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_text("first")
    (folder / "sub" / "b").write_text("second")
    return folder
