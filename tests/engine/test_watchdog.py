"""The watchdog sees a loop that stands still, and only that."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable

import pytest

from skillfleet_engine.loop.watchdog import BlockedLog, BlockedReport, Watchdog
from tests.support.waiting import wait_until


def watch(loop: asyncio.AbstractEventLoop, reports: list[BlockedReport]) -> Watchdog:
    return Watchdog(
        loop,
        threading.get_ident(),
        blocked_after=1.0,
        on_blocked=reports.append,
        executing=lambda: "task-1",
    )


async def test_a_blocked_loop_is_reported_again_and_again_and_a_turning_one_is_not() -> None:
    reports: list[BlockedReport] = []
    watchdog = watch(asyncio.get_running_loop(), reports)
    watchdog.start()
    try:
        for _ in range(3):
            await next_turn(watchdog)
        assert reports == []
        stand_still_until(lambda: len(reports) >= 2)
        assert reports[0].seconds >= 1.0
        assert reports[1].seconds >= reports[0].seconds + 0.9
        assert reports[0].task_id == "task-1"
        assert "stand_still_until" in reports[0].stack
        await next_turn(watchdog)
        assert watchdog.lag_last >= 0.9
        assert watchdog.reset_max() >= 0.9
        assert watchdog.lag_max == 0.0
    finally:
        watchdog.stop()


async def next_turn(watchdog: Watchdog) -> None:
    turned = watchdog.last_turn
    while watchdog.last_turn == turned:  # noqa: ASYNC110 - it offers no event
        await asyncio.sleep(0.05)


def stand_still_until(condition: Callable[[], bool]) -> None:
    wait_until(condition)


def test_the_log_tells_of_a_blocked_loop_once_in_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = BlockedLog(every=600)
    with caplog.at_level(logging.ERROR):
        log(BlockedReport(1.5, "task-1", "the stack"))
        log(BlockedReport(2.5, "task-1", "the stack"))
    (record,) = caplog.records
    assert "1.5 s: task task-1 blocks it" in record.getMessage()
    assert "the stack" in record.getMessage()


async def test_a_failing_hook_does_not_end_the_watchdog(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[BlockedReport] = []

    def fail(report: BlockedReport) -> None:
        calls.append(report)
        raise LookupError("hook")

    watchdog = Watchdog(
        asyncio.get_running_loop(),
        threading.get_ident(),
        blocked_after=0.3,
        on_blocked=fail,
        executing=lambda: None,
    )
    watchdog.start()
    try:
        end = time.monotonic() + 20
        while len(calls) < 2 and time.monotonic() < end:
            time.sleep(0.05)  # noqa: ASYNC251 - blocking is the point
    finally:
        watchdog.stop()
    assert len(calls) >= 2
    assert "hook" in caplog.text
