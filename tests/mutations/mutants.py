"""Makes the mutants: each is one script with one thing broken.

What is broken: a comparison (turned round, or moved by one), a condition (one part left out, all
of it true or false), a number, a plus or minus, a statement left out, a field of a record or a
flag of a command left out. A mutant's id says in which script and line text, and so stays the same
while that line does.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import resources

_TOKEN = re.compile(
    r"(?P<comment>--[^\n]*)|(?P<string>'[^'\n]*')|(?P<number>\d+)|(?P<name>[A-Za-z_][\w]*)"
    r"|(?P<sign>==|~=|<=|>=|\.\.\.|\.\.|[-+*/%^#<>=(){}\[\];:,.])"
)
_TURNED = {"==": "~=", "~=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_MOVED = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
_OPENING, _CLOSING = ("(", "{", "["), (")", "}", "]")
_FLAGS = ("'NX'", "'XX'", "'LT'")
_LARGE = 100


@dataclass(frozen=True)
class Mutant:
    """One broken script. `line` counts from 1, `change` is for people."""

    id: str
    script: str
    line: int
    change: str
    text: str


@dataclass(frozen=True)
class Token:
    kind: str
    text: str
    start: int
    end: int


class Script:
    """A script's text and tokens, without comments."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    @cached_property
    def tokens(self) -> list[Token]:
        found = _TOKEN.finditer(self.text)
        return [
            Token(match.lastgroup or "", match.group(), match.start(), match.end())
            for match in found
            if match.lastgroup != "comment"
        ]

    def closing(self, opening: int) -> int:
        """The index of the bracket that closes the one at an index."""
        depth = 0
        for index in range(opening, len(self.tokens)):
            depth += (self.tokens[index].text in _OPENING) - (self.tokens[index].text in _CLOSING)
            if depth == 0:
                return index
        raise ValueError(f"{self.name}: unbalanced brackets")

    def arguments(self, opening: int) -> list[tuple[int, int]]:
        """Return the positions at which the arguments of a call begin and end."""
        closing, found = self.closing(opening), []
        depth, start = 0, self.tokens[opening].end
        for token in self.tokens[opening + 1 : closing]:
            depth += (token.text in _OPENING) - (token.text in _CLOSING)
            if token.text == "," and depth == 0:
                found.append((start, token.start))
                start = token.end
        return [*found, (start, self.tokens[closing].start)]


Edit = tuple[str, int, int, str]
"""Kind, where in the text it begins and ends, and what stands there instead."""


def mutants_of(name: str, text: str) -> list[Mutant]:
    """All mutants of one script, in the order of its text."""
    script = Script(name, text)
    makers = (_comparisons, _conditions, _numbers, _arithmetic, _statements, _fields, _flags)
    edits = {(e[1], e[2], e[3]): e for maker in makers for e in maker(script)}
    seen: Counter[str] = Counter()
    return [_mutant(script, edit, seen) for edit in sorted(edits.values(), key=lambda e: e[1:])]


def all_mutants() -> list[Mutant]:
    """The mutants of every script of the ledger."""
    return [mutant for name, text in scripts().items() for mutant in mutants_of(name, text)]


def scripts() -> dict[str, str]:
    """The scripts' texts by name."""
    folder = resources.files("skillfleet_ledger") / "scripts"
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return {file.name.removesuffix(".lua"): file.read_text() for file in files}


def _mutant(script: Script, edit: Edit, seen: Counter[str]) -> Mutant:
    kind, start, end, new = edit
    text = script.text
    line_start = text.rfind("\n", 0, start) + 1
    line_end = text.find("\n", max(start, end - 1))
    old_lines = text[line_start:line_end]
    new_lines = text[line_start:start] + new + text[end:line_end]
    change = f"{' '.join(old_lines.split())}  =>  {' '.join(new_lines.split()) or '(nothing)'}"
    digest = hashlib.sha256(f"{kind} {change}".encode()).hexdigest()[:8]
    seen[digest] += 1
    again = f"-{seen[digest]}" if seen[digest] > 1 else ""
    return Mutant(
        id=f"{script.name}-{kind}-{digest}{again}",
        script=script.name,
        line=text.count("\n", 0, start) + 1,
        change=change,
        text=text[:start] + new + text[end:],
    )


def _comparisons(script: Script) -> Iterator[Edit]:
    for token in script.tokens:
        if token.text in _TURNED:
            yield ("turned", token.start, token.end, _TURNED[token.text])
        if token.text in _MOVED:
            yield ("moved", token.start, token.end, _MOVED[token.text])


def _conditions(script: Script) -> Iterator[Edit]:
    for index, token in enumerate(script.tokens):
        if token.text not in ("if", "elseif", "return", "local"):
            continue
        last = _end_of_condition(script, index)
        if last is None:
            continue
        parts, joints = _parts(script, index + 1, last)
        if token.text in ("if", "elseif"):
            start, end = script.tokens[index].end, script.tokens[last].start
            for value in ("true", "false"):
                yield ("always" if value == "true" else "never", start, end, f" {value} ")
        for number in range(len(parts)) if len(parts) > 1 else ():
            # With the joint before it, the first one with that after it.
            first, final = parts[number]
            if number:
                yield ("without", joints[number - 1].start, script.tokens[final].end, "")
            else:
                yield ("without", script.tokens[first].start, joints[0].end, "")


def _end_of_condition(script: Script, index: int) -> int | None:
    """Return the end of the condition that begins after a token: at `then`, or with its line."""
    keyword = script.tokens[index].text
    if keyword in ("if", "elseif"):
        for later in range(index, len(script.tokens)):
            if script.tokens[later].text == "then":
                return later
        return None
    line_end = script.text.find("\n", script.tokens[index].start)
    last = next(
        (i for i in range(index, len(script.tokens)) if script.tokens[i].start > line_end), None
    )
    if keyword == "local" and (last is None or script.tokens[index + 1].text == "function"):
        return None
    return last


def _parts(script: Script, first: int, last: int) -> tuple[list[tuple[int, int]], list[Token]]:
    """The parts of a condition between `and` and `or` outside of brackets, and these two words."""
    parts, joints, depth, start = [], [], 0, first
    for index in range(first, last):
        token = script.tokens[index]
        depth += (token.text in _OPENING) - (token.text in _CLOSING)
        if token.text == "=" and depth == 0:
            start = index + 1
        if token.text in ("and", "or") and depth == 0:
            parts.append((start, index - 1))
            joints.append(token)
            start = index + 1
    return [*parts, (start, last - 1)], joints


def _numbers(script: Script) -> Iterator[Edit]:
    for index, token in enumerate(script.tokens):
        if token.kind != "number" or script.tokens[index - 1].text == "[":
            continue
        value = int(token.text)
        yield ("number", token.start, token.end, str(value * 2 if value >= _LARGE else value + 1))


def _arithmetic(script: Script) -> Iterator[Edit]:
    for index, token in enumerate(script.tokens):
        before = script.tokens[index - 1]
        is_binary = before.kind in ("name", "number") or before.text in (")", "]")
        if token.text in ("+", "-") and is_binary and before.text != "return":
            yield ("sign", token.start, token.end, "-" if token.text == "+" else "+")


def _statements(script: Script) -> Iterator[Edit]:
    for index, token in enumerate(script.tokens):
        if token.kind != "name" or not _begins_statement(script, index):
            continue
        opening = index + 1
        while script.tokens[opening].text == "." or script.tokens[opening].kind == "name":
            opening += 1
        if script.tokens[opening].text != "(":
            continue
        closing = script.closing(opening)
        if _ends_statement(script, closing):
            yield ("dropped", token.start, script.tokens[closing].end, "")
        # `call(...)` that is returned or assigned is no statement.


def _begins_statement(script: Script, index: int) -> bool:
    if script.tokens[index].text in (
        "if",
        "for",
        "local",
        "return",
        "while",
        "end",
        "else",
        "elseif",
        "function",
        "break",
    ):
        return False
    before = script.tokens[index - 1] if index else None
    if before is None or before.text in ("then", "do", "else"):
        return True
    fresh_line = "\n" in script.text[before.end : script.tokens[index].start]
    goes_on = before.text in (
        "(",
        ",",
        "=",
        "and",
        "or",
        "not",
        "return",
        "..",
        "{",
        "+",
        "-",
        "in",
    )
    return fresh_line and not goes_on


def _ends_statement(script: Script, closing: int) -> bool:
    if closing + 1 == len(script.tokens):
        return True
    after = script.tokens[closing + 1]
    return "\n" in script.text[script.tokens[closing].end : after.start] or after.text == "end"


def _fields(script: Script) -> Iterator[Edit]:
    for index, token in enumerate(script.tokens):
        if token.text != "'HSET'":
            continue
        arguments = script.arguments(index - 1)[2:]
        pairs = [arguments[i : i + 2] for i in range(0, len(arguments) - 1, 2)]
        # A single pair is the whole statement.
        if len(pairs) == 1:
            continue
        for (start, _), (_, end) in pairs:
            # With the comma before it.
            yield ("field", start - 1, end, "")


def _flags(script: Script) -> Iterator[Edit]:
    for index, token in enumerate(script.tokens):
        if token.text in _FLAGS:
            yield ("flag", script.tokens[index - 1].start, token.end, "")
