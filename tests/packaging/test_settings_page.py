"""docs/settings.md: complete, generated from the settings classes, and named correctly by pages."""

import inspect
import re
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from deploy import settings_page
from deploy.settings_page import ROOT, rows, settings_classes
from skillfleet_ledger import Settings
from skillfleet_telemetry.settings import TelemetrySettings
from skillfleet_worker import WorkerSettings

NOT_SETTINGS = {"SKILLFLEET_SECRET", "SKILLFLEET_EGRESS_SOCKET"}
"""What pages name that is not a setting: the prefix of secrets, a variable in sandboxes."""


def variables() -> set[str]:
    return {row.variable for settings in settings_classes() for row in rows(settings)}


def test_all_settings_classes_are_found() -> None:
    found = settings_classes()
    assert {Settings, WorkerSettings, TelemetrySettings} <= set(found)
    loaded, level = set[type[BaseSettings]](), [BaseSettings]
    while level:
        level = [child for parent in level for child in parent.__subclasses__()]
        loaded |= set(level)
    ours = {
        each
        for each in loaded
        if each.__module__.startswith("skillfleet")
        and Path(inspect.getfile(each)).is_relative_to(ROOT)
    }
    assert ours <= set(found)


def test_a_class_in_any_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "rooms" / "skillfleet_rooms_of_a_test"
    package.mkdir(parents=True)
    (package / "py.typed").touch()
    (package / "keys.py").write_text(
        "from pydantic_settings import BaseSettings, SettingsConfigDict\n"
        "class Common(BaseSettings):\n"
        "    model_config = SettingsConfigDict(env_prefix='SKILLFLEET_ROOMS_')\n"
        "class Settings(Common):\n"
        '    size: int = 3\n    """Size of a room."""\n'
    )
    monkeypatch.syspath_prepend(str(package.parent))
    (row,) = [row for settings in settings_classes(tmp_path) for row in rows(settings)]
    assert (row.variable, row.default, row.text) == (
        "SKILLFLEET_ROOMS_SIZE",
        "`3`",
        "Size of a room.",
    )


def test_a_field_without_a_docstring_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_page, "field_docstrings", lambda _: {})
    with pytest.raises(ValueError, match="redis_url has no docstring"):
        rows(Settings)


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "helm" / "README.md"],
    ids=lambda page: page.name,
)
def test_pages_name_only_settings_that_exist(page: Path) -> None:
    named = set(re.findall(r"\b(SKILLFLEET_[A-Z0-9_]*[A-Z0-9])\b(?!_)", page.read_text("utf-8")))
    known = variables()
    unknown = {
        name
        for name in named - known - NOT_SETTINGS
        if not name.startswith(("SKILLFLEET_SECRET_", "SKILLFLEET_TEST"))
    }
    assert not unknown
