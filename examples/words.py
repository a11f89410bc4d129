"""The smallest useful agent: one skill that streams, stores and returns something."""

from pydantic import BaseModel

from skillfleet import Agent, RunContext

words = Agent("words", description="Counts words")


class Count(BaseModel):
    """The number of words, and the longest one."""

    words: int
    longest: str


@words.skill(timeout=60)
async def count(ctx: RunContext, text: str) -> Count:
    """Count the words of a text."""
    found = text.split()
    for number, word in enumerate(found, start=1):
        await ctx.check_cancelled()
        await ctx.emit_progress(word, current=number, total=len(found))
    listed = "\n".join(sorted(found)).encode()
    await ctx.emit_artifact(await ctx.write_artifact("words.txt", listed, "text/plain"))
    return Count(words=len(found), longest=max(found, key=len, default=""))
