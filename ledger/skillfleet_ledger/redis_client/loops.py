"""The event loop that a client belongs to."""

import asyncio
import os

from skillfleet.errors import WrongLoopError


class LoopOwner:
    """The event loop that owns a client: the first that uses it, until that loop is closed.

    Connections are bound to the loop that opened them: on another one they would wait for ever.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    def enter(self) -> asyncio.AbstractEventLoop:
        """Return the running loop; raises WrongLoopError when another one owns the client."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # A forked child's copy of its parent's loop never runs again.
            owned = self._loop is not None and self._pid == os.getpid()
            if owned and not self._loop.is_closed():  # type: ignore[union-attr]
                raise WrongLoopError(
                    "this fleet belongs to the event loop that used it first, and that one is not"
                    " closed: make an AsyncFleet of its own for each event loop, or use Fleet"
                )
            self._loop, self._pid = loop, os.getpid()
        return loop
