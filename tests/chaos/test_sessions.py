"""Sessions whose workers are killed, and the checker of their rounds."""

import pytest

from tests.chaos.sessions import Round, _in_order, play
from tests.support.forms import forms


@pytest.mark.parametrize("runs", forms(short=[120], thorough=[400]))
async def test_sessions_keep_their_order_and_state_while_workers_are_killed(runs: int) -> None:
    size = Round(runs=runs, sessions=6, producers=10, gap=0.5, timeout=240)
    verdict = await play(size)
    assert verdict.problems == []
    assert verdict.kills > 0


def test_the_checker_finds_what_it_looks_for() -> None:
    one = [("a", "start"), ("a", "end"), ("b", "start"), ("b", "start"), ("b", "end")]
    assert _in_order("s", one, ["a", "b"]) == ([], 1)
    both = [("a", "start"), ("b", "start"), ("a", "end"), ("b", "end")]
    assert _in_order("s", both, ["a", "b"])[0] == ["s: a executed while another run did"]
    assert "submitted" in _in_order("s", one, ["b", "a"])[0][0]
