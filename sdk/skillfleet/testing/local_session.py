"""A session in memory, for runs of `LocalRunContext`."""

from collections.abc import Callable
from typing import Any

import orjson

from skillfleet.jsonable import to_json
from skillfleet.ports.session import SavedState, Session


class LocalSession(Session):
    """A session that the contexts of several runs can share, one after the other.

        session = LocalSession("chat-42")
        await run_skill(chat, LocalRunContext(auth=NoAuth(), session=session), {"text": "hi"})
        assert session.state == ["hi"]

    `state` is what the runs before have saved. `run_skill` and `run_to_end` write what a run
    saves at its end, as a worker does; after a direct call of a skill, `settle` does.
    """

    def __init__(self, session_id: str = "local-session", state: Any = None) -> None:
        self._id = session_id
        self._written = None if state is None else to_json(state).encoded
        self._saved = SavedState()
        self.finds_secret: Callable[[Any], bool] = lambda _: False
        """Finds the secrets of the run that uses the session now; contexts set it."""

    @property
    def id(self) -> str:
        """The session's id."""
        return self._id

    @property
    def state(self) -> Any:
        """The state that runs have written; None without one."""
        return None if self._written is None else orjson.loads(self._written)

    def begin(self) -> None:
        """Begin an attempt: what an earlier one has saved without an end is dropped."""
        self._saved = SavedState()

    def settle(self, *, succeeded: bool) -> None:
        """Write what the run has saved, as its end says."""
        state = self._saved.on_success if succeeded else self._saved.on_any_end
        self._saved = SavedState()
        if state is not None:
            self._written = state

    async def _load(self) -> bytes | None:
        return self._written if self._saved.on_success is None else self._saved.on_success

    def _save(self, state: bytes, *, always: bool) -> None:
        self._saved.save(state, always=always)

    def _holds_secret(self, value: Any) -> bool:
        return self.finds_secret(value)
