"""Whether a fleet is well: findings about Redis and about the runs, each with what to do."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    """Worth a look; a new worker may well be the cure, so it must not keep one from starting."""
    PROBLEM = "problem"
    """The fleet cannot keep its promises like this."""


@dataclass(frozen=True)
class Finding:
    """What one check found, in a line, and what to do about it unless it is OK."""

    check: str
    level: Level
    text: str
    advice: str = ""
