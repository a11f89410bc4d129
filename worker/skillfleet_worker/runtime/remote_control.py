"""`revoke`, from code, `celery control` or Flower: for a skill's run it is a durable cancel."""

import logging
from typing import Any

from celery.worker import control
from celery.worker import state as worker_state
from celery.worker.control import control_command
from kombu.utils.functional import maybe_list

from skillfleet.errors import UnknownRunError
from skillfleet_ledger import Ledger
from skillfleet_worker.runtime.consumer import apart
from skillfleet_worker.runtime.node import node_of
from skillfleet_worker.runtime.skill_task import SkillTask

logger = logging.getLogger(__name__)

_celerys_revoke = control.Panel.data["revoke"]


@control_command(
    name="revoke",
    variadic="task_id",
    signature="[id1 [id2 [... [idN]]]]",
)
def revoke(state: Any, task_id: Any, **how: Any) -> Any:
    """Revoke tasks by id; the runs of skills are cancelled, wherever they are."""
    ids = [str(one) for one in maybe_list(task_id) or []]
    settings = node_of(state.app).settings
    runs = [one for one in ids if _may_be_run(one)]
    others = [one for one in ids if one not in runs]
    if runs:
        apart(lambda: _cancel(settings, runs))
        _celerys_revoke(state, runs, **(how | {"terminate": False}))
    if others:
        return _celerys_revoke(state, others, **how)
    return {"ok": f"runs {', '.join(runs)} cancelled"}


def _may_be_run(task_id: str) -> bool:
    """A task of this worker that is no skill is Celery's; anything else may be a run."""
    request = worker_state.requests.get(task_id)
    return request is None or isinstance(request.task, SkillTask)


async def _cancel(settings: Any, run_ids: list[str]) -> None:
    ledger = Ledger(settings)
    try:
        for run_id in run_ids:
            try:
                await ledger.runs.cancel(run_id, "revoked through Celery")
            except UnknownRunError:
                logger.debug("%s is no run", run_id)
    finally:
        await ledger.close()
