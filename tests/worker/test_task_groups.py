"""An error from a skill's TaskGroup counts as the error inside."""

import pytest

from skillfleet.errors import RunFailed
from skillfleet_producer import Fleet
from tests.worker.shared import StartWorker


def test_an_error_inside_a_task_group_keeps_its_code_message_and_retry_policy(
    start_worker: StartWorker, own_fleet: Fleet
) -> None:
    start_worker("tests.worker.grouped", reap_seconds=0.2)
    failed, retried = own_fleet.enqueue("grouped.fail"), own_fleet.enqueue("grouped.pass_later")
    with pytest.raises(RunFailed, match="the folder is gone") as caught:
        failed.result(timeout=20)
    assert caught.value.code == "gone"
    assert retried.result(timeout=20) == 2
