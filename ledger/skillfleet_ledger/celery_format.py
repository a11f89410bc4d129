"""A run's end in the format of Celery's result backend (celery/backends/base.py).

Any Celery client's `AsyncResult` understands it. Celery ignores the additional field
`skillfleet`.
"""

from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from skillfleet.contracts import ReasonCode, RunState

_CELERY_STATES = {
    RunState.SUCCEEDED: "SUCCESS",
    RunState.CANCELLED: "REVOKED",
}
_EXCEPTIONS = {
    RunState.FAILED: ("RunFailed", "skillfleet.errors"),
    RunState.DEAD: ("RunFailed", "skillfleet.errors"),
    RunState.TIMED_OUT: ("RunTimedOut", "skillfleet.errors"),
    RunState.CANCELLED: ("TaskRevokedError", "celery.exceptions"),
}


class RunEnd(NamedTuple):
    """The end of a run: a terminal state, its reason, and the value when it succeeded."""

    state: RunState
    code: str
    message: str = ""
    value: Any = None


def encode_end(
    run_id: str, task: str, state: RunState, code: str, message: str, result: Any = None
) -> bytes:
    """Return the JSON that Celery's result key holds after the end of a run.

    `result` is a value that JSON can carry, used when the run succeeded; otherwise an exception
    with code and message takes its place. Never contains a traceback.
    """
    ours = {}
    if state is not RunState.SUCCEEDED:
        ours = {"skillfleet": {"state": state, "code": code, "message": message}}
        name, module = _EXCEPTIONS[state]
        text = message if state is RunState.CANCELLED else f"{message} [{code}]"
        result = {"exc_type": name, "exc_message": [text], "exc_module": module}
    meta = {
        "status": _CELERY_STATES.get(state, "FAILURE"),
        "result": result,
        "traceback": None,
        "children": [],
        "date_done": datetime.now(UTC).isoformat(),
        "task_id": run_id,
        "name": task,
        **ours,
    }
    return orjson.dumps(meta, option=orjson.OPT_NON_STR_KEYS)


def decode_end(meta: bytes) -> RunEnd:
    """Return the end of a run from the JSON of `encode_end`."""
    found = orjson.loads(meta)
    ours = found.get("skillfleet")
    if ours is None:
        return RunEnd(RunState.SUCCEEDED, ReasonCode.COMPLETED, "", found["result"])
    return RunEnd(RunState(ours["state"]), ours["code"], ours["message"])


def final_payload(state: RunState, code: str, message: str) -> bytes:
    """Return the payload of a run's final event."""
    return orjson.dumps({"state": state, "code": code, "message": message})
