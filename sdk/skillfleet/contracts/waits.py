"""Waits and steps: what a run waits for, and what it has recorded, as its readers see it."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class WaitKind(StrEnum):
    """The input that a run waits for."""

    ASK = "ask"
    GRANT = "grant"
    MESSAGE = "message"
    TIMER = "timer"
    CALL = "call"
    LIMIT = "limit"


class WaitOutcome(StrEnum):
    """The end of a wait; decided once, in the ledger."""

    ANSWERED = "answered"
    REJECTED = "rejected"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


class AnswerKey(BaseModel):
    """A public key that a secret answer is encrypted with: its id, and X25519 in Base64."""

    model_config = ConfigDict(frozen=True)

    id: str
    public: str


class Wait(BaseModel):
    """An open wait of a run.

    `id` is what `answer` and `reject` take; `value_schema` is the JSON Schema (2020-12) of the
    answer. `answer_key` encrypts the answer, if it is secret.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    run_id: str
    kind: WaitKind
    name: str = ""
    question: str = ""
    value_schema: dict[str, Any] | None = None
    scopes: tuple[str, ...] = ()
    answer_key: AnswerKey | None = None
    opened_at: datetime
    expires_at: datetime | None = None


class EntryKind(StrEnum):
    """The kind of an entry of a run's journal."""

    STEP = "step"
    ASK = "ask"
    MESSAGE = "message"
    TIMER = "timer"
    CALL = "call"


class RecordedStep(BaseModel):
    """An entry of a run's journal, without its value. `outcome` is `succeeded` or `failed`."""

    model_config = ConfigDict(frozen=True)

    number: int
    kind: EntryKind
    name: str
    attempt: int
    started_at: datetime
    duration_seconds: float
    size_bytes: int
    outcome: str
    code: str | None = None
    message: str | None = None
    tries: int = Field(default=1, ge=1)
