"""Text of a step whose worker died: a terminal is redrawn without it, a pipe gets a marker."""

import os
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillfleet.contracts import RunEvent
from skillfleet_cli.output import write_text
from skillfleet_cli.transcript import Transcript, rows_of
from skillfleet_cli.view import PlainView
from tests.cli.screen import Screen

AT = datetime(2026, 1, 1, tzinfo=UTC)


def event(number: int, kind: str, step: str | None = None, **payload: Any) -> RunEvent:
    return RunEvent(id=f"{number}-0", kind=kind, payload=payload, attempt=1, at=AT, step=step)


def delta(number: int, text: str, step: str | None = None) -> RunEvent:
    return event(number, "text_delta", step, text=text)


def superseded(number: int, step: Any = "draft") -> RunEvent:
    payload = {"step": step}
    return RunEvent(id=f"{number}-0", kind="superseded", payload=payload, attempt=2, at=AT)


def shown(capsys: pytest.CaptureFixture[str], *events: RunEvent) -> list[str]:
    """Show events on a terminal of 40 by 10, each text as it is; the lines on its screen."""
    transcript = Transcript(terminal=True)
    for each in events:
        if each.kind != "superseded":
            write(transcript, each.payload["text"], each)
        elif not transcript.supersede(each):
            write(transcript, f"[void: {each.payload['step']}]\n")
    return Screen().write(capsys.readouterr().out).lines


def write(transcript: Transcript, text: str, of: RunEvent | None = None) -> None:
    def show(in_line: bool) -> str:
        del in_line
        return write_text(text)

    transcript.put(show, of)


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_, **__: os.terminal_size((40, 10)))


Captured = pytest.CaptureFixture[str]


def test_void_text_is_erased_and_other_text_stays(capsys: Captured) -> None:
    assert shown(
        capsys,
        delta(1, "Title\n"),
        delta(2, "Intro. "),
        delta(3, "A first\nattempt", "draft"),
        delta(4, " beside", "other"),
        superseded(5),
        delta(6, " and a second", "draft"),
    ) == ["Title", "Intro.  beside and a second"]


def test_text_that_wraps_is_erased_as_a_whole(capsys: Captured) -> None:
    lines = shown(
        capsys,
        delta(1, "Title\n"),
        delta(2, "x" * 95, "draft"),
        delta(3, "界" * 30, "draft"),
        superseded(4),
        delta(5, "good", "draft"),
    )
    assert lines == ["Title", "good"]


def test_a_step_that_starts_a_third_time_is_erased_each_time(capsys: Captured) -> None:
    lines = shown(
        capsys,
        delta(1, "one\n", "draft"),
        superseded(2),
        delta(3, "two\n", "draft"),
        superseded(4),
        delta(5, "three\n", "draft"),
    )
    assert lines == ["three"]


def test_text_that_has_left_the_screen_gets_a_marker(capsys: Captured) -> None:
    long = "".join(f"{number}\n" for number in range(12))
    lines = shown(capsys, delta(1, long, "draft"), superseded(2), delta(3, "good", "draft"))
    assert lines == [*long.split(), "[void: draft]", "good"]


def test_an_empty_piece_is_no_void_text(capsys: Captured) -> None:
    lines = shown(
        capsys,
        delta(1, "", "draft"),
        delta(2, "bad", "draft"),
        superseded(3),
        delta(4, "", "other"),
        superseded(5, "other"),
        delta(6, "good"),
    )
    assert lines == ["good"]


def test_text_that_was_never_shown_needs_no_marker(capsys: Captured) -> None:
    """A reader that resumed after the void events."""
    assert shown(capsys, superseded(5), delta(6, "good", "draft")) == ["good"]


def test_an_unreadable_payload_changes_nothing(capsys: Captured) -> None:
    assert shown(capsys, delta(1, "kept", "draft"), superseded(3, ["draft"])) == ["kept"]


texts = st.text(st.sampled_from("ab\n\t界é"), max_size=60)


@settings(max_examples=200, deadline=None)
@given(st.lists(texts, max_size=8))
def test_the_rows_of_a_text_are_those_of_a_terminal(pieces: list[str]) -> None:
    screen = Screen(width=10, height=1000)
    screen.write("".join(pieces).replace("\t", ""))
    assert rows_of((piece.replace("\t", "") for piece in pieces), 10) == screen.row


def test_a_followed_run_is_redrawn_with_its_lines(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text and lines are on two streams, and both on the terminal."""
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    view = PlainView(redraws=True)
    view.start("a-run")
    for each in (
        delta(1, "Intro"),
        event(2, "progress", "draft", message="drafting"),
        delta(3, "bad", "draft"),
        superseded(4),
        delta(5, ", good"),
    ):
        view.show(each)
    view.close()
    assert Screen().write(capsys.readouterr().out).lines == ["run a-run", "Intro, good"]


def test_a_pipe_gets_a_marker_after_the_void_text_and_none_without_it(capsys: Captured) -> None:
    view = PlainView()
    for each in (
        delta(1, "Intro. "),
        delta(2, "bad", "draft"),
        superseded(3),
        event(4, "progress", "other", message="no text"),
        superseded(5, "other"),
        delta(6, "good", "draft"),
    ):
        view.show(each)
    view.close()
    assert capsys.readouterr().out == (
        "Intro. bad\n[superseded: the events so far of step draft are void]\ngood\n"
    )
