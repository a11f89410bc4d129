"""The words agent in a unit test."""

from examples.words import Count, count
from skillfleet import LocalRunContext, NoAuth


async def test_counting_streams_its_progress_and_keeps_the_words() -> None:
    ctx = LocalRunContext(auth=NoAuth())
    assert await count(ctx, text="to be or not") == Count(words=4, longest="not")
    assert ctx.events[1].payload == {"message": "be", "current": 2, "total": 4}
    assert ctx.artifacts["words.txt"] == b"be\nnot\nor\nto"
