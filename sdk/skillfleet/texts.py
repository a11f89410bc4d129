"""Conversion of a skill's values to text that every process can write, read and store."""

from enum import Enum
from typing import Any, Final

MOST_CODE_CHARS: Final = 200
MOST_MESSAGE_CHARS: Final = 16 * 1024
"""The longest message of an outcome: record, final event and result all hold it."""


def plain_text(value: Any) -> str:
    """Return `value` as text without lone surrogates; raises what its own methods raise.

    None becomes the empty string, bytes are decoded as UTF-8, and an Enum becomes its value.
    """
    if isinstance(value, Enum):
        value = value.value
    if value is None:
        return ""
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode(errors="backslashreplace")
    text = str.__str__(value) if isinstance(value, str) else str(value)
    return str.encode(text, errors="backslashreplace").decode()


def code_text(value: Any) -> str:
    """Return `value` as a code; empty for a value that is not a string, or too long."""
    try:
        text = plain_text(value).strip()
    except Exception:  # noqa: BLE001 - a handler's own object may do anything
        return ""
    return text if len(text) <= MOST_CODE_CHARS else ""


def shortened_text(text: str, most: int = MOST_MESSAGE_CHARS) -> str:
    """Return at most `most` characters of a text; a cut text ends with its full length."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"
