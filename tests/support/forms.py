"""Short and thorough forms of a test, as values of one of its parameters.

`make test` runs the short forms, `make thorough` the others: a test always has both.
"""

from collections.abc import Sequence
from typing import Any

import pytest


def forms(*, short: Sequence[Any], thorough: Sequence[Any]) -> list[Any]:
    """Return a parameter's values: those of `make test`, then those of `make thorough`."""
    if not short:
        raise ValueError("short: `make test` must keep a form of the test")
    return [*short, *(pytest.param(value, marks=pytest.mark.thorough) for value in thorough)]
