"""`skillfleet worker` is Celery's own worker."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from celery import Celery

from tests.cli.commands import AGENTS, Shell

pytestmark = pytest.mark.xdist_group("cli")


def test_celery_s_own_tools_see_the_worker(shell: Shell) -> None:
    with Celery(broker=shell.url) as client:
        inspect = client.control.inspect(timeout=5, limit=1)
        (registered,) = (inspect.registered() or {}).values()
        (queues,) = (inspect.active_queues() or {}).values()
    assert {"kit.add", "annex.greet", "fleet.echo"} <= set(registered)
    assert {queue["name"] for queue in queues} == {"celery", "annex-queue"}


def test_runs_of_every_agent_s_queue_are_taken(shell: Shell) -> None:
    lines = shell.ok("enqueue", "annex.greet", "--follow", "--json").json_lines
    assert (lines[-1]["queue"], lines[-1]["result"]) == ("annex-queue", "hello")


def test_options_reach_celery_and_sigterm_ends_it_with_0(bare: Shell, tmp_path: Path) -> None:
    options = ("--pool", "prefork", "-c", "1", "-Q", "annex-queue", "--log-level", "warning")
    # By this first part of its name the Redis users know a worker.
    celery = ("--", "--hostname", "celery@here")
    readable = replace(bare, settings={**bare.settings, "SKILLFLEET_LOG_FORMAT": "console"})
    with readable.start("worker", AGENTS, *options, *celery, log=tmp_path / "log") as worker:
        worker.wait_for(r"concurrency: 1 \(prefork\)")
        lines = bare.ok("enqueue", "annex.greet", "--queue", "annex-queue", "-f", "--json")
        assert lines.json_lines[-1]["result"] == "hello"
        assert "celery@here" in worker.text
        assert " ready." not in worker.text, "that is said at level INFO"
        worker.signal(signal.SIGTERM)
        assert worker.wait_end() == 0


STOPS_ITSELF = """
from celery.signals import worker_ready
from celery.worker import state
from skillfleet import Agent, RunContext

moody = Agent("moody")

@moody.skill
async def rest(ctx: RunContext) -> None:
    pass

@worker_ready.connect
def stop(**_):
    state.should_stop = 3
"""


def test_the_exit_code_is_that_of_celery_s_worker(bare: Shell) -> None:
    (bare.folder / "moody.py").write_text(STOPS_ITSELF)
    assert bare.run("worker", "moody").code == 3


def test_without_the_runtime_a_worker_says_what_to_install(bare: Shell) -> None:
    hide = (
        "import importlib.util as util, sys; find = util.find_spec;"
        "util.find_spec = lambda name, *a: None if name == 'greenlet' else find(name, *a);"
        "from skillfleet_cli.main import main; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", hide, "worker", AGENTS],
        env=bare.environment("worker"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "pip install 'skillfleet[cli,worker]'" in ended.stderr


def test_the_producer_s_verbs_work_without_the_runtime(bare: Shell) -> None:
    refuse = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {'skillfleet_worker', 'skillfleet_engine',\n"
        "                'greenlet', 'uvloop', 'structlog', 'flower', 'watchfiles'}:\n"
        "            raise ImportError(f'{name} is not installed')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from skillfleet_cli.main import main; main()"
    )
    for arguments in (("enqueue", "kit.add", '{"x": 1}'), ("runs",), ("doctor",)):
        ended = subprocess.run(
            [sys.executable, "-c", refuse, *arguments],
            env=bare.environment(arguments[0]),
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
