"""Break one thing of the ledger's scripts at a time: does a test notice? `make mutations`.

Without options all mutants are played, which takes a while, and the result is written to
`result.json`. `--missing` plays only those that it lacks; scripts that may lack some are in
`pending.toml`. `--draw N` plays some with a result that a seed draws, and writes nothing. Exit
status 1 when a mutant survives that `reasons.toml` does not name.
"""

import argparse
import json
import os
import queue
import random
import secrets
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.mutations.mutants import Mutant, all_mutants
from tests.mutations.results import reasons, results, write

_PATIENCE_SECONDS = 120.0
_START_SECONDS = 600.0
HUNG = "it hangs"


class PlayerProcess:
    """A process that plays mutants; it is replaced when a mutant hangs it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def play(self, mutant_id: str) -> str | None:
        """The test that killed it; None if it survived."""
        process = self._process or self._start()
        answer = self._ask(process, mutant_id, _PATIENCE_SECONDS)
        return HUNG if answer is None else answer["killer"]

    def close(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _start(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutations.player"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        answer = self._ask(self._process, "", _START_SECONDS)
        if answer is None or answer["killer"] is not None:
            raise SystemExit(f"the tests fail without any mutant: {answer}")
        return self._process

    def _ask(
        self, process: "subprocess.Popen[str]", line: str, patience: float
    ) -> dict[str, Any] | None:
        assert process.stdin is not None
        assert process.stdout is not None
        print(line, file=process.stdin, flush=True)
        readable, _, _ = select.select([process.stdout], [], [], patience)
        answer = process.stdout.readline() if readable else ""
        if not answer:
            self.close()
            return None
        found: dict[str, Any] = json.loads(answer)
        return found


def play(
    mutants: list[Mutant],
    processes: int,
    seconds: float,
    reported: Callable[[Mutant, str | None], None],
) -> None:
    """Play mutants in several processes; `reported` is called for each, one at a time.

    After `seconds` none is begun any more.
    """
    over_at = time.monotonic() + seconds
    waiting: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
    for mutant in mutants:
        waiting.put(mutant)
    lock = threading.Lock()
    failed: list[BaseException] = []

    def work() -> None:
        player = PlayerProcess()
        try:
            while not failed and time.monotonic() < over_at:
                mutant = waiting.get_nowait()
                killer = player.play(mutant.id)
                with lock:
                    reported(mutant, killer)
        except queue.Empty:
            pass
        except BaseException as error:  # noqa: BLE001 - raised by the main thread
            failed.append(error)
        finally:
            player.close()

    threads = [threading.Thread(target=work) for _ in range(min(processes, len(mutants)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def main(arguments: list[str]) -> int:
    """Play, print who survives, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--draw", type=int, help="play so many, drawn at random; write nothing")
    parser.add_argument("--seed", type=int, help="of the draw (default: a new one)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no more then")
    parser.add_argument("--missing", action="store_true", help="only those without a result")
    parser.add_argument("--survivors", action="store_true", help="only those that survived")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    every = all_mutants()
    known = results()
    chosen = every
    if options.draw:
        seed = secrets.randbelow(2**32) if options.seed is None else options.seed
        played_before = [mutant for mutant in every if mutant.id in known]
        say(f"{options.draw} of {len(played_before)} mutants, drawn with SEED={seed}")
        chosen = random.Random(seed).sample(played_before, options.draw)
    elif options.missing:
        chosen = [mutant for mutant in every if mutant.id not in known]
    elif options.survivors:
        chosen = [mutant for mutant in every if known.get(mutant.id, "") is None]
    excused = reasons()
    survivors: list[Mutant] = []
    played = 0

    def reported(mutant: Mutant, killer: str | None) -> None:
        nonlocal played
        played += 1
        if killer is None and mutant.id not in excused:
            survivors.append(mutant)
            say(f"SURVIVES {mutant.id}, {mutant.script}.lua:{mutant.line}: {mutant.change}")
        elif options.draw:
            say(f"{mutant.id}: {killer or excused[mutant.id]}")
        known[mutant.id] = killer
        if not options.draw:
            write(every, known)

    play(chosen, options.processes, options.seconds, reported)
    say(f"{played} of {len(chosen)} mutants played, {len(survivors)} survived without a reason")
    return 1 if survivors else 0


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
