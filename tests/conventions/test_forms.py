"""Short and thorough forms of tests: each test has a short one, and CI runs both."""

import re

import pytest

from tests.conventions.files import text_of, tracked
from tests.support.forms import forms

MARK = re.compile(r"mark\.thorough\b")


def test_a_test_gets_its_thorough_form_together_with_a_short_one() -> None:
    marking = [path for path in tracked() if path.endswith(".py") and MARK.search(text_of(path))]
    assert marking == ["tests/support/forms.py"]
    short, thorough = forms(short=[1], thorough=[2])
    assert short == 1
    assert (thorough.values, [mark.name for mark in thorough.marks]) == ((2,), ["thorough"])
    with pytest.raises(ValueError, match="must keep a form"):
        forms(short=[], thorough=[2])


def test_thorough_forms_run_in_ci_and_not_with_the_suite(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.getini("addopts")[-2:] == ["-m", "not thorough"]
    assert re.search(r"^timeout \d+ make thorough \|\| status=1$", text_of(".ci/run"), re.MULTILINE)
