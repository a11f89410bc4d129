"""Run by the interpreter of the base profile: a skill in a script, a run on the fleet.

Its one argument is the URL of a real server; no worker is needed, as the run is cancelled.
"""

import asyncio
import sys

from skillfleet import Agent, LocalRunContext, NoAuth, RunContext
from skillfleet.errors import RunCancelled
from skillfleet_producer import Fleet

agent = Agent("greeter")


@agent.skill()
async def greet(ctx: RunContext, name: str) -> str:
    """Greet someone by name."""
    await ctx.emit_text_delta("hello ")
    return f"hello {name}"


def main(url: str) -> None:
    """Fail unless both packages work."""
    context = LocalRunContext(auth=NoAuth())
    assert asyncio.run(greet(context, name="Ada")) == "hello Ada"
    assert [event.kind for event in context.events] == ["text_delta"]
    with Fleet(url) as fleet:
        run = fleet.enqueue("greeter.greet", {"name": "Ada"})
        assert run.status().state == "queued"
        run.cancel("enough")
        try:
            run.result(timeout=10)
        except RunCancelled:
            return
    raise AssertionError("a cancelled run gave a result")


main(sys.argv[1])
