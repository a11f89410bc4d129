"""The contents of the wheel."""

import zipfile
from pathlib import Path

import pytest

from tests.packaging.environments import PROJECT

pytestmark = [pytest.mark.packaging, pytest.mark.xdist_group("packaging")]

PACKAGES = {
    "adapters": "skillfleet_adapters",
    "auth": "skillfleet_auth",
    "cli": "skillfleet_cli",
    "engine": "skillfleet_engine",
    "ledger": "skillfleet_ledger",
    "producer": "skillfleet_producer",
    "sdk": "skillfleet",
    "telemetry": "skillfleet_telemetry",
    "worker": "skillfleet_worker",
}


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    """The files of the wheel, its metadata aside."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_the_packages_and_nothing_else(names: set[str]) -> None:
    assert {Path(name).parts[0] for name in names} == set(PACKAGES.values())


def test_every_source_file_travels_in_the_wheel(names: set[str]) -> None:
    expected = {
        path.relative_to(PROJECT / folder).as_posix()
        for folder, package in PACKAGES.items()
        for path in (PROJECT / folder / package).rglob("*")
        if path.is_file() and path.suffix in {".py", ".lua", ".typed"}
    }
    assert expected - names == set()
    assert any(name.endswith(".lua") for name in names)


def test_every_package_is_marked_as_typed(names: set[str]) -> None:
    assert {f"{package}/py.typed" for package in PACKAGES.values()} <= names


def test_the_wheel_carries_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (licence,) = (name for name in archive.namelist() if name.endswith("/LICENSE"))
        assert "Apache License" in archive.read(licence).decode()


def test_no_module_is_directly_in_a_top_level_folder() -> None:
    # In an editable install each folder is on sys.path: such a file would be a global module.
    assert [path for folder in PACKAGES for path in (PROJECT / folder).glob("*.py")] == []
