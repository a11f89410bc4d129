"""Flower in a real browser, on a real worker.

`SCREENSHOTS=docs/images pytest tests/telemetry/test_flower.py` renews the pictures of
docs/flower.md.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from skillfleet.contracts import RunState
from skillfleet_producer import Fleet
from tests.support.fleet import ROOT, FleetWorker
from tests.support.ports import free_port
from tests.support.valkey import ValkeyServer, running_server
from tests.support.waiting import wait_until, wait_until_async
from tests.telemetry.browser import Page, chromium, tab

MODULES = "tests.telemetry.observed,examples.librarian"
DURABLE = "tests.worker.durable_skills"
USER, PASSWORD = "ann", "correct horse"


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def notes() -> Iterator[Path]:
    """Yield a folder with one file; its name is short because screenshots show it."""
    with tempfile.TemporaryDirectory(prefix="notes-") as folder:
        (Path(folder) / "whales.txt").write_text("TODO: count whales\n")
        yield Path(folder)


@pytest.fixture
def flower(server: ValkeyServer) -> Iterator[str]:
    """Yield the address of a Flower that asks for a password."""
    port = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "celery", "-b", server.url, "flower"),
            *("--address=127.0.0.1", f"--port={port}", f"--basic-auth={USER}:{PASSWORD}"),
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _status(f"{address}/healthcheck") == 200, 60, "Flower")
        yield address
    finally:
        process.kill()
        process.wait()


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


async def shoot(page: Page, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        await page.screenshot(Path(folder) / f"flower-{name}.png")


async def open_until(page: Page, url: str, *texts: str) -> None:
    """Reload a page until it shows all the texts: not every page refreshes itself."""

    async def shown() -> bool:
        await page.open(url)
        shows = [f"document.body.innerText.includes({json.dumps(text)})" for text in texts]
        try:
            await page.wait_for(" && ".join(shows), timeout=3)
        except AssertionError:
            return False
        return True

    await wait_until_async(shown, 40, f"{texts} on {url}")


async def test_the_tasks_page_lists_runs_and_the_button_of_a_run_cancels_it(
    server: ValkeyServer, flower: str, notes: Path
) -> None:
    with (
        chromium() as devtools,
        FleetWorker(server, MODULES, concurrency=50, options=("-n", "celery@%h")),
        Fleet(server.producer_url) as fleet,
    ):
        async with tab(devtools) as page:
            await page.log_in(USER, PASSWORD)
            survey = fleet.enqueue("librarian.survey", {"folder": str(notes), "top": 3})
            survey.result(timeout=60)
            waiting = fleet.enqueue("watched.waits")
            wait_until(lambda: waiting.status().events > 1, what="the run to wait")
            await open_until(page, f"{flower}/workers", "celery@", "Online")
            await shoot(page, "workers")
            await open_until(
                page, f"{flower}/tasks", "librarian.survey", "librarian.read_file", "watched.waits"
            )
            await shoot(page, "tasks")
            await open_until(
                page,
                f"{flower}/task/{survey.id}",
                "SUCCESS",
                f"'folder': '{notes}'",
                "'files': 1",
                f"trace_id={survey.status().trace_id}",
            )
            await shoot(page, "task")
            await open_until(page, f"{flower}/task/{waiting.id}", "STARTED")
            await page.click("#task-terminate")
            wait_until(lambda: waiting.status().finished_at, what="the end of the run")
            status = waiting.status()
            assert status.state is RunState.CANCELLED
            assert status.message == "revoked through Celery"
            await open_until(page, f"{flower}/task/{waiting.id}", "REVOKED")
            await shoot(page, "cancelled")


async def test_the_tasks_page_shows_a_waiting_run_and_its_end_under_one_id(
    server: ValkeyServer, flower: str, notes: Path
) -> None:
    with (
        chromium() as devtools,
        FleetWorker(server, DURABLE, concurrency=50, options=("-n", "celery@%h"), park_seconds=0.1),
        Fleet(server.producer_url) as fleet,
    ):
        async with tab(devtools) as page:
            await page.log_in(USER, PASSWORD)
            await open_until(page, f"{flower}/workers", "celery@", "Online")
            resumed, waiting = (fleet.enqueue("durable.asks", {}) for _ in range(2))
            both = (resumed, waiting)
            wait_until(lambda: all(run.status().parked for run in both), what="parked runs")
            resumed.answer({"approved": True, "by": "ann"})
            assert resumed.result(timeout=60) == "True by ann"
            tasks = f"{flower}/tasks"
            await open_until(page, tasks, resumed.id, waiting.id, "SUCCESS", "RETRY")
            text = await page.text()
            assert [text.count(run.id) for run in both] == [1, 1]
            await shoot(page, "resumed")
            await open_until(page, f"{flower}/task/{waiting.id}", "RETRY", "waits for an answer")
            # Down to the row with what it waits for; below it is a traceback with local paths.
            await page.read("window.scrollTo({top: 200, behavior: 'instant'})")
            await shoot(page, "waiting")
            waiting.cancel()


async def test_the_worker_page_shows_the_pool_and_its_concurrency(
    server: ValkeyServer, flower: str
) -> None:
    named = ("-n", "celery@%h")
    with chromium() as devtools, FleetWorker(server, MODULES, concurrency=50, options=named):
        async with tab(devtools) as page:
            await page.log_in(USER, PASSWORD)
            host = socket.gethostname()
            await open_until(page, f"{flower}/worker/celery@{host}", "LoopPool", "50")
            await shoot(page, "worker")


def test_without_a_password_only_metrics_and_the_health_check_answer(flower: str) -> None:
    assert _status(f"{flower}/tasks") == 401
    assert _status(f"{flower}/api/tasks") == 401
    # docs/flower.md therefore says how to close these two as well.
    assert _status(f"{flower}/metrics") == 200
    assert _status(f"{flower}/healthcheck") == 200
