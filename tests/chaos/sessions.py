"""Producers fill sessions while workers are killed: `python -m tests.chaos.sessions`.

Per session, runs must execute strictly one at a time, in the order of submission, and the state
must hold each of them once, in that order.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import orjson

from skillfleet_ledger import Ledger, Settings
from skillfleet_producer import AsyncFleet
from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer, running_server

SECONDS = 0.01
"""How long each run takes."""


@dataclass(frozen=True)
class Round:
    """The size of a round."""

    runs: int = 1000
    sessions: int = 20
    producers: int = 50
    workers: int = 2
    gap: float = 2.0
    """Seconds between two kills."""
    seed: int = 0
    timeout: float = 600.0


@dataclass(frozen=True)
class Verdict:
    """The findings of a round: broken promises, kills and lost attempts."""

    problems: list[str]
    kills: int
    repeated: int
    seconds: float


async def play(size: Round) -> Verdict:
    """Play a round and check it."""
    chance, began = random.Random(size.seed), time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server() as server,
        contextlib.ExitStack() as stack,
    ):
        journal = Path(folder) / "journal"
        journal.touch()
        workers = [
            stack.enter_context(
                FleetWorker(server, "tests.chaos.talk", lease_seconds=1, reap_seconds=0.2)
            )
            for _ in range(size.workers)
        ]
        killing = asyncio.create_task(_kill(workers, size.gap, chance))
        try:
            async with asyncio.timeout(size.timeout):
                results = await _produce(server, size, str(journal), chance)
        finally:
            killing.cancel()
            (kills,) = await asyncio.gather(killing, return_exceptions=True)
        problems, repeated = await _check(server, size, journal, results)
        count = kills if isinstance(kills, int) else 0
        return Verdict(problems, count, repeated, time.monotonic() - began)


async def _kill(workers: list[FleetWorker], gap: float, chance: random.Random) -> int:
    """Kill one worker after the other, and start each again, until cancelled; returns how often."""
    count = 0
    try:
        while True:
            await asyncio.sleep(gap * chance.uniform(0.5, 1.5))
            worker = chance.choice(workers)
            await asyncio.to_thread(worker.kill)
            count += 1
            worker.launch()
    except asyncio.CancelledError:
        return count


async def _produce(
    server: ValkeyServer, size: Round, journal: str, chance: random.Random
) -> dict[str, int]:
    """Enqueue all runs, from as many producers; returns their results."""
    shares = [size.runs // size.producers] * size.producers
    for extra in range(size.runs % size.producers):
        shares[extra] += 1
    seeds = [chance.random() for _ in shares]
    # One run may be hit by any number of the kills, and none of them may be its end.
    settings = Settings.load(redis_url=server.producer_url, max_deliveries=1_000_000)

    async def produce(share: int, seed: float) -> dict[str, int]:
        own, args = random.Random(seed), {"journal": journal, "seconds": SECONDS}
        async with AsyncFleet(settings=settings) as fleet:
            runs = []
            for _ in range(share):
                session = fleet.session(f"s{own.randrange(size.sessions)}")
                runs.append(await session.enqueue("talk.add", args))
                await asyncio.sleep(own.uniform(0, 0.1))
            return {run.id: await run.result() for run in runs}

    found = await asyncio.gather(*map(produce, shares, seeds))
    return {run_id: result for part in found for run_id, result in part.items()}


async def _check(
    server: ValkeyServer, size: Round, journal: Path, results: dict[str, int]
) -> tuple[list[str], int]:
    """Return the broken promises, and how many attempts were repeated."""
    lines: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for line in journal.read_text().splitlines():  # noqa: ASYNC240 - a small file
        session, run_id, word = line.split()
        lines[session].append((run_id, word))
    problems, repeated = [], 0
    ledger = Ledger(Settings.load(redis_url=server.url))
    try:
        for number in range(size.sessions):
            name = f"/s{number}"
            submitted = [run.id for run in reversed(await ledger.sessions.runs(name, size.runs))]
            saved = orjson.loads(await ledger.sessions.load(name) or b"[]")
            if saved != submitted:
                problems.append(f"{name}: its state holds {saved}, submitted were {submitted}")
            if [results[run_id] for run_id in submitted] != list(range(1, len(submitted) + 1)):
                problems.append(f"{name}: a run found the state of another turn")
            found, again = _in_order(name, lines[name[1:]], submitted)
            problems += found
            repeated += again
    finally:
        await ledger.close()
    if len(results) != size.runs:
        problems.append(f"{len(results)} of {size.runs} runs have a result")
    return problems, repeated


def _in_order(
    session: str, lines: list[tuple[str, str]], submitted: list[str]
) -> tuple[list[str], int]:
    """Check the attempts that the journal has of a session, in the order of the lines."""
    problems: list[str] = []
    begun: list[str] = []
    repeated = 0
    for run_id, word in lines:
        if word == "start" and begun and begun[-1] == run_id:
            repeated += 1
        elif word == "start":
            begun.append(run_id)
        elif not begun or begun[-1] != run_id:
            problems.append(f"{session}: {run_id} executed while another run did")
    if begun != submitted:
        problems.append(f"{session}: executed were {begun}, submitted {submitted}")
    return problems, repeated


def main() -> int:
    """Play the full round and report; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="make sessions", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--producers", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gap", type=float, default=2.0, help="seconds between two kills")
    parser.add_argument("--seed", type=int, default=0)
    verdict = asyncio.run(play(Round(**vars(parser.parse_args()))))
    report = f"{verdict.kills} kills, {verdict.repeated} repeated attempts, {verdict.seconds:.0f} s"
    sys.stdout.write("\n".join([*verdict.problems, report]) + "\n")
    return 1 if verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main())
