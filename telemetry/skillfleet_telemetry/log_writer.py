"""A thread that writes log lines, so that a slow reader of the log delays no run.

Lines keep their order. They are written in batches: at most `_LINGER_SECONDS` after they were
logged, at once from WARNING on, and all of them before a fork and at the process's end.
"""

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_LINGER_SECONDS = 0.02
_MAX_CHARACTERS = 16 * 1024 * 1024
_WAIT_SECONDS = 0.5
"""The time that a full queue delays a caller before lines are dropped."""
_PAUSE_SECONDS = 0.005
_FLUSH_SECONDS = 5.0
_FORK_SECONDS = 1.0


class LineWriter:
    """A bounded queue of lines and the thread that writes them.

    `put` may be called from any thread, by one at a time; `flush` by any number.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._closed = self._held = False
        self.dropped = 0
        """Lines that did not fit into the queue since this was last set to 0."""
        self._reset()
        _writers.add(self)

    def _reset(self) -> None:
        self._lines: deque[str] = deque()
        self._put_characters = self._written_characters = 0
        self._stuck = False
        self._wake, self._hurry = threading.Event(), threading.Event()
        # Reentrant: a signal handler may log while its thread writes.
        self._writing = threading.RLock()
        self._thread: threading.Thread | None = None

    def put(self, line: str, *, hurry: bool = False) -> None:
        """Queue a line, newline included; write it here and now after `close`."""
        if self._waiting_characters > _MAX_CHARACTERS and not self._has_room():
            self.dropped += 1
            return
        self._put_characters += len(line)
        self._lines.append(line)
        if self._closed:
            self.flush()
            return
        if self._thread is None:
            self._start()
        if not self._wake.is_set():
            self._wake.set()
        if hurry:
            self._hurry.set()

    def flush(self, timeout: float = _FLUSH_SECONDS) -> None:
        """Write what is queued, in this thread; give up when another cannot finish its write."""
        if self._writing.acquire(timeout=timeout):
            try:
                self._drain()
            finally:
                self._writing.release()

    def close(self) -> None:
        """Write what is queued; later lines are written by those who log them."""
        self._closed = True
        self.flush()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="skillfleet-log", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The interpreter ends, or the system has no thread left.
            self.flush()
        else:
            self._thread = thread

    def _run(self) -> None:
        wake, hurry = self._wake, self._hurry
        while not self._closed:
            wake.wait()
            hurry.wait(_LINGER_SECONDS)
            wake.clear()
            hurry.clear()
            with self._writing:
                self._drain()

    def _drain(self) -> None:
        while lines := len(self._lines):
            text = "".join([self._lines.popleft() for _ in range(lines)])
            # A stream that is gone or full: nothing here can report it.
            with suppress(Exception):
                self._stream.write(text)
                self._stream.flush()
            self._written_characters += len(text)

    @property
    def _waiting_characters(self) -> int:
        return self._put_characters - self._written_characters

    def _has_room(self) -> bool:
        """Wait a moment for room, unless the reader has stood still before."""
        give_up_at = time.monotonic() + (0 if self._stuck else _WAIT_SECONDS)
        while self._waiting_characters > _MAX_CHARACTERS:
            if time.monotonic() >= give_up_at:
                self._stuck = True
                return False
            time.sleep(_PAUSE_SECONDS)
        self._stuck = False
        return True

    def before_fork(self) -> None:
        """Write what is queued, which a child must not write again, and begin no other write."""
        self._held = self._writing.acquire(timeout=_FORK_SECONDS)
        if self._held:
            self._drain()

    def after_fork_in_parent(self) -> None:
        """Allow writes again."""
        if self._held:
            self._writing.release()

    def after_fork_in_child(self) -> None:
        """Write each line where it is logged: the child has no thread, and may end any time."""
        self._reset()
        self._closed = True


_writers: weakref.WeakSet[LineWriter] = weakref.WeakSet()


def _each(what: Callable[[LineWriter], None]) -> Callable[[], None]:
    def call() -> None:
        for writer in list(_writers):
            what(writer)

    return call


os.register_at_fork(
    before=_each(LineWriter.before_fork),
    after_in_parent=_each(LineWriter.after_fork_in_parent),
    after_in_child=_each(LineWriter.after_fork_in_child),
)


class LineHandler(logging.Handler):
    """A handler that writes lines to a stream and never raises where something is logged."""

    def __init__(self, stream: Any, *, background: bool) -> None:
        super().__init__()
        self.stream = stream
        self._writer = LineWriter(stream) if background else None

    def emit(self, record: logging.LogRecord) -> None:
        """Write or queue the line."""
        # Nothing can be left to catch but the end of the stack, which logging itself raises.
        with suppress(Exception):
            line = self.format(record) + "\n"
            if self._writer is None:
                self.stream.write(line)
                self.stream.flush()
                return
            self._writer.put(line, hurry=record.levelno >= logging.WARNING)
            if self._writer.dropped:
                self._report_dropped(self._writer)

    def _report_dropped(self, writer: LineWriter) -> None:
        dropped, writer.dropped = writer.dropped, 0
        message = "%d log lines were dropped: the log's reader does not keep up"
        report = logging.LogRecord(
            __name__, logging.ERROR, __file__, 0, message, (dropped,), exc_info=None
        )
        writer.put(self.format(report) + "\n", hurry=True)
        if writer.dropped:
            # There is no room for the report either.
            writer.dropped = dropped

    def flush(self) -> None:
        """Write what is queued."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Write what is queued, and from now on each line where it is logged."""
        if self._writer is not None:
            self._writer.close()
        super().close()
