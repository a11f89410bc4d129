"""A long round: `python -m tests.chaos --seconds 600 --seed 7`; prints what can be replayed."""

import argparse
import asyncio
import secrets
import sys
from pathlib import Path

from tests.chaos.scenario import GAP_SECONDS, RATE, Scenario, run_scenario


def main() -> int:
    """Run and report; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one")
    parser.add_argument("--rate", type=float, default=RATE, help="orders a second")
    parser.add_argument("--gap", type=float, default=GAP_SECONDS, help="seconds between faults")
    parser.add_argument("--keep", type=Path, default=None, help="a folder for logs and journal")
    parser.add_argument("--rabbit", action="store_true", help="with RabbitMQ as the broker")
    given = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    scenario = Scenario(seed, given.seconds, given.rate, given.gap, rabbit=given.rabbit)
    say(f"{scenario}\n" + "\n".join(str(fault) for fault in scenario.faults()))
    verdict = asyncio.run(run_scenario(scenario))
    say(verdict.summary)
    if given.keep is not None:
        given.keep.mkdir(parents=True, exist_ok=True)
        (given.keep / "workers.log").write_text(verdict.logs)
        (given.keep / "journal").write_text(verdict.journal)
    if verdict.problems:
        say(verdict.tails())
        say("\n".join(verdict.problems))
        say(f"{len(verdict.problems)} promises broken with {scenario}")
        return 1
    say("every promise was kept")
    return 0


def say(text: str) -> None:
    """A line for the terminal, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
