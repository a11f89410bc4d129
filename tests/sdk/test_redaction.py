"""Redaction: no secret comes through, whatever the text and however it is cut."""

import ast
import base64
import contextlib
import json
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from urllib.parse import quote, quote_plus

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillfleet.ports.secrets import SHORTEST
from skillfleet.redaction import HIDDEN, Redactor, SecretRegistry

LETTERS = 'abAB-1\n"\\ é'
secrets = st.text(LETTERS, min_size=SHORTEST, max_size=12).filter(lambda s: s not in HIDDEN)
noise = st.text(LETTERS + "[secret]", max_size=15)


def redactor(*values: str) -> Redactor:
    registry = SecretRegistry()
    for number, value in enumerate(values):
        registry.register(value, f"s{number}")
    return Redactor(tuple(f"s{number}" for number in range(len(values))), registry)


@st.composite
def cut_texts(draw: Any) -> tuple[list[str], list[str]]:
    """Secrets, and the pieces of a text that holds some of them."""
    values = draw(st.lists(secrets, min_size=1, max_size=3))
    parts = draw(st.lists(st.one_of(noise, st.sampled_from(values)), max_size=6))
    text = "".join(parts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    ends = [0, *cuts, len(text)]
    return values, [text[a:b] for a, b in pairwise(ends)]


def shown(redactor: Redactor, pieces: list[str], flushes: list[bool]) -> str:
    out = []
    for piece, flush in zip(pieces, flushes, strict=False):
        out.append(redactor.feed(piece))
        if flush:
            out.append(redactor.flush())
    return "".join([*out, redactor.flush()])


def lacks(text: str, value: str) -> bool:
    """True when the value stands nowhere in the text but across a placeholder by chance."""
    return all(value not in part for part in text.split(HIDDEN))


@given(cut_texts())
def test_no_secret_comes_through_in_one_piece(made: tuple[list[str], list[str]]) -> None:
    values, pieces = made
    text = redactor(*values).redact("".join(pieces))
    assert all(lacks(text, value) for value in values)


@given(cut_texts(), st.lists(st.booleans(), min_size=12, max_size=12))
def test_no_secret_comes_through_in_pieces_whenever_they_are_flushed(
    made: tuple[list[str], list[str]], flushes: list[bool]
) -> None:
    values, pieces = made
    text = shown(redactor(*values), pieces, flushes)
    assert all(lacks(text, value) for value in values)


@given(st.lists(noise, max_size=6), secrets, st.lists(st.booleans(), min_size=6, max_size=6))
def test_a_text_without_secrets_comes_through_as_it_is(
    pieces: list[str], value: str, flushes: list[bool]
) -> None:
    text = "".join(pieces)
    if any(text[at : at + 1] in value[:1] for at in range(len(text))) or HIDDEN in text:
        return
    assert shown(redactor(value), pieces, flushes) == text


@given(cut_texts())
def test_at_most_the_start_of_a_secret_is_kept(made: tuple[list[str], list[str]]) -> None:
    values, pieces = made
    one = redactor(*values)
    forms = [form for value in values for form in one._forms()]
    for piece in pieces:
        one.feed(piece)
        assert one._pending == "" or any(form.startswith(one._pending) for form in forms)


json_values = st.recursive(
    st.one_of(noise, st.integers(-(2**63), 2**63 - 1), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(noise, inner, max_size=3)),
)


def texts(value: Any) -> list[str]:
    match value:
        case str():
            return [value]
        case list():
            return [text for item in value for text in texts(item)]
        case dict():
            return [*value, *(text for item in value.values() for text in texts(item))]
    return []


@given(json_values, secrets, noise, noise)
def test_no_secret_comes_through_anywhere_in_a_json_value(
    value: Any, secret: str, before: str, after: str
) -> None:
    payload = {"a": [value, before + secret + after], before + secret: {"b": secret}}
    cleaned = orjson.loads(redactor(secret).redact_json(orjson.dumps(payload)))
    assert all(lacks(text, secret) for text in texts(cleaned))


def test_a_secret_in_two_text_deltas_is_hidden_as_one() -> None:
    one = redactor("sk-1234567890")
    assert one.feed("key: sk-12") == "key: "
    assert one.feed("34567890!") == f"{HIDDEN}!"


def test_what_only_began_like_a_secret_is_shown_in_the_end() -> None:
    one = redactor("sk-1234567890")
    assert one.feed("a task called sk-") == "a task called "
    assert one.flush() == "sk-"
    assert one.flush() == ""


def test_a_secret_that_goes_on_after_a_flush_is_still_recognised() -> None:
    one = redactor("sk-1234567890")
    said = one.feed("sk-") + one.flush() + one.feed("1234567890 ok")
    assert said == f"sk-{HIDDEN} ok"


def test_nearly_a_secret_is_hidden_at_the_end() -> None:
    one = redactor("sk-1234567890")
    assert one.feed("sk-123456789") == ""
    assert one.flush() == HIDDEN


def test_a_slow_writer_reveals_no_more_than_a_few_letters_of_a_secret() -> None:
    one = redactor("sk-1234567890")
    said = "".join(one.feed(letter) + one.flush(pausing=True) for letter in "<sk-1234567890>")
    assert said == f"<sk-{HIDDEN}>"


QUOTING: tuple[tuple[Callable[[str], str], Callable[[str], Any]], ...] = (
    (repr, ast.literal_eval),
    (json.dumps, json.loads),
    (lambda text: json.dumps(text, ensure_ascii=False), json.loads),
    (lambda text: repr(text.encode()), lambda text: ast.literal_eval(text).decode()),
)


@given(secrets, noise, noise, st.lists(st.sampled_from(QUOTING), min_size=1, max_size=2))
def test_no_secret_comes_through_in_what_python_and_json_quote(
    secret: str, before: str, after: str, ways: list[Any]
) -> None:
    reported = before + secret + after
    for quoted, _ in ways:
        reported = quoted(reported)
    reported = redactor(secret).redact(reported)
    # What was hidden may have taken a part of what quotes its neighbour along.
    with contextlib.suppress(SyntaxError, ValueError):
        for _, unquoted in reversed(ways):
            reported = unquoted(reported)
        assert lacks(reported, secret)


@pytest.mark.parametrize("way", QUOTING)
@pytest.mark.parametrize("other", QUOTING)
def test_a_key_of_several_lines_is_hidden_however_it_is_quoted(way: Any, other: Any) -> None:
    secret = '-----BEGIN-----\nit\'s "theirs" \\ é\n-----END-----'
    reported = redactor(secret).redact(other[0](way[0](f"key: {secret}!")))
    assert other[1](reported) == way[0](f"key: {HIDDEN}!")


def test_a_rotated_secret_is_hidden_in_both_its_values() -> None:
    registry = SecretRegistry()
    registry.register("old-value", "key")
    one = Redactor(("key",), registry)
    registry.register("new-value", "key")
    assert one.redact("old-value new-value") == f"{HIDDEN} {HIDDEN}"


def test_a_secret_is_hidden_as_json_and_in_a_url_too() -> None:
    one = redactor('p"ss wörd')
    assert one.redact('p\\"ss w\\u00f6rd') == HIDDEN
    assert one.redact("https://x/?k=p%22ss%20w%C3%B6rd") == f"https://x/?k={HIDDEN}"


def test_a_number_that_is_the_secret_is_hidden() -> None:
    assert redactor("12345678").redact_value({"pin": 12345678, "n": 1}) == {"pin": HIDDEN, "n": 1}


@given(
    st.text(min_size=1).filter(lambda value: len(value.encode()) >= 8 and len(value) >= SHORTEST),
    st.binary(max_size=9),
    st.binary(max_size=9),
    st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]),
)
def test_a_secret_is_hidden_in_base64_wherever_it_stands(
    value: str, before: bytes, after: bytes, encode: Callable[[bytes], bytes]
) -> None:
    text = encode(before + value.encode() + after).decode()
    reported = redactor(value).redact(text)
    assert HIDDEN in reported
    # Of the letters that the secret shares with its neighbours one may be left at each end.
    left = [part for part in reported.split(HIDDEN) if part]
    assert sum(map(len, left)) <= len(text) - (len(value.encode()) * 8 // 6 - 1)


@given(st.text(min_size=8, alphabet=LETTERS + "/~%&=世"))
def test_a_secret_is_hidden_however_a_url_is_quoted(value: str) -> None:
    for form in (quote(value), quote(value, safe=""), quote_plus(value), value.encode().hex()):
        for written in (form, re.sub("%..", lambda found: found[0].lower(), form)):
            assert redactor(value).redact(f"<{written}>") == f"<{HIDDEN}>"


def test_basic_authentication_reports_nothing() -> None:
    one = redactor("correct horse battery")
    header = base64.b64encode(b"ada:correct horse battery").decode()
    assert one.redact(f"Basic {header}") == f"Basic YWRhOm{HIDDEN}"
    pieces = [header[at : at + 3] for at in range(0, len(header), 3)]
    assert HIDDEN in shown(one, pieces, [False] * len(pieces))


def test_a_value_too_short_to_hide_is_left_alone() -> None:
    assert redactor("abc").redact("abc") == "abc"


@pytest.mark.parametrize("first", ["alg", "typ", "kid"])
def test_a_token_in_a_line_is_hidden_even_where_it_is_cut_off(first: str) -> None:
    head, claims = (
        base64.urlsafe_b64encode(json.dumps(part, separators=(",", ":")).encode()).decode()
        for part in ({first: "EdDSA-EdDSA"}, {"sub": "ada"})
    )
    head = head.rstrip("=")
    for token in (f"{head}.{claims.rstrip('=')}.c2lnbmVk-_", f"{head}.{claims[:6]}", head[:-2]):
        assert SecretRegistry().redact(f"{{'t': '{token}', 1}}") == f"{{'t': '{HIDDEN}', 1}}"
    assert SecretRegistry().redact("eyJpZCI6MX0") == "eyJpZCI6MX0", "no token"


def test_the_number_of_remembered_secrets_is_bounded() -> None:
    registry = SecretRegistry(max_secrets=10)
    for i in range(30):
        registry.register(f"secret-{i:05}")
    shown = [registry.redact(f"secret-{i:05}") for i in range(30)]
    assert shown == [f"secret-{i:05}" for i in range(20)] + [HIDDEN] * 10
    registry.register("ab")
    assert registry.redact("cab") == "cab", "too short to be hidden"


def test_as_many_secrets_are_hidden_as_a_worker_may_well_have() -> None:
    registry = SecretRegistry()
    for i in range(200):
        registry.register(f"secret-{i:05}/+?")
    assert {registry.redact(f"secret-{i:05}/+?") for i in range(200)} == {HIDDEN}


def test_a_secret_that_begins_with_another_is_hidden_whole() -> None:
    registry = SecretRegistry()
    registry.register("sk-1234")
    registry.register("sk-1234-5678")
    assert registry.redact("sk-1234-5678 sk-1234") == f"{HIDDEN} {HIDDEN}"
