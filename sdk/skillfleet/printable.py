"""Foreign text made safe to print: control and invisible characters become visible escapes."""

import re

# Terminal controls (C0 without newline and tab, DEL, C1), characters that change the direction of
# text or have no width (joiners of letters and emoji stay), line separators, and halves of
# surrogate pairs, which no encoding can write.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_LINES = re.compile("[\t\n]")
_SHORT = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}


def printable(text: str) -> str:
    """Return the text with visible escapes for characters that must not reach a terminal.

    Newlines and tabs stay; use `printable_line` for a single line.
    """
    if text.isascii() and text.isprintable():
        return text
    return _HIDDEN.sub(_visible, text)


def printable_line(text: str) -> str:
    """Return the text as one printable line, with escapes for newlines and tabs as well."""
    if text.isascii() and text.isprintable():
        return text
    return _LINES.sub(_visible, _HIDDEN.sub(_visible, text))


def printable_json(text: str) -> str:
    """Return JSON with visible escapes; its strings keep their values."""
    if text.isascii() and "\x7f" not in text:
        return text
    return _HIDDEN.sub(_json_escape, text)


def _visible(found: re.Match[str]) -> str:
    letter = found[0]
    code = ord(letter)
    if letter in _SHORT:
        return _SHORT[letter]
    if code > 0xFFFF:  # noqa: PLR2004 - the last code of four digits
        return f"\\U{code:08x}"
    return f"\\u{code:04x}" if code > 0xFF else f"\\x{code:02x}"  # noqa: PLR2004 - as above, two


def _json_escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
