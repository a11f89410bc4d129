"""Parser for the options that select runs: tags and times."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from skillfleet_cli.exits import CommandError

_SPAN = re.compile(r"(\d{1,9})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_tags(pairs: Sequence[str]) -> dict[str, str]:
    """Parse tags of the form `key=value`; raises CommandError."""
    tags: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key or not value:
            raise CommandError(f"--tag {pair!r} must be key=value")
        if tags.setdefault(key, value) != value:
            raise CommandError(f"--tag {key!r} is given twice, with different values")
    return tags


def parse_since(text: str) -> datetime | timedelta:
    """Parse a time span (`90s`, `30m`, `1h`, `7d`) or a time in ISO 8601; raises CommandError.

    A time without a zone is local.
    """
    try:
        if match := _SPAN.fullmatch(text):
            span = timedelta(**{_UNITS[match[2]]: int(match[1])})
            # No run is as old as a span that reaches beyond the first year.
            return min(span, datetime.now(UTC) - datetime.min.replace(tzinfo=UTC))
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo is not None else moment.astimezone()
    except (ValueError, OverflowError):
        raise CommandError(
            f"--since {text!r} must be a span such as 90s, 30m, 1h or 7d, or a time such as"
            " 2026-01-31T12:00"
        ) from None
