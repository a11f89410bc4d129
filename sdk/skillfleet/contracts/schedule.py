"""Schedules: skills that the fleet enqueues by itself at certain times."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

MOST_CATCH_UP: Final = 100
"""The most missed runs that a schedule may make up for."""


class Overlap(StrEnum):
    """The treatment of a run that is due while the last one of its schedule has not ended."""

    SKIP = "skip"
    """It is left out."""
    QUEUE = "queue"
    """It is enqueued when the last one has ended."""
    ALLOW = "allow"
    """It is enqueued all the same."""


class Schedule(BaseModel):
    """A schedule as it is stored. Times are UTC; either `cron` or `every` is set."""

    model_config = ConfigDict(frozen=True)

    name: str
    skill: str
    """`<agent>.<skill>`."""
    args: dict[str, Any] = Field(default_factory=dict)
    cron: str | None = None
    every: float | None = None
    """Seconds between two runs."""
    timezone: str = "UTC"
    overlap: Overlap = Overlap.SKIP
    catch_up: int = 0
    queue: str = ""
    """The queue of the last run, or that in which the first one is expected."""
    tags: dict[str, str] = Field(default_factory=dict)
    session: str | None = None
    paused: bool = False
    created_at: datetime
    next_at: datetime | None = None
    """When the next run is due; None while the schedule is paused, or where none is to come."""
    last_at: datetime | None = None
    """When the last run was due."""
    last_run: str | None = None
    """The id of the last run."""
    waiting: int = 0
    """How many runs that were due wait for the end of the last one."""
    problem: str | None = None
    """Why the last run that was due could not be enqueued."""
