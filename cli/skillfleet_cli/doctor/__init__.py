"""Health checks of a fleet: findings about Redis and about the runs, each with advice."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """Severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    """Needs attention; must not prevent a worker from starting, as that may be the remedy."""
    PROBLEM = "problem"
    """The fleet cannot keep its promises."""


@dataclass(frozen=True)
class Finding:
    """Result of one check in a line, and advice unless it is OK."""

    check: str
    level: Level
    text: str
    advice: str = ""
