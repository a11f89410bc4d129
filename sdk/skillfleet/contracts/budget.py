"""The budget that a run and all runs below it share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from skillfleet.contracts.limits import MOST_SECONDS

_Count = Annotated[int, Field(gt=0, lt=2**53)]


class Budget(BaseModel):
    """Upper bounds for a tree of runs; None means no bound.

    Tokens count as far as skills record their model calls (`ctx.model_call`), input and output
    together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    calls: _Count | None = None
    """The most runs that may be called, at any depth."""
    seconds: Annotated[float, Field(gt=0, le=MOST_SECONDS)] | None = None
    """The most wall time, counted from when the run may start."""
    tokens: _Count | None = None
