"""The message header that travels from producer to worker besides Celery's own headers."""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

HEADER: Final = "skillfleet"
"""The Celery message header that carries an `InvocationHeader` as a JSON object."""


class Fork(BaseModel):
    """The beginning of a forked run: entries that another run has recorded.

    `before` is the number of the first entry that the run does not begin with; None: it begins
    with all that did not fail.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    before: int | None = None


class InvocationHeader(BaseModel):
    """The part of an invocation that Celery has no header for.

    A message without this header comes from a plain Celery client; the worker then
    assumes the defaults. Unknown fields are ignored, so that an older worker reads a
    newer producer's messages.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int = 1
    deadline_ms: int | None = None
    """The deadline of the run, in milliseconds since the epoch by Redis time."""
    auth: dict[str, Any] | None = None
    """Claims of the caller from which the agent's `auth_model` is built."""
    budget_end_ms: int | None = None
    """The end of the tree's budget of wall time, in the form of `deadline_ms`."""
    allowance_ms: int | None = None
    """The executing time that the run may use, in milliseconds: what its calling run has left."""
    session: str | None = None
    """The session that the run belongs to."""
    depth: int = 0
    """The number of runs above this one in its tree; 0 for a root."""
    fork: Fork | None = None
    """The run that this one forks."""
    grant: str | None = Field(default=None, repr=False)
    """The token of the grant that the calling run hands over; it proves itself."""
