"""Remote control: `revoke` of a skill's run, by id or by stamp, is a durable cancel.

The command may come from code, from `celery control` or from Flower.
"""

from functools import partial
from typing import Any

from celery.worker import control
from celery.worker import state as worker_state
from celery.worker.control import control_command
from kombu.utils.functional import maybe_list

from skillfleet.contracts import RunState
from skillfleet.errors import UnknownRunError
from skillfleet_ledger import Ledger
from skillfleet_worker.celery_hooks.skill_task import SkillTask

_celerys_revoke = control.Panel.data["revoke"]
_celerys_revoke_by_stamps = control.Panel.data["revoke_by_stamped_headers"]


@control_command(
    name="revoke",
    variadic="task_id",
    signature="[id1 [id2 [... [idN]]]]",
)
def revoke(state: Any, task_id: Any, **how: Any) -> Any:
    """Revoke tasks by id; runs of skills are cancelled, on any worker."""
    ids = [str(one) for one in maybe_list(task_id) or []]
    may_be = [one for one in ids if _may_be_run(one)]
    others = [one for one in ids if one not in may_be]
    # Without a record it may be the run of a plain Celery client, not received yet.
    unrecorded, ended = state.consumer.with_ledger(partial(_cancel, may_be)) if may_be else ([], {})
    for run_id, name in ended.items():
        # No attempt of it is left that would report this.
        state.consumer.revoked_runs.show(run_id, name, state.consumer.event_dispatcher)
    if unrecorded:
        _celerys_revoke(state, unrecorded, **(how | {"terminate": False}))
    if others:
        return _celerys_revoke(state, others, **how)
    return {"ok": f"runs {', '.join(may_be)} cancelled"}


@control_command(
    name="terminate",
    variadic="task_id",
    args=[("signal", str)],
    signature="<signal> [id1 [id2 [... [idN]]]]",
)
def terminate(state: Any, signal: Any, task_id: Any, **_: Any) -> Any:
    """Terminate tasks by id; runs of skills are cancelled."""
    return revoke(state, task_id, terminate=True, signal=signal)


@control_command(
    name="revoke_by_stamped_headers",
    variadic="headers",
    signature="[key1=value1 [key2=value2 [... [keyN=valueN]]]]",
)
def revoke_by_stamped_headers(
    state: Any,
    headers: Any,
    terminate: Any = False,  # noqa: FBT002 - Celery's signature
    signal: Any = None,
    **_: Any,
) -> Any:
    """Revoke tasks by their stamps; runs of skills that this worker holds are cancelled.

    Runs whose messages arrive later are cancelled on arrival.
    """
    if isinstance(headers, list):
        headers = dict(str(each).partition("=")[::2] for each in headers)
    answer = _celerys_revoke_by_stamps(state, headers)
    held = [one for one in list(worker_state.requests.values()) if _has_stamp(one, headers)]
    runs = [one.id for one in held if isinstance(one.task, SkillTask)]
    others = [one.id for one in held if not isinstance(one.task, SkillTask)]
    if runs:
        revoke(state, runs)
    if others and terminate:
        return _celerys_revoke(state, others, terminate=True, signal=signal)
    return {"ok": f"runs {', '.join(runs)} cancelled"} if runs else answer


def _has_stamp(request: Any, wanted: dict[str, Any]) -> bool:
    stamps = request.stamps or {}
    return any(
        stamp in (maybe_list(values) or ())
        for name, values in wanted.items()
        for stamp in maybe_list(stamps.get(name)) or ()
    )


def _may_be_run(task_id: str) -> bool:
    """Return False for a task of this worker that is not a skill; others may be runs."""
    request = worker_state.requests.get(task_id)
    return request is None or isinstance(request.task, SkillTask)


async def _cancel(run_ids: list[str], ledger: Ledger) -> tuple[list[str], dict[str, str]]:
    """Cancel runs; returns unknown ids, and the tasks of the runs that have ended cancelled."""
    unknown: list[str] = []
    ended: dict[str, str] = {}
    for run_id in run_ids:
        try:
            await ledger.cancellation.cancel(run_id, "revoked through Celery")
            status = await ledger.queries.status(run_id)
        except UnknownRunError:
            unknown.append(run_id)
        else:
            # By this worker or, as each gets the command, by another one.
            if status.state is RunState.CANCELLED:
                ended[run_id] = status.name
    return unknown, ended
