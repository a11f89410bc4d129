"""Readers of any error for a runtime: its code, message, retry policy and time to wait.

A skill's errors are code of others: attributes of any type, properties and `__str__` that
raise, groups in groups. What these functions return can always be written and read.
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
    """The error that ended a run, as its caller sees it.

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
    """The errors that a group holds, however deep, each once; the error itself if it is none."""
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
    """Return True if the error only reports the cancellation of its run; a group: if each does."""
    return all(isinstance(leaf, CancelledByCaller) for leaf in leaves(error))


def is_overdue(error: BaseException, deadline: datetime | None, remaining: float | None) -> bool:
    """Return whether a run whose handler ended with `error` ended because of its deadline.

    `deadline` is the run's, `remaining` the seconds up to it by the clock of who asks. A run
    that it called has the same deadline, and may see it pass a moment earlier.
    """
    if deadline is None or remaining is None:
        return False
    return remaining <= 0 or any(
        isinstance(leaf, RunTimedOut) and leaf.deadline is not None and leaf.deadline >= deadline
        for leaf in leaves(error)
    )


def error_code(error: BaseException) -> str:
    """The error's code: text of bounded length, `skill_error` where there is none."""
    code = _attribute(error, "code") if isinstance(error, SkillfleetError) else None
    return code_text(code) or str(ReasonCode.SKILL_ERROR)


def error_text(error: BaseException) -> str:
    """Return the error's message without lone surrogates, whatever its own `__str__` does.

    Of bounded length, but longer than a message may be (`shortened_text`), so that secrets
    can be hidden in it before it is cut.
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
    """The seconds to wait that the error asks for, at most ten years; None if it says no time.

    Understands numbers, timedelta, dates, and the text of an HTTP `Retry-After` header. What a
    group asks for is the longest time of its members.
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
    """NaN or an error for what says no time."""
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
    """The seconds that a `Retry-After` header says: a number, or a date."""
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
    """The members' messages; where they are too long together, as much of each."""
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
    # Between words: half a secret would not be found, and not be hidden.
    words = text[: most + 1].rpartition(" ")[0] if len(text) > most else text
    return text if words == text else f"{words}... ({len(text)} characters)"
