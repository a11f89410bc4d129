"""What a run and all the runs below it may use up together."""

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt


class Budget(BaseModel):
    """Upper bounds for a tree of runs; None leaves one open.

    Tokens count as far as skills record their model calls (`ctx.model_call`), input and output
    together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    calls: PositiveInt | None = None
    """How many runs may be called, at any depth."""
    seconds: PositiveFloat | None = None
    """Wall time from when the run may start."""
    tokens: PositiveInt | None = None
