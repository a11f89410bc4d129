"""Helpers of the tests of the adapter `archive`."""

from pathlib import Path

from skillfleet_adapters.objects.stores import CloudStore, ObjectStoreSettings

MEBIBYTE = 1024 * 1024
OLD = 1_600_000_000_123_456_789


def store_in(folder: Path) -> CloudStore:
    return CloudStore(f"file://{folder}", ObjectStoreSettings.load({}), allow_http=False)


def found(folder: Path, pattern: str = "**/*") -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def packs(store: Path) -> set[str]:
    return {path.name for path in found(store, "*/packs/*")}
