"""Durable runs: what was recorded is not done again, no decision is lost or contradicted.

All follows from what the skills noted on disk (durable_skills.py), what the producers know of their
inputs, and the events that readers get.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from skillfleet import joined_text
from skillfleet.contracts import RunState
from tests.chaos.durable_skills import PIECES
from tests.chaos.durable_skills import agent as durable_agent
from tests.chaos.evidence import Execution, Line, Run
from tests.chaos.inputs import Given, Luck
from tests.chaos.load import Made

SKILLS = frozenset(durable_agent.skills)
CALLS = 3
"""How many runs `caller` calls."""
_EARLY_NS = 50_000_000
"""By how much two clocks may differ over a few seconds."""


def durable(run: Run, executions: Sequence[Execution]) -> Iterator[str]:
    """Check the steps, waits and texts of a run of a durable kind."""
    if run.skill not in SKILLS:
        return
    lines = [line for one in executions for line in one.lines]
    yield from _had_once(lines)
    yield from _executed_once(run, lines)
    yield from _under_one_key(lines)
    yield from _asked_once(run)
    if run.state is RunState.SUCCEEDED:
        yield from _returned(run, executions)
        yield from _text_once(joined_text(run.events), lines, "its stream")
        if run.skill == "caller" and len(run.children) != CALLS:
            yield f"called {len(run.children)} runs, not {CALLS}"


def given_inputs(run: Run, made: Made, executions: Sequence[Execution]) -> Iterator[str]:
    """Check what became of the inputs of a run, and what its reader read."""
    if run.skill not in SKILLS:
        return
    lines = [line for one in executions for line in one.lines]
    if made.followed is not None and run.state is RunState.SUCCEEDED:
        yield from _text_once(joined_text(made.followed), lines, "its reader's text")
    had = {line.name: line.value for line in lines if line.word == "have"}
    questions = dict.fromkeys(line.name for line in lines if line.word == "ask")
    by_question: dict[str, list[Given]] = defaultdict(list)
    for one in made.given:
        by_question[one.question].append(one)
    for name in questions | dict.fromkeys(by_question):
        yield from _decided_once(run, name, had.get(name), by_question[name])
    timeout = made.order.args.get("timeout") or 0.0
    for name in questions:
        yield from _expired_in_time(name, timeout, lines)
    if run.skill == "inbox" and run.state is RunState.SUCCEEDED:
        yield from _received_once(made, had)


# -- promise 11


def _had_once(lines: Iterable[Line]) -> Iterator[str]:
    """Every attempt gets the same from an entry, and what a step made."""
    had: dict[str, dict[str, int]] = defaultdict(dict)
    made: dict[str, set[str]] = defaultdict(set)
    for line in lines:
        if line.word == "have":
            had[line.name].setdefault(line.value, line.attempt)
        elif line.word == "made":
            made[line.name].add(line.value)
    for name, values in had.items():
        if len(values) > 1:
            got = " and ".join(f"{value} in attempt {number}" for value, number in values.items())
            yield f"{name} led to {got}"
        unknown = set(values) - made[name]
        if name in made and unknown and made[name]:
            yield f"step {name} led to {sorted(unknown)}, which it never made"


def _executed_once(run: Run, lines: Sequence[Line]) -> Iterator[str]:
    """A recorded step is not executed again; one that is had no entry when its attempt ended."""
    had: dict[str, int] = {}
    begun: dict[str, Counter[int]] = defaultdict(Counter)
    broken: dict[str, Counter[int]] = defaultdict(Counter)
    for line in lines:
        if line.word == "have":
            had[line.name] = min(line.attempt, had.get(line.name, line.attempt))
        elif line.word == "step":
            begun[line.name][line.attempt] += 1
        elif line.word == "broke":
            broken[line.name][line.attempt] += 1
    for name, attempts in begun.items():
        yield from _executed_late(name, attempts, had.get(name), "got")
        yield from _executed_late(name, attempts, run.recorded.get(name), "recorded")
        for number, count in (attempts - broken[name]).items():
            if count > 1:
                yield f"step {name} was executed {count} times in attempt {number}"
            if run.outcome(number) == "parked" and max(attempts) > number:
                yield f"step {name} was executing when attempt {number} was parked"


def _executed_late(
    name: str, attempts: Collection[int], known: int | None, how: str
) -> Iterator[str]:
    late = sorted(number for number in attempts if known is not None and number > known)
    if late:
        yield f"step {name} was {how} in attempt {known} and executed again in {late}"


def _under_one_key(lines: Iterable[Line]) -> Iterator[str]:
    """A step has one idempotency key, and no other step has it."""
    keys: dict[str, set[str]] = defaultdict(set)
    steps: dict[str, set[str]] = defaultdict(set)
    for line in lines:
        if line.word == "step":
            keys[line.name].add(line.value)
            steps[line.value].add(line.name)
    several = {name: sorted(found) for name, found in keys.items() if len(found) > 1}
    yield from (f"step {name} had the keys {found}" for name, found in several.items())
    yield from (f"steps {sorted(of)} had one key" for of in steps.values() if len(of) > 1)


def _returned(run: Run, executions: Sequence[Execution]) -> Iterator[str]:
    """The result is what the last attempt got, which is what every attempt did."""
    last = [one for one in executions if one.attempt == len(run.attempts)]
    had = {line.name: line.value for one in last for line in one.lines if line.word == "have"}
    value = (run.result or {}).get("result")
    if last and value != had:
        yield f"returned {value}, its skill got {had}"


def _text_once(text: str, lines: Sequence[Line], where: str) -> Iterator[str]:
    """A text has that of each step that succeeded once, in order, and of no other step."""
    found: dict[str, list[str]] = defaultdict(list)
    for word in filter(None, text.split(";")):
        found[word.partition(".")[0]].append(word)
    made = {line.name for line in lines if line.word == "made"}
    expected: dict[str, list[str]] = {}
    for line in lines:
        if line.word == "have":
            expected[f"after-{line.name}"] = [f"after-{line.name}"]
            if line.name in made:
                expected[line.name] = [f"{line.name}.{piece}" for piece in range(PIECES)]
    for name in found.keys() | expected.keys():
        if found[name] != expected.get(name, []):
            yield f"{where} says {found[name]} of {name}"


# -- promise 12


def _asked_once(run: Run) -> Iterator[str]:
    """A question is in the stream once, and so is its end."""
    asked: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    for event in run.events:
        if event.kind == "wait" and event.payload["kind"] == "ask":
            asked[event.payload["question"].rpartition(" ")[2]] += 1
        elif event.kind == "wait_ended":
            ended[event.payload["id"]] += 1
    yield from (f"question {name} was asked {n} times" for name, n in asked.items() if n > 1)
    yield from (f"wait {wait} ended {count} times" for wait, count in ended.items() if count > 1)


def _decided_once(run: Run, name: str, had: str | None, given: Sequence[Given]) -> Iterator[str]:
    """At most one input is accepted, and the skill gets that, and never one that was refused."""
    accepted = {one.what for one in given if one.luck is Luck.ACCEPTED}
    if len(accepted) > 1:
        yield f"question {name} was decided several times: {sorted(accepted)}"
    if had is None:
        if accepted and run.state is RunState.SUCCEEDED:
            yield f"question {name}: {sorted(accepted)} was accepted and lost"
        return
    if accepted and had not in accepted:
        yield f"question {name}: {sorted(accepted)} was accepted, its skill got {had}"
    possible = accepted | {one.what for one in given if one.luck is Luck.UNKNOWN} | {"expired"}
    if had not in possible:
        yield f"question {name}: its skill got {had}, which no one gave or which was refused"


def _expired_in_time(name: str, timeout: float, lines: Sequence[Line]) -> Iterator[str]:
    asked = [line.at for line in lines if (line.word, line.name) == ("ask", name)]
    had = [
        line for line in lines if (line.word, line.name, line.value) == ("have", name, "expired")
    ]
    if had and min(line.at for line in had) - min(asked) < timeout * 1e9 - _EARLY_NS:
        yield f"question {name} expired before its {timeout:.1f} s were over"


def _received_once(made: Made, had: Mapping[str, str]) -> Iterator[str]:
    """Messages are received in the order of sending, each once; no accepted one is lost."""
    numbers = sorted(int(name[1:]) for name in had if name[0] == "m")
    received = [had[f"m{number}"] for number in numbers if had[f"m{number}"] != "none"]
    order = {sent.token: place for place, sent in enumerate(made.sent)}
    places = [order.get(token, -1) for token in received]
    if -1 in places or any(here >= then for here, then in pairwise(places)):
        yield f"received the messages {places} of {len(order)}, in this order"
    lost = {sent.token for sent in made.sent if sent.luck is Luck.ACCEPTED} - set(received)
    if lost:
        yield f"{len(lost)} messages were accepted and not received"
    if any(sent.luck is Luck.REFUSED and sent.token in received for sent in made.sent):
        yield "received a message that was refused"
