"""Session: the client through which a skill keeps the state of the conversation it belongs to."""

from abc import ABC, abstractmethod
from contextvars import ContextVar
from typing import Any, Final

import orjson

from skillfleet.errors import InvalidSessionStateError
from skillfleet.jsonable import NotJsonError, to_json

MOST_STATE_BYTES: Final = 1024 * 1024
"""The largest state of a session, as JSON."""

own_session: ContextVar[str | None] = ContextVar("own_session", default=None)
"""The session, as the ledger names it, of the run whose handler executes here."""


class Session(ABC):
    """The session of one run, which no other run of it executes beside.

    Concurrency: all methods belong to the event loop that runs the skill.
    """

    @property
    @abstractmethod
    def id(self) -> str:
        """The id that the run was enqueued with."""

    async def load(self, default: Any = None) -> Any:
        """Return the saved state, as plain JSON values; `default` while nothing is saved.

        What this attempt has saved itself counts.
        """
        saved = await self._load()
        return default if saved is None else orjson.loads(saved)

    async def save(self, value: Any, *, always: bool = False) -> None:
        """Save the state for the session's next run, in place of the former one.

        It is written together with the run's success; with `always`, with any end: failed,
        cancelled or timed out, too. A run that is retried saves again. The value must be writable
        as JSON, take at most 1 MiB, and hold no secret of the run; raises
        `InvalidSessionStateError`.
        """
        try:
            json = to_json(value)
        except NotJsonError as error:
            where = f"{error.where}: " if error.where else ""
            raise InvalidSessionStateError(f"the state is not JSON: {where}{error}") from None
        if len(json.encoded) > MOST_STATE_BYTES:
            raise InvalidSessionStateError(
                f"the state has {len(json.encoded)} bytes, the limit is {MOST_STATE_BYTES}: keep"
                " large data in artifacts or your own storage, and their names in the state"
            )
        if self._holds_secret(json.plain):
            raise InvalidSessionStateError("the state contains the value of a secret: it is stored")
        self._save(json.encoded, always=always)

    @abstractmethod
    async def _load(self) -> bytes | None:
        """Return the JSON of the state; None while nothing is saved."""

    @abstractmethod
    def _save(self, state: bytes, *, always: bool) -> None:
        """Keep the JSON of the state until the run ends."""

    @abstractmethod
    def _holds_secret(self, value: Any) -> bool:
        """Return whether a value of plain JSON contains one of the run's secrets."""


class SavedState:
    """The states that an attempt has saved: one for a success, and one for any other end."""

    def __init__(self) -> None:
        self.on_success: bytes | None = None
        self.on_any_end: bytes | None = None

    def save(self, state: bytes, *, always: bool) -> None:
        """Take a state, which replaces the former ones."""
        self.on_success = state
        if always:
            self.on_any_end = state
