"""Orders: runs of all kinds, drawn from a seed, and how each of them has to end."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from skillfleet.contracts import RunState
from tests.chaos.inputs import Act, Inputs
from tests.chaos.plain import Plain

CHILD_SECONDS = 40.0
"""How long the call lasts that a caller leaves behind: far longer than it may live on."""
ITS_OWN = object()
"""The value of a run that returns what its skill has noted on disk."""


@dataclass(frozen=True)
class Order:
    """One run to be made. `cancel_after` seconds after it was accepted, it is cancelled.

    When `dies`, by one whose first request is answered, and who does nothing any more then. A
    `plain` one is sent by Celery alone. `inputs` are given to it from outside.
    """

    skill: str
    args: Mapping[str, Any]
    state: RunState = RunState.SUCCEEDED
    value: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    cancel_after: float | None = None
    dies: bool = False
    plain: Plain | None = None
    inputs: Inputs | None = None


def draw_orders(dice: random.Random, journal: str, seconds: float, rate: float) -> list[Order]:
    """Orders for a round of some length, `rate` a second."""
    # Many long ones: what breaks should find them at work.
    makers = [_quick, _long, _long, _long, _long, _stream, _stream, _write, _parent, _flaky]
    makers += [_cancelled, _cancelled, _delayed, _overdue]
    makers += [_leaving, _leaving, _leaving, _plain, _plain, _limited]
    makers += [_steps, _steps, _steps, _asking, _asking, _asking, _asking, _unanswered]
    makers += [_inbox, _inbox, _calling, _calling, _turn, _turn, _turn]
    orders = [dice.choice(makers)(dice, journal) for _ in range(int(seconds * rate))]
    # Rare: while they hold the thread, all other runs of their process wait.
    blocked = {"journal": journal, "seconds": 1.5}
    for place in range(len(orders) // 40 + 1):
        orders[place * 40 % len(orders)] = Order("chaos.block", blocked, value=1.5)
    return orders


def _quick(dice: random.Random, journal: str) -> Order:
    return _sleeper(journal, dice.uniform(0, 0.2))


def _long(dice: random.Random, journal: str) -> Order:
    return _sleeper(journal, dice.uniform(5, 10))


def _sleeper(journal: str, seconds: float, **more: Any) -> Order:
    return Order("chaos.sleep", {"journal": journal, "seconds": seconds}, value=seconds, **more)


def _stream(dice: random.Random, journal: str) -> Order:
    count, pause = dice.choice([(400, 0.002), (40, 0.1), (1500, 0)])
    args = {"journal": journal, "count": count, "pause": pause}
    return Order("chaos.stream", args, value=count)


def _write(dice: random.Random, journal: str) -> Order:
    size = dice.choice([10, 70_000, 600_000])
    return Order("chaos.write", {"journal": journal, "size": size}, value=size)


def _parent(dice: random.Random, journal: str) -> Order:
    args = {"journal": journal, "children": 3, "seconds": 0.5}
    return Order("chaos.parent", args, value=1.5)


def _flaky(dice: random.Random, journal: str) -> Order:
    return Order("chaos.flaky", {"journal": journal}, value="at last")


def _cancelled(dice: random.Random, journal: str) -> Order:
    args = {"journal": journal, "children": 3, "seconds": 600}
    state = RunState.CANCELLED
    if dice.random() < 0.5:
        after, dies = dice.uniform(0, 4), dice.random() < 0.5
        return Order("chaos.parent", args, state, cancel_after=after, dies=dies)
    args = {"journal": journal, "seconds": 600}
    options = {"delay": 300} if dice.random() < 0.2 else {}
    return Order("chaos.sleep", args, state, None, options, dice.uniform(0, 4))


def _delayed(dice: random.Random, journal: str) -> Order:
    return _sleeper(journal, 0.1, options={"delay": dice.uniform(0.5, 5)})


def _overdue(dice: random.Random, journal: str) -> Order:
    args = {"journal": journal, "seconds": 600}
    options = {"timeout": dice.uniform(0.5, 5)}
    return Order("chaos.sleep", args, RunState.TIMED_OUT, options=options)


def _leaving(dice: random.Random, journal: str) -> Order:
    ways = ["return", "fire and forget", "first completed", "raise out of gather"]
    args = {"journal": journal, "how": dice.choice(ways), "seconds": dice.uniform(0.2, 3)}
    args["child_seconds"] = CHILD_SECONDS
    if args["how"] == "raise out of gather":
        return Order("chaos.leave", args, RunState.FAILED)
    return Order("chaos.leave", args, value=args["how"])


def _plain(dice: random.Random, journal: str) -> Order:
    plain = Plain(dice.choice(["link", "chain"]))
    if dice.random() < 0.4:
        return Order("chaos.flaky", {"journal": journal}, value="at last", plain=plain)
    return _sleeper(journal, dice.uniform(0, 6), plain=plain)


def _limited(dice: random.Random, journal: str) -> Order:
    limit = dice.choice(["time_limit", "soft_time_limit"])
    plain = Plain(dice.choice(["link", None]), {limit: dice.randint(1, 3)})
    args = {"journal": journal, "seconds": CHILD_SECONDS}
    return Order("chaos.sleep", args, RunState.TIMED_OUT, plain=plain)


def _steps(dice: random.Random, journal: str) -> Order:
    skill = dice.choice(["steps", "steps", "kept"])
    args = {"journal": journal, "pause": dice.choice([0.01, 0.2]), "failing": dice.randrange(3)}
    return Order(f"durable.{skill}", args, value=ITS_OWN)


def _asking(dice: random.Random, journal: str) -> Order:
    """Questions that are answered in time, too late, never, by several, rejected."""
    timeout = dice.choice([None, dice.uniform(1, 3)])
    row, at_once = ["q1", "q2"], ["q3", "q4"]
    acts = {name: _acts(dice, timeout) for name in (*row, *at_once)}
    args = {"journal": journal, "row": row, "at_once": at_once, "timeout": timeout}
    skill = dice.choice(["questions", "questions", "patient"])
    return Order(f"durable.{skill}", args, value=ITS_OWN, inputs=Inputs(acts))


def _acts(dice: random.Random, timeout: float | None) -> tuple[Act, ...]:
    """Those who decide one question."""
    after, value = dice.uniform(0, 2), dice.randrange(1000)
    if timeout is not None and dice.random() < 0.5:
        # About when it expires, or not at all.
        return dice.choice([(), (Act(value, timeout + dice.uniform(-0.4, 0)),)])
    if dice.random() < 0.2:
        return (Act(value, after, dies=True),)
    another = dice.choice([Act(value), Act(value + 1000), Act(None)])
    second = Act(another.value, after + dice.choice([0, 0, dice.uniform(0, 1)]))
    return dice.choice([(Act(value, after),), (Act(None, after),), (Act(value, after), second)])


def _unanswered(dice: random.Random, journal: str) -> Order:
    """A run that waits until it is cancelled, or its deadline passes."""
    args = {"journal": journal, "row": ["q1", "q2"], "at_once": [], "timeout": None}
    inputs = Inputs({"q1": (Act(1, dice.uniform(0, 1)),)})
    skill = dice.choice(["questions", "questions", "patient"])
    if dice.random() < 0.5:
        options = {"timeout": dice.uniform(1, 5)}
        state = RunState.TIMED_OUT
        return Order(f"durable.{skill}", args, state, options=options, inputs=inputs)
    after, dies = dice.uniform(0, 4), dice.random() < 0.5
    state = RunState.CANCELLED
    return Order(f"durable.{skill}", args, state, cancel_after=after, dies=dies, inputs=inputs)


def _inbox(dice: random.Random, journal: str) -> Order:
    pauses = tuple(dice.choice([0.0, dice.uniform(0, 2)]) for _ in range(5))
    args = {"journal": journal, "timeout": dice.choice([None, 1.2])}
    return Order("durable.inbox", args, value=ITS_OWN, inputs=Inputs(pauses=pauses))


def _calling(dice: random.Random, journal: str) -> Order:
    if dice.random() < 0.3:
        after, dies = dice.uniform(0, 4), dice.random() < 0.5
        args = {"journal": journal, "seconds": 600}
        return Order("durable.caller", args, RunState.CANCELLED, cancel_after=after, dies=dies)
    args = {"journal": journal, "seconds": dice.uniform(1, 5)}
    return Order("durable.caller", args, value=ITS_OWN)


def _turn(dice: random.Random, journal: str) -> Order:
    """A run of one of three sessions, which has its turn when the one before it has ended."""
    args = {"journal": journal, "seconds": dice.choice([0.1, 1.0])}
    options = {"session": f"s{dice.randrange(3)}"}
    if dice.random() < 0.15:
        state, after = RunState.CANCELLED, dice.uniform(0, 3)
        args["seconds"] = 600.0
        return Order("durable.turn", args, state, options=options, cancel_after=after)
    return Order("durable.turn", args, value=ITS_OWN, options=options)
