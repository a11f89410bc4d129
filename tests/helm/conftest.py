"""Each value set, rendered once a test process."""

import importlib.util
import os
from functools import cache
from typing import Any

import pytest

from tests.helm.value_sets import VALUE_SETS

# The Helm engine has no wheel for some machines: there, and never in CI, these tests are left out.
if importlib.util.find_spec("helm_python") is None and os.environ.get("CI") != "true":
    collect_ignore_glob = ["test_*.py"]


@cache
def _rendered(name: str) -> list[dict[str, Any]]:
    from tests.helm.rendering import render

    return render(VALUE_SETS[name])


@pytest.fixture(params=VALUE_SETS)
def fleet(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """The objects of a release, one value set after the other. Not to be changed."""
    return _rendered(request.param)
