"""A long round: `python -m tests.endurance --steps 1000 --kills 50`; prints its seed."""

import argparse
import asyncio
import secrets
import sys

from tests.endurance.scenario import Endurance, run_round


def main() -> int:
    """Play a round and report; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="make endurance", description=__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="model calls")
    parser.add_argument("--kills", type=int, default=50, help="kills of the executing worker")
    parser.add_argument("--branches", type=int, default=1, help="calls at once")
    parser.add_argument("--seed", type=int, default=None, help="default: a new one")
    given = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    plan = Endurance(seed, given.steps, given.kills, given.branches)
    sys.stdout.write(f"{plan}\n")
    sys.stdout.flush()
    seen = asyncio.run(run_round(plan))
    problems = list(seen.problems())
    sys.stdout.write("\n".join([seen.summary, *problems]) + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
