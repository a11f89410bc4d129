"""The times at which parts of a round were in trouble, which the promised times exclude."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

RECOVERY_NS = 2_000_000_000
"""What a worker or Redis may take to be itself again after a fault: to connect, to load."""


@dataclass(frozen=True)
class Trouble:
    """One fault that was played; monotonic nanoseconds. `worker` None: all of them."""

    began: int
    ended: int
    worker: int | None = None


class Troubles:
    """All of a round's."""

    def __init__(self, *played: Trouble) -> None:
        self._played = list(played)

    @contextmanager
    def during(self, worker: int | None = None) -> Iterator[None]:
        """Note what happens inside as a trouble of that worker, or of all."""
        began = time.monotonic_ns()
        try:
            yield
        finally:
            self._played.append(Trouble(began, time.monotonic_ns(), worker))

    def quiet(self, began: int, ended: int, worker: int | None = None) -> int:
        """Nanoseconds of a time in which neither Redis nor that worker was in trouble."""
        reached, quiet = began, 0
        for trouble in sorted(self._played, key=lambda one: one.began):
            if trouble.worker not in (None, worker) or trouble.ended + RECOVERY_NS <= reached:
                continue
            if trouble.began >= ended:
                break
            quiet += max(trouble.began - reached, 0)
            reached = trouble.ended + RECOVERY_NS
        return quiet + max(ended - reached, 0)

    def count(self, began: int, ended: int) -> int:
        """Return the number of troubles that touched a time."""
        return sum(one.began <= ended and one.ended + RECOVERY_NS >= began for one in self._played)
