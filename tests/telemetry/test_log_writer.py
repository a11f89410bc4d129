"""The thread that writes log lines: order, slow readers, and every kind of exit."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from skillfleet_telemetry import log_writer
from skillfleet_telemetry.log_writer import LineHandler, LineWriter
from tests.support.waiting import wait_until

LINES = 300


class Reader(io.StringIO):
    """A stream whose reader may stop reading."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = threading.Event()
        self.reads.set()
        self.writes = 0

    def write(self, text: str) -> int:
        self.reads.wait(10)
        self.writes += 1
        return super().write(text)


@pytest.fixture
def reader() -> Iterator[Reader]:
    stream = Reader()
    yield stream
    stream.reads.set()


def numbers(text: str) -> list[int]:
    return [int(line) for line in text.splitlines()]


def test_lines_keep_their_order_and_are_written_in_batches(reader: Reader) -> None:
    writer = LineWriter(reader)
    for number in range(10_000):
        writer.put(f"{number}\n")
    wait_until(lambda: reader.getvalue().count("\n") == 10_000, what="all lines")
    assert numbers(reader.getvalue()) == list(range(10_000))
    assert reader.writes < 1000


def test_a_stopped_reader_delays_no_caller(reader: Reader) -> None:
    writer = LineWriter(reader)
    reader.reads.clear()
    began = time.monotonic()
    for number in range(1000):
        writer.put(f"{number}\n")
    assert time.monotonic() - began < 1
    reader.reads.set()
    writer.flush()
    assert numbers(reader.getvalue()) == list(range(1000))


def test_what_does_not_fit_is_counted_and_reported_when_there_is_room(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "_MAX_CHARACTERS", 1000)
    monkeypatch.setattr(log_writer, "_WAIT_SECONDS", 0.05)
    handler = LineHandler(reader, background=True)
    reader.reads.clear()
    began = time.monotonic()
    for number in range(500):
        handler.handle(logging.LogRecord("n", logging.INFO, "", 0, "%d", (number,), None))
    assert time.monotonic() - began < 5, "only the first line waits"
    reader.reads.set()
    handler.flush()
    handler.handle(logging.LogRecord("n", logging.INFO, "", 0, "%d", (500,), None))
    handler.flush()
    *written, report = reader.getvalue().splitlines()
    kept = [int(line) for line in written]
    assert kept == sorted(kept)
    assert kept[-1] == 500
    dropped = 501 - len(kept)
    assert dropped > 0
    assert report == f"{dropped} log lines were dropped: the log's reader does not keep up"


def test_a_closed_handler_writes_each_line_where_it_is_logged(reader: Reader) -> None:
    handler = LineHandler(reader, background=True)
    handler.close()
    handler.handle(logging.LogRecord("n", logging.INFO, "", 0, "late", (), None))
    assert reader.getvalue() == "late\n"


def test_a_stream_that_fails_raises_nothing_where_something_is_logged() -> None:
    for background in (True, False):
        stream = io.StringIO()
        stream.close()
        handler = LineHandler(stream, background=background)
        handler.handle(logging.LogRecord("n", logging.INFO, "", 0, "lost", (), None))
        handler.close()


BEGINS = """
import logging, os, signal, sys, threading, time
from skillfleet_telemetry import logs
logs.configure("INFO", "json", background=True)
mine = logging.getLogger("mine")
for number in range(300):
    mine.info(number)
"""

ENDS = {
    "the end of the program": "",
    "sys.exit": "sys.exit(3)",
    "an error": "raise ValueError('x')",
    "logging.shutdown and os._exit": "logging.shutdown(); os._exit(70)",
    "a fork whose child logs and leaves at once": """
if os.fork() == 0:
    mine.info(300)
    os._exit(0)
os.wait()
""",
}


@pytest.mark.parametrize("end", ENDS)
def test_no_line_is_lost_or_written_twice_at(end: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BEGINS + ENDS[end]], capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    expected = LINES + ("fork" in end)
    assert [line["event"] for line in lines] == [str(number) for number in range(expected)]


def test_a_line_is_written_soon_after_it_was_logged() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BEGINS + "time.sleep(60)"], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        for number in range(LINES):
            assert json.loads(process.stderr.readline())["event"] == str(number)
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def test_a_child_that_was_forked_while_lines_are_written_can_log(tmp_path: Path) -> None:
    """The lock of the parent's writing thread must not stay locked in the child."""
    script = """
stop = threading.Event()
def chatter():
    while not stop.is_set():
        mine.warning("chatter")
threading.Thread(target=chatter, daemon=True).start()
for number in range(30):
    pid = os.fork()
    if pid == 0:
        mine.info("child")
        os._exit(0)
    os.waitpid(pid, 0)
stop.set()
"""
    log = tmp_path / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen([sys.executable, "-c", BEGINS + script], stderr=stderr)
        try:
            assert process.wait(60) == 0
        finally:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert sum(line["event"] == "child" for line in lines) == 30
