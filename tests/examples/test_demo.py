"""`make demo`'s program as a process: a real fleet, real folders, nothing left behind."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.examples.demo_process import PREFIX, Demo
from tests.support.waiting import wait_until

StartDemo = Callable[..., Demo]
FILES = 2000
IN_FLIGHT = 300

pytestmark = [
    # Two demos at once are slower than one after the other.
    pytest.mark.xdist_group("demo"),
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc"),
]


@pytest.fixture
def start_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartDemo]:
    """Starts the demo on a folder; it is gone at the end of the test."""
    started: list[Demo] = []

    def start(folder: Path, **environment: str) -> Demo:
        started.append(Demo(folder, tmp_path_factory.mktemp("demo"), **environment))
        return started[-1]

    try:
        yield start
    finally:
        for demo in started:
            demo.kill()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 2,000 text files with 0 to 49 lines each, in 40 folders."""
    folder = tmp_path_factory.mktemp("large")
    for number in range(FILES):
        path = folder / f"part {number % 40}" / f"{number}.{('py', 'md', 'txt')[number % 3]}"
        path.parent.mkdir(exist_ok=True)
        path.write_text("a line\n" * (number % 50))
    return folder


def test_the_demo_surveys_a_folder_saves_the_artifacts_and_leaves_nothing_running(
    start_demo: StartDemo, library: Path
) -> None:
    demo = start_demo(library)
    demo.server("worker")
    ended = demo.end()
    assert ended.status == 0, ended.output
    assert (ended.survey.files, ended.survey.lines) == (5, 15)
    assert ended.report in ended.output
    for row in ("state      │ succeeded", "attempts   │ 1", "child runs │ 5"):
        assert row in ended.output
    assert f"artifact   │ {ended.out}" in ended.output


def test_two_thousand_files_are_read_by_as_many_runs_three_hundred_of_them_at_once(
    start_demo: StartDemo, large: Path
) -> None:
    demo = start_demo(large)

    with demo.ledger() as ledger:

        def many_in_flight() -> bool:
            indexes = ("ready:celery:0", "leases")
            unfinished = sum(int(ledger.zcard(f"{PREFIX}{index}")) for index in indexes)
            return unfinished - 1 >= IN_FLIGHT  # the survey itself is no child

        wait_until(many_in_flight, 40, f"{IN_FLIGHT} child runs in flight")
    ended = demo.end()
    assert ended.status == 0, ended.output
    assert f"child runs │ {FILES:,}" in ended.output
    paths = [path for path in large.rglob("*") if path.is_file()]
    assert ended.survey.files == len(paths) == FILES
    assert ended.survey.lines == sum(len(path.read_text().splitlines()) for path in paths)
    assert ended.survey.size_bytes == sum(path.stat().st_size for path in paths)
    counted = {language.name: language.files for language in ended.survey.languages}
    assert counted == {
        name: len(list(large.rglob(f"*.{extension}")))
        for name, extension in {"Python": "py", "Markdown": "md", "Text": "txt"}.items()
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_cancels_the_run_on_the_fleet_and_stops_everything(
    start_demo: StartDemo, large: Path, number: signal.Signals
) -> None:
    demo = start_demo(large)
    demo.server("worker")
    demo.wait_output("reading files: ")
    demo.process.send_signal(number)
    ended = demo.end()
    assert ended.status == 130, ended.output
    assert "state      │ cancelled: interrupted from the keyboard" in ended.output


def test_ctrl_c_while_the_worker_starts_cancels_the_run_that_waits(
    start_demo: StartDemo, library: Path
) -> None:
    demo = start_demo(library)
    demo.wait_output("librarian.survey on")
    os.kill(demo.server("worker"), signal.SIGSTOP)
    demo.process.send_signal(signal.SIGINT)
    ended = demo.end()
    assert ended.status == 130, ended.output


def test_a_demo_that_is_killed_leaves_nothing_running_either(
    start_demo: StartDemo, large: Path
) -> None:
    demo = start_demo(large)
    demo.server("worker")
    demo.server("valkey")
    demo.wait_output("reading files: ")
    demo.process.kill()
    assert wait_until(demo.is_gone, what="everything to be gone")


def test_a_worker_that_dies_is_reported_with_the_end_of_its_log(
    start_demo: StartDemo, large: Path
) -> None:
    demo = start_demo(large)
    demo.wait_output("reading files: ")
    os.kill(demo.server("worker"), signal.SIGKILL)
    ended = demo.end()
    assert ended.status == 1
    assert "the worker ended unexpectedly (exit status -9). Its log ends with:" in ended.output


def test_a_worker_that_cannot_start_is_reported_with_the_end_of_its_log(
    start_demo: StartDemo, library: Path, tmp_path: Path
) -> None:
    (tmp_path / "greenlet.py").write_text("raise ImportError('no such luck')\n")
    ended = start_demo(library, PYTHONPATH=str(tmp_path)).end()
    assert ended.status == 1
    assert "no such luck" in ended.output
    assert "Traceback" not in ended.output.partition("Its log ends with:")[0]


def test_the_demo_keeps_away_from_the_fleet_that_the_environment_names(
    start_demo: StartDemo, tmp_path: Path
) -> None:
    nowhere = {
        "SKILLFLEET_REDIS_URL": "redis://127.0.0.1:1/0",
        "SKILLFLEET_BROKER_URL": "amqp://127.0.0.1:1//",
        "SKILLFLEET_REDIS_PASSWORD": "wrong",
    }
    ended = start_demo(tmp_path, **nowhere).end()
    assert ended.status == 0, ended.output
    assert ended.survey.files == 0


def test_a_folder_that_does_not_exist_is_refused_before_anything_starts(
    start_demo: StartDemo, tmp_path: Path
) -> None:
    ended = start_demo(tmp_path / "nowhere").end()
    assert ended.status == 1
    assert ended.output == f"there is no folder '{tmp_path / 'nowhere'}'\n"
