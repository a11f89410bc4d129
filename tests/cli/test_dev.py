"""`skillfleet dev`: a whole fleet that reloads, and of which nothing is left."""

import os
import signal
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.commands import Shell, alive, command_line
from tests.support.ports import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("cli-dev")

AGENT = """
from skillfleet import Agent, RunContext
pet = Agent("pet")

@pet.skill
async def speak(ctx: RunContext) -> str:
    return {word!r}
"""


@dataclass(frozen=True)
class Den:
    """A folder with an agent's module, and the shell that `dev` runs in."""

    shell: Shell
    module: Path
    temporary: Path
    port: int

    def teach(self, word: str) -> None:
        self.module.write_text(AGENT.format(word=word))

    def says(self) -> str:
        """Return the skill's current result, through the fleet."""
        lines = self.shell.ok("enqueue", "pet.speak", "--follow", "--json").json_lines
        return str(lines[-1]["result"])


@pytest.fixture
def den(tmp_path: Path) -> Den:
    """A den whose agent says woof."""
    temporary, folder = tmp_path / "temporary", tmp_path / "project"
    temporary.mkdir()
    folder.mkdir()
    port = free_port()
    shell = Shell(f"redis://127.0.0.1:{port}/0", folder, {"TMPDIR": str(temporary)})
    den = Den(shell, folder / "pets.py", temporary, port)
    den.teach("woof")
    return den


def test_dev_serves_reloads_survives_a_syntax_error_and_ends_with_ctrl_c(
    den: Den, tmp_path: Path
) -> None:
    flower = free_port()
    options = ("--redis-port", str(den.port), "--port", str(flower))
    with den.shell.start("dev", "pets", *options, log=tmp_path / "log") as dev:
        dev.wait_for(r" ready\.")
        assert f"SKILLFLEET_REDIS_URL={den.shell.url} skillfleet enqueue" in dev.text
        assert "authentication is off" in dev.text
        assert den.says() == "woof"
        wait_until(lambda: _status(flower) == 200, 60, "Flower to answer")

        den.teach("meow")
        dev.wait_for(r" ready\.", count=2)
        assert den.says() == "meow"

        den.module.write_text("def (")
        dev.wait_for("invalid syntax")
        dev.wait_for("worker ended with code 2; it starts again when a file changes")
        den.teach("moo")
        dev.wait_for(r" ready\.", count=3)
        assert den.says() == "moo"

        children = dev.children()
        assert len(children) == 4, "the guard, Valkey, Flower, the worker"
        dev.signal(signal.SIGINT)
        assert dev.wait_end() == 0
    _assert_nothing_left(den, children)
    assert "Traceback" not in dev.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_dev_when_it_is_ended_or_killed(
    den: Den, tmp_path: Path, number: signal.Signals
) -> None:
    options = ("--redis-port", str(den.port), "--no-flower")
    with den.shell.start("dev", "pets.py", *options, log=tmp_path / "log") as dev:
        dev.wait_for(r" ready\.")
        children = dev.children()
        assert len(children) == 3
        dev.signal(number)
        assert dev.wait_end() == (0 if number is signal.SIGTERM else -number)
    _assert_nothing_left(den, children)


def test_runs_are_kept_in_the_folder_that_dev_is_given(den: Den, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    options = ("--redis-port", str(den.port), "--no-flower", "--data-dir", str(kept))
    with den.shell.start("dev", "pets", *options, log=tmp_path / "log") as dev:
        dev.wait_for("Ctrl-C stops all of it")
        run_id = den.shell.enqueue("pet.speak", "--delay", "600")
        dev.signal(signal.SIGINT)
        assert dev.wait_end() == 0
    files = [path.read_bytes() for path in kept.rglob("*") if path.is_file()]
    assert any(run_id.encode() in content for content in files)


def test_a_worker_that_dies_starts_again(den: Den, tmp_path: Path) -> None:
    options = ("--redis-port", str(den.port), "--no-flower")
    with den.shell.start("dev", "pets", *options, log=tmp_path / "log") as dev:
        dev.wait_for(r" ready\.")
        (worker,) = [pid for pid in dev.children() if " worker " in command_line(pid)]
        os.kill(worker, signal.SIGKILL)
        dev.wait_for("worker ended with code -9: starting the worker again")
        dev.wait_for(r" ready\.", count=2)
        assert den.says() == "woof"


def test_dev_ends_when_its_server_is_gone(den: Den, tmp_path: Path) -> None:
    options = ("--redis-port", str(den.port), "--no-flower")
    with den.shell.start("dev", "pets", *options, log=tmp_path / "log") as dev:
        dev.wait_for("Ctrl-C stops all of it")
        children = dev.children()
        _shut_down(den.port)
        assert dev.wait_end() == 1
    assert "the Valkey server ended" in dev.text
    _assert_nothing_left(den, children)


def _assert_nothing_left(den: Den, children: list[int]) -> None:
    wait_until(lambda: not any(alive(pid) for pid in children), 30, "the children to end")
    wait_until(lambda: not list(den.temporary.iterdir()), 30, "the data to be deleted")


def _status(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as reply:
            return int(reply.status)
    except (urllib.error.URLError, TimeoutError):
        return 0


def _shut_down(port: int) -> None:
    import redis

    with redis.Redis(port=port) as client:
        client.shutdown(nosave=True)
