"""Checkpoints in skills, on real workers."""

from pathlib import Path

import pytest

from skillfleet.errors import RunFailed
from skillfleet_producer import Fleet
from tests.support.fleet import POOL_FORMS
from tests.support.waiting import wait_until
from tests.worker.shared import StartWorker

MODULE = "tests.worker.checkpointing"


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_a_killed_worker_leaves_folder_and_journal_in_agreement(
    start_worker: StartWorker, own_fleet: Fleet, tmp_path: Path, pool: str
) -> None:
    """The second line and its checkpoint exist when the worker dies, but the step's entry not."""
    folder, go_on = tmp_path / "work", tmp_path / "go on"
    folder.mkdir()
    settings = {
        "pool": pool,
        "lease_seconds": 1,
        "checkpoint": "archive",
        "checkpoints_url": f"file://{tmp_path}/store",
    }
    first = start_worker(MODULE, **settings)
    run = own_fleet.enqueue("keeper.write", {"folder": str(folder), "until": str(go_on)})
    heads = tmp_path / "store"
    wait_until(lambda: len(list(heads.glob("*/heads/*"))) == 2, what="the second checkpoint")
    assert (folder / "lines").read_text() == "0\n1\n"
    first.kill()
    go_on.touch()
    start_worker(MODULE, **settings)
    assert run.result(timeout=60) == [1, 2, 3]
    assert (folder / "lines").read_text() == "0\n1\n2\n"


def test_a_worker_without_the_setting_says_so(
    start_worker: StartWorker, own_fleet: Fleet, tmp_path: Path
) -> None:
    start_worker(MODULE)
    run = own_fleet.enqueue("keeper.write", {"folder": str(tmp_path), "until": "-"})
    with pytest.raises(RunFailed, match="SKILLFLEET_CHECKPOINT"):
        run.result(timeout=30)
