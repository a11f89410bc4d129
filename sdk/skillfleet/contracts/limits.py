"""Size limits of everything that crosses the wire."""

from typing import Final

from pydantic import BaseModel, ConfigDict, PositiveInt

KIB: Final = 1024
MIB: Final = 1024 * KIB
MOST_SECONDS: Final = 10 * 365 * 86_400
"""The longest time that a run may wait or take, so that its deadline remains a valid date."""


class Limits(BaseModel):
    """Upper bounds in bytes; arguments, results and events' payloads count as JSON."""

    model_config = ConfigDict(frozen=True)

    arguments_bytes: PositiveInt = 256 * KIB
    result_bytes: PositiveInt = MIB
    event_bytes: PositiveInt = 64 * KIB
    artifact_bytes: PositiveInt = 64 * MIB
