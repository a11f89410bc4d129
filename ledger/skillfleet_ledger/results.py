"""A run's end in the format of Celery's result backend (celery/backends/base.py).

Any Celery client's `AsyncResult` understands it. The `skillfleet` field is ours; Celery
ignores it.
"""

from datetime import UTC, datetime
from typing import Any

import orjson

from skillfleet.contracts import RunState

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


def encode_end(
    run_id: str, task: str, state: RunState, code: str, message: str, result: Any = None
) -> bytes:
    """The JSON that Celery's result key holds after the end of a run.

    `result` is a JSON-able value, used when the run succeeded; otherwise code and message
    stand in its place as an exception. Never holds a traceback.
    """
    if state is not RunState.SUCCEEDED:
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
    }
    return orjson.dumps(meta, option=orjson.OPT_NON_STR_KEYS)


def decode_value(meta: bytes) -> Any:
    """The value of a succeeded run out of `encode_end`'s JSON."""
    return orjson.loads(meta)["result"]


def final_payload(state: RunState, code: str, message: str) -> bytes:
    """The payload of a run's final event."""
    return orjson.dumps({"state": state, "code": code, "message": message})
