"""The watchdog reports a blocked loop, and only that."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from skillfleet_engine.loop import bridge
from skillfleet_engine.loop.watchdog import BlockedLog, BlockedReport, LoopWatchdog, loop_blocked
from tests.support.waiting import wait_until


@contextmanager
def watched(
    receiver: Callable[[BlockedReport], object], blocked_after: float = 1.0
) -> Iterator[LoopWatchdog]:
    """Watch the running loop; `receiver` gets the reports."""
    loop = asyncio.get_running_loop()
    watchdog = LoopWatchdog(loop, threading.get_ident(), blocked_after=blocked_after)

    def receive(report: BlockedReport, **_: Any) -> None:
        receiver(report)

    loop_blocked.connect(receive, sender=watchdog, weak=False)
    watchdog.start()
    try:
        yield watchdog
    finally:
        watchdog.stop()
        loop_blocked.disconnect(receive, sender=watchdog)


async def test_a_blocked_loop_is_reported_repeatedly_and_a_running_one_is_not() -> None:
    reports: list[BlockedReport] = []
    with watched(reports.append) as watchdog:
        watchdog.name_tasks_by(lambda: "task-1")
        for _ in range(3):
            await next_turn(watchdog)
        assert reports == []
        block_until(lambda: len(reports) >= 2)
        assert watchdog.blocked_seconds >= 2.0
        assert reports[0].seconds >= 1.0
        assert reports[1].seconds >= reports[0].seconds + 0.9
        assert reports[0].task_id == "task-1"
        assert "block_until" in reports[0].stack
        await next_turn(watchdog)
        assert watchdog.lag_last >= 0.9
        assert watchdog.reset_max() >= 0.9
        assert watchdog.lag_max == 0.0


async def next_turn(watchdog: LoopWatchdog) -> None:
    turned = watchdog.last_turn
    while watchdog.last_turn == turned:  # noqa: ASYNC110 - it offers no event
        await asyncio.sleep(0.05)


def block_until(condition: Callable[[], bool]) -> None:
    wait_until(condition)


async def test_the_task_is_named_by_the_last_source_that_knows_it() -> None:
    names: list[str | None] = [None, "outer"]
    with watched(lambda _: None) as watchdog:
        assert watchdog.executing() is None
        watchdog.name_tasks_by(lambda: names[1])
        watchdog.name_tasks_by(lambda: names[0])
        assert watchdog.executing() == "outer"
        names[0] = "inner"
        assert watchdog.executing() == "inner"


def test_a_blocked_loop_is_logged_once_within_the_interval(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = BlockedLog(every=600)
    with caplog.at_level(logging.ERROR):
        log(BlockedReport(1.5, "task-1", "the stack"))
        log(BlockedReport(2.5, "task-1", "the stack"))
    (record,) = caplog.records
    assert "blocked for 1.5 s by task task-1" in record.getMessage()
    assert "the stack" in record.getMessage()


async def test_a_failing_receiver_does_not_end_the_watchdog(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[BlockedReport] = []

    def fail(report: BlockedReport) -> None:
        calls.append(report)
        raise LookupError("receiver")

    with watched(fail, blocked_after=0.3):
        end = time.monotonic() + 20
        while len(calls) < 2 and time.monotonic() < end:
            time.sleep(0.05)  # noqa: ASYNC251 - blocking is the point
    assert len(calls) >= 2
    assert "receiver" in caplog.text


def test_the_home_loop_has_one_watchdog_also_without_the_loop_pool() -> None:
    watchdog = bridge.home_watchdog(0)
    assert bridge.home_watchdog(0) is watchdog
    turned = watchdog.last_turn
    wait_until(lambda: watchdog.last_turn > turned, 20, "a sign of life of the home loop")
