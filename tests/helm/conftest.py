"""Each value set, rendered once a test process."""

from functools import cache

import pytest

from tests.helm.rendering import Manifest, render
from tests.helm.value_sets import VALUE_SETS


@cache
def _rendered(name: str) -> list[Manifest]:
    return render(VALUE_SETS[name])


@pytest.fixture(params=VALUE_SETS)
def fleet(request: pytest.FixtureRequest) -> list[Manifest]:
    """The objects of a release, one value set after the other. Not to be changed."""
    return _rendered(request.param)
