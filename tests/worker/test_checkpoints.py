"""Checkpoints in skills, on real workers."""

from pathlib import Path

import pytest

from skillfleet.contracts import RunState
from skillfleet.errors import RunFailed
from skillfleet_producer import Fleet
from tests.support.fleet import POOL_FORMS
from tests.support.waiting import wait_until
from tests.worker.shared import StartWorker, wait_state

MODULE = "tests.worker.checkpointing"


@pytest.mark.parametrize("pool", POOL_FORMS)
@pytest.mark.parametrize("owned", [True, False], ids=["own folder", "people's folder"])
def test_a_killed_worker_leaves_folder_and_journal_in_agreement(
    start_worker: StartWorker, own_fleet: Fleet, tmp_path: Path, pool: str, owned: bool
) -> None:
    """The second line and its checkpoint exist when the worker dies, but the step's entry not.

    In a folder of people that is a difference, about which the run asks; it is parked meanwhile.
    """
    folder, go_on = tmp_path / "work", tmp_path / "go on"
    folder.mkdir()
    settings = {
        "pool": pool,
        "lease_seconds": 1,
        "checkpoint": "archive",
        "park_seconds": 0.2,
        "checkpoints_url": f"file://{tmp_path}/store",
    }
    first = start_worker(MODULE, **settings)
    run = own_fleet.enqueue(
        "keeper.write", {"folder": str(folder), "until": str(go_on), "owned": owned}
    )
    heads = tmp_path / "store"
    wait_until(lambda: len(list(heads.glob("*/heads/*"))) == 2, what="the second checkpoint")
    assert (folder / "lines").read_text() == "0\n1\n"
    first.kill()
    go_on.touch()
    start_worker(MODULE, **settings)
    if not owned:
        wait_until(lambda: len(run.waits()) == 1, 30, what="the question")
        wait_state(run, RunState.WAITING)
        assert "lines (changed)" in run.waits()[0].question
        run.answer(True)
    # The answer is an entry, too: with its number the lost step's checkpoint does not fit.
    assert run.result(timeout=60) == ([1, 2, 3] if owned else [1, 3, 4])
    assert (folder / "lines").read_text() == "0\n1\n2\n"


def test_a_worker_without_the_setting_says_so(
    start_worker: StartWorker, own_fleet: Fleet, tmp_path: Path
) -> None:
    start_worker(MODULE)
    run = own_fleet.enqueue("keeper.write", {"folder": str(tmp_path), "until": "-", "owned": True})
    with pytest.raises(RunFailed, match="SKILLFLEET_CHECKPOINT"):
        run.result(timeout=30)
