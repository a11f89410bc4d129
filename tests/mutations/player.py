"""Plays mutants one after the other, in one process and on one server.

Reads ids, one a line; answers each with a line of JSON: who killed it (the name of a test) and
how many seconds that took. An empty id plays the unchanged scripts against all their tests.
"""

import gc
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from skillfleet_ledger.redis_client import script_source as ledger_scripts
from tests.mutations.mutants import Mutant, all_mutants, scripts
from tests.mutations.results import results
from tests.mutations.suites import SLOW, SUITES, files
from tests.support import valkey

_OPTIONS = (
    *("-x", "-q", "--assert=plain", "-p", "no:cacheprovider"),
    # What a killed mutant left behind must not kill the next one.
    *("-p", "no:unraisableexception", "-p", "no:threadexception"),
    *(f"--deselect={name}" for name in SLOW),
)


class FirstFailure:
    """A plugin of pytest that keeps the name of the first test that failed."""

    def __init__(self) -> None:
        self.name: str | None = None

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and self.name is None:
            self.name = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        self.pytest_runtest_logreport(report)


class KillersFirst:
    """A plugin of pytest that runs the tests first that killed other mutants of a script."""

    def __init__(self, killers: set[str]) -> None:
        self._killers = killers

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: item.nodeid not in self._killers)


class Player:
    """Has the ledger take its scripts from a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "scripts"
        self._folder.mkdir()
        self._originals = scripts()
        self._mutants = {mutant.id: mutant for mutant in all_mutants()}
        self._killers = _known_killers(self._mutants)
        for name, text in self._originals.items():
            self._write(name, text)
        vars(ledger_scripts)["resources"] = SimpleNamespace(files=lambda _: folder)

    def play(self, mutant_id: str) -> str | None:
        """The first test that fails with this mutant; '' is none: None when all pass."""
        if not mutant_id:
            return self._tests(sorted({file for name in SUITES for file in files(name)}), set())
        mutant: Mutant = self._mutants[mutant_id]
        self._write(mutant.script, mutant.text)
        try:
            return self._tests(files(mutant.script), self._killers[mutant.script])
        finally:
            self._write(mutant.script, self._originals[mutant.script])

    def _write(self, name: str, text: str) -> None:
        (self._folder / f"{name}.lua").write_text(text)

    def _tests(self, paths: list[str], killers: set[str]) -> str | None:
        ledger_scripts.source.cache_clear()
        first = FirstFailure()
        status = pytest.main([*_OPTIONS, *paths], plugins=[first, KillersFirst(killers)])
        gc.collect()
        if status == pytest.ExitCode.OK:
            return None
        return first.name or f"pytest ended with {status}"


def _known_killers(mutants: dict[str, Mutant]) -> dict[str, set[str]]:
    """Return the tests that killed mutants of each script, by the newest result."""
    found: dict[str, set[str]] = defaultdict(set)
    for mutant_id, killer in results().items():
        if killer and mutant_id in mutants:
            found[mutants[mutant_id].script].add(killer)
    return found


@contextmanager
def one_server() -> Iterator[None]:
    """All tests of this process share one server."""
    with valkey.running_server() as server:

        @contextmanager
        def shared(*_: str) -> Iterator[valkey.ValkeyServer]:
            with server.client() as client:
                client.script_flush()
            yield server

        valkey.running_server = shared
        yield


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    with tempfile.TemporaryDirectory() as folder, one_server():
        player = Player(Path(folder))
        for line in sys.stdin:
            began = time.monotonic()
            killer = player.play(line.strip())
            answer = {"killer": killer, "seconds": round(time.monotonic() - began, 2)}
            answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
