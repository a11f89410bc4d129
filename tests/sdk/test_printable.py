"""Text of others made printable: nothing steers a terminal or hides, all else stays."""

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from skillfleet.printable import printable, printable_json, printable_line

ALL = "".join(map(chr, range(0x110000)))
JOINERS = {"\u200c", "\u200d"}


def test_no_control_and_no_mark_of_direction_is_left_of_all_of_unicode() -> None:
    left = set(printable(ALL))
    assert not {letter for letter in left if unicodedata.category(letter) in {"Cs", "Zl", "Zp"}}
    controls = {letter for letter in left if unicodedata.category(letter) == "Cc"}
    assert controls == {"\n", "\t"}
    directions = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert not {letter for letter in left if unicodedata.bidirectional(letter) in directions}
    assert not left & set("\u061c\u200b\u200e\u200f\u2060\ufeff\U000e0041")
    assert left >= JOINERS, "letters and emoji need them"


def test_letters_of_all_scripts_and_emoji_stay() -> None:
    for text in (
        "na\u00efve \u4e2d\u6587",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "a\nb\tc",
        "\\x1b[0m",
    ):
        assert printable(text) == text


def test_what_is_taken_out_is_visible() -> None:
    assert printable("\x1b[2J\r\x9b\u202e\ud800\U000e0041") == (
        "\\x1b[2J\\r\\x9b\\u202e\\ud800\\U000e0041"
    )
    assert printable_line("a\nb\tc\x07") == "a\\nb\\tc\\x07"


@given(st.text(st.characters(exclude_categories=[])))
def test_what_is_printable_can_be_written_and_stays_as_it_is(text: str) -> None:
    for make in (printable, printable_line):
        made = make(text)
        made.encode()
        assert make(made) == made
    assert "\n" not in printable_line(text)


@given(st.text())
def test_json_means_the_same_afterwards(text: str) -> None:
    made = printable_json(json.dumps([text], ensure_ascii=False))
    assert json.loads(made) == [text]
    assert printable(made) == made
