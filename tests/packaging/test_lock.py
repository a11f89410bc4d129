"""The lock: complete, hashed, and free of any place to fetch from."""

import re
import tomllib
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packaging.environments import PROJECT

pytestmark = pytest.mark.packaging

LOCK = (PROJECT / "requirements.lock").read_text()
PINS = {
    canonicalize_name(name): version for name, version in re.findall(r"(?m)^([\w.-]+)==(\S+)", LOCK)
}


def declared() -> Iterator[str]:
    """Every requirement that pyproject.toml states, but those on ourselves."""
    pyproject = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    yield from pyproject["build-system"]["requires"]
    yield from pyproject["project"]["dependencies"]
    for group in pyproject["project"]["optional-dependencies"].values():
        yield from (text for text in group if not text.startswith("skillfleet["))
    for group in pyproject["dependency-groups"].values():
        yield from group


@pytest.mark.parametrize("text", sorted(set(declared())))
def test_the_lock_satisfies_what_pyproject_declares(text: str) -> None:
    requirement = Requirement(text)
    pinned = PINS.get(canonicalize_name(requirement.name))
    assert pinned is not None, "run `make lock`"
    assert requirement.specifier.contains(pinned, prereleases=True), "run `make lock`"


def test_every_entry_of_the_lock_has_a_hash() -> None:
    entries = re.split(r"(?m)^(?=\S)", LOCK)
    assert [entry for entry in entries if entry and "--hash=sha256:" not in entry] == []


def test_the_lock_names_no_index_and_no_place_on_a_machine() -> None:
    assert re.findall(r"://|--(?:extra-)?index|--find-links|file:|@ |(?m:^-e )", LOCK) == []
