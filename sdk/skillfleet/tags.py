"""Tags: short keys and values on a run, by which runs are found."""

import re
from collections.abc import Mapping
from typing import Any, Final

from skillfleet.errors import InvalidArgumentsError
from skillfleet.texts import plain_text

MOST_TAGS: Final = 16
MOST_KEY_CHARS: Final = 64
MOST_VALUE_CHARS: Final = 128
TENANT: Final = "tenant"
"""The tag that a verified claim decides about (`SKILLFLEET_TENANT_CLAIM`)."""

_KEY = re.compile(rf"[A-Za-z][A-Za-z0-9_.-]{{0,{MOST_KEY_CHARS - 1}}}")


def check_tags(tags: Mapping[str, str] | None) -> dict[str, str]:
    """Return tags that a run may have; raises InvalidArgumentsError, which names the key."""
    if not tags:
        return {}
    if not isinstance(tags, Mapping):
        raise InvalidArgumentsError(f"tags must be strings by name, not {type(tags).__name__}")
    if len(tags) > MOST_TAGS:
        raise InvalidArgumentsError(f"tags: at most {MOST_TAGS} are allowed, not {len(tags)}")
    for key, value in tags.items():
        if not isinstance(key, str) or _KEY.fullmatch(key) is None:
            raise InvalidArgumentsError(
                f"tags: the key {plain_text(repr(key))[:80]} must have 1 to {MOST_KEY_CHARS}"
                " letters, digits, '_', '.' and '-', and begin with a letter"
            )
        if (problem := value_problem(value)) is not None:
            raise InvalidArgumentsError(f"tags: the value of {key!r} {problem}")
    return dict(tags)


def value_problem(value: Any) -> str | None:
    """Return why a tag cannot have this value; None when it can."""
    if not isinstance(value, str):
        return f"must be a string, not {type(value).__name__}"
    if not 1 <= len(value) <= MOST_VALUE_CHARS:
        return f"must have 1 to {MOST_VALUE_CHARS} characters, not {len(value)}"
    return None if value.isprintable() else "holds characters that are not printable"
