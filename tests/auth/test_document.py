"""docs/security.md: every attack in its table has a test that exists."""

import re

from deploy.settings_page import settings_classes
from tests.support.fleet import ROOT

TEXT = (ROOT / "docs" / "security.md").read_text()
TESTS = re.findall(r"`(test_\w+\.py)::(test_\w+)`", TEXT)


def test_every_row_of_the_attacks_names_a_test_that_exists() -> None:
    rows = [line for line in TEXT.splitlines() if "::test_" in line or "| the same |" in line]
    assert len(TESTS) >= 25
    assert len(rows) >= 30
    missing = [
        f"{file}::{name}"
        for file, name in TESTS
        if not any(f"def {name}(" in path.read_text() for path in (ROOT / "tests").rglob(file))
    ]
    assert missing == []


def test_every_setting_that_the_page_names_exists() -> None:
    named = {name.lower() for name in re.findall(r"SKILLFLEET_([A-Z0-9_]+)", TEXT)}
    known = {name for settings in settings_classes() for name in settings.model_fields}
    assert {name for name in named - known if not name.startswith("secret_")} == set()
