"""The session of an attempt: its state in the ledger, written together with the run's end."""

from typing import Any

from skillfleet.ports.session import Session
from skillfleet.redaction import Redactor
from skillfleet_engine.loop import bridge
from skillfleet_ledger import Ledger
from skillfleet_ledger.retrying import retry_until
from skillfleet_ledger.runs.sessions import session_name
from skillfleet_worker.attempts.attempt import Attempt


class FleetSession(Session):
    """The session of the run of one attempt, for its handler.

    `redactor` finds the run's secrets; `patience` are the seconds that a read waits for Redis.
    """

    def __init__(
        self, attempt: Attempt, ledger: Ledger, redactor: Redactor, patience: float
    ) -> None:
        self._attempt = attempt
        self._ledger = ledger
        self._redactor = redactor
        self._patience = patience

    @property
    def id(self) -> str:
        """The id that the run was enqueued with."""
        header = self._attempt.delivery.header
        return (header.session if header else None) or ""

    async def _load(self) -> bytes | None:
        saved = self._attempt.saved_state.on_success
        if saved is not None:
            return saved
        name = session_of(self._attempt, self._ledger) or ""
        return await bridge.at_home(
            retry_until(self._patience, lambda: self._ledger.sessions.load(name))
        )

    def _save(self, state: bytes, *, always: bool) -> None:
        self._attempt.saved_state.save(state, always=always)

    def _holds_secret(self, value: Any) -> bool:
        return self._redactor.occurs_in(value)


def session_of(attempt: Attempt, ledger: Ledger) -> str | None:
    """Return the name of the run's session in the ledger; None without one.

    It follows from the caller's claims, as they were admitted, not from the run's record.
    """
    header = attempt.delivery.header
    if header is None or header.session is None:
        return None
    return session_name(ledger.settings, header.session, attempt.delivery.auth)


def state_to_write(
    attempt: Attempt, ledger: Ledger, *, succeeded: bool
) -> tuple[str, bytes] | None:
    """Return the name of the run's session and its new state; None where that stays."""
    saved = attempt.saved_state
    state = saved.on_success if succeeded else saved.on_any_end
    session = session_of(attempt, ledger) if state is not None else None
    return None if session is None or state is None else (session, state)
