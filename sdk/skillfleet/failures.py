"""Readers of any error for a runtime: its code, message, retry policy and time to wait.

A skill's errors are foreign code: attributes of any type, properties and `__str__` that raise,
nested groups. The values that these functions return can always be written and read.
"""

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from skillfleet.contracts import MOST_SECONDS, ReasonCode
from skillfleet.errors import CancelledByCaller, RunTimedOut, SkillfleetError
from skillfleet.texts import MOST_MESSAGE_CHARS, code_text, plain_text, shortened_text

_MOST_MEMBERS = 50
_MOST_RAW_CHARS = 4 * MOST_MESSAGE_CHARS


class Failure(NamedTuple):
    """Code and message of an error, as the caller of a run gets them."""

    code: str
    message: str


def failure_of(error: BaseException) -> Failure:
    """Return the error that ended a run, as its caller sees it.

    A group names each member; its code is the one that all members share, else
    `skill_error`. The message may still be long: see `error_text`.
    """
    members = leaves(error)
    if len(members) == 1:
        return Failure(error_code(members[0]), _described(members[0]))
    codes = {error_code(member) for member in members}
    code = codes.pop() if len(codes) == 1 else str(ReasonCode.SKILL_ERROR)
    return Failure(code, _listed(members))


def leaves(error: BaseException) -> tuple[BaseException, ...]:
    """Return the errors in a group, at any depth, each once; for other errors the error itself."""
    return tuple({id(leaf): leaf for leaf in _leaves(error)}.values())


def _leaves(error: BaseException) -> Iterator[BaseException]:
    waiting, seen = [error], set()
    while waiting:
        each = waiting.pop()
        if not isinstance(each, BaseExceptionGroup):
            yield each
        elif id(each) not in seen:
            seen.add(id(each))
            waiting.extend(reversed(each.exceptions))


def is_cancellation(error: BaseException) -> bool:
    """Return True if the error, or each error of a group, only reports its run's cancellation."""
    return all(isinstance(leaf, CancelledByCaller) for leaf in leaves(error))


def is_overdue(error: BaseException, deadline: datetime | None, remaining: float | None) -> bool:
    """Return whether a run whose handler ended with `error` ended because of its deadline.

    `deadline` is the run's, `remaining` the seconds up to it by the caller's clock. A child run
    has the same deadline, and may reach it a moment earlier.
    """
    if deadline is None or remaining is None:
        return False
    return remaining <= 0 or any(
        isinstance(leaf, RunTimedOut) and leaf.deadline is not None and leaf.deadline >= deadline
        for leaf in leaves(error)
    )


def error_code(error: BaseException) -> str:
    """Return the error's code as a string of bounded length; `skill_error` where there is none."""
    code = _attribute(error, "code") if isinstance(error, SkillfleetError) else None
    return code_text(code) or str(ReasonCode.SKILL_ERROR)


def error_text(error: BaseException) -> str:
    """Return the error's message without lone surrogates, whatever its own `__str__` does.

    Its length is bounded, but may exceed that of a message (`shortened_text`), so that secrets
    can be redacted before it is cut.
    """
    try:
        plain = type(error).__str__ is BaseException.__str__ and len(error.args) == 1
        text = plain_text(error.args[0] if plain else error)
    except Exception:  # noqa: BLE001 - a handler's error may do anything
        return f"{type(error).__name__}, which cannot say more"
    return shortened_text(text, _MOST_RAW_CHARS)


def is_retryable(error: BaseException) -> bool:
    """Return whether the error itself says that the same call may succeed later; not for groups."""
    try:
        return isinstance(error, SkillfleetError) and bool(error.retryable)
    except Exception:  # noqa: BLE001 - it may be a property of a handler's own class
        return False


def retry_after_of(error: BaseException) -> float | None:
    """Return the seconds that the error asks to wait, at most ten years; None if it asks for none.

    Understands numbers, timedelta, dates, and the value of an HTTP `Retry-After` header. A
    group asks for the longest time of its members.
    """
    wishes = [
        _seconds(_attribute(leaf, "retry_after"))
        for leaf in leaves(error)
        if isinstance(leaf, SkillfleetError)
    ]
    return max((wish for wish in wishes if wish is not None), default=None)


def _seconds(wish: Any) -> float | None:
    try:
        seconds = _number(wish)
    except Exception:  # noqa: BLE001 - a handler's own object may do anything
        return None
    understood = 0 <= seconds < math.inf
    return min(seconds, float(MOST_SECONDS)) if understood else None


def _number(wish: Any) -> float:
    """Return the seconds as a number; NaN or an error for a value that is not a time."""
    match wish:
        case None | bool():
            return math.nan
        case int():
            return float(min(wish, MOST_SECONDS))
        case str() | bytes():
            return _header(plain_text(wish))
        case timedelta():
            return wish.total_seconds()
        case datetime():
            return (wish - datetime.now(wish.tzinfo and UTC)).total_seconds()
    return float(wish)


def _header(text: str) -> float:
    """Return the seconds of a `Retry-After` header: a number, or a date."""
    try:
        return float(text)
    except ValueError:
        moment = parsedate_to_datetime(text)
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()


def _attribute(error: BaseException, name: str) -> Any:
    try:
        return getattr(error, name)
    except Exception:  # noqa: BLE001 - it may be a property of a handler's own class
        return None


def _described(error: BaseException) -> str:
    text = error_text(error)
    if isinstance(error, SkillfleetError):
        return text
    name = type(error).__name__
    if not isinstance(error, Exception):
        return f"the handler raised {name}({text})"
    return f"{name}: {text}" if text else name


def _listed(members: tuple[BaseException, ...]) -> str:
    """Return the members' messages, each cut to an equal share when they are too long together."""
    shown = [
        f"{error_code(member)}: {_described(member)}"
        if isinstance(member, SkillfleetError)
        else _described(member)
        for member in members[:_MOST_MEMBERS]
    ]
    if sum(map(len, shown)) > MOST_MESSAGE_CHARS:
        share = MOST_MESSAGE_CHARS // len(shown) - len("... (characters)") - 10
        shown = [_cut_at_word(text, share) for text in shown]
    if rest := len(members) - len(shown):
        shown.append(f"{rest} more")
    return f"{len(members)} errors: {'; '.join(shown)}"


def _cut_at_word(text: str, most: int) -> str:
    # Cut between words: half of a secret would not be found and redacted.
    words = text[: most + 1].rpartition(" ")[0] if len(text) > most else text
    return text if words == text else f"{words}... ({len(text)} characters)"
