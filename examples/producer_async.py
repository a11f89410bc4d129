"""A backend service on asyncio: `python -m examples.producer_async FOLDER`.

Needs a fleet with the librarian; SKILLFLEET_REDIS_URL says where it is.
"""

import asyncio
import sys

from skillfleet.errors import RunCancelled
from skillfleet_producer import AsyncFleet


async def stream(fleet: AsyncFleet, folder: str) -> None:
    """Five lines to a streamed result."""
    run = await fleet.enqueue("librarian.survey", {"folder": folder})
    async for event in run.events():
        if event.kind == "text_delta":
            print(event.payload["text"], end="")
    print((await run.result())["lines"], "lines")


async def resume(fleet: AsyncFleet, folder: str) -> None:
    """Stop reading in the middle and resume later, after the last event that was seen."""
    run = await fleet.enqueue("librarian.survey", {"folder": folder})
    seen = [await anext(run.events())]
    later = fleet.run(run.id)
    seen += [event async for event in later.events(after=seen[-1].id)]
    print(len(seen), "events, none missing and none twice")


async def side_by_side(fleet: AsyncFleet, folder: str) -> None:
    """Many runs: the writes leave together, and the results are awaited together."""
    runs = await fleet.enqueue_many("librarian.survey", [{"folder": folder, "top": 1}] * 5)
    results = await asyncio.gather(*(run.result(timeout=60) for run in runs))
    print([result["files"] for result in results])


async def cancel(fleet: AsyncFleet, folder: str) -> None:
    """Cancel a run and all runs that it called, wherever they are."""
    run = await fleet.enqueue("librarian.survey", {"folder": folder})
    await run.cancel("the user went away")
    try:
        await run.result(timeout=30)
    except RunCancelled as error:
        print(f"{error.code}: {error.message}")


async def main() -> None:
    """Run them all."""
    folder = sys.argv[1]
    async with AsyncFleet() as fleet:
        for example in (stream, resume, side_by_side, cancel):
            print(f"\n--- {example.__name__}")
            await example(fleet, folder)


if __name__ == "__main__":
    asyncio.run(main())
