"""Waiting runs in the eyes of Celery's monitors: `RETRY`, with what they wait for as the reason.

An attempt that ends in a parked run is reported by Celery's tracer, as a retry; here are the runs
that wait in the memory of their worker.
"""

from celery.worker import state


def show_waiting(run_id: str, reason: str) -> None:
    """Report that a run of this process waits for something, or, without a reason, goes on.

    In the process that consumes messages, on the handler's loop. That of the event-loop pool is in
    the thread of Celery's connection for events; in a threads pool Celery itself sends from all.
    """
    request = state.requests.get(run_id)
    if request is None:
        return
    if reason:
        request.send_event("task-retried", exception=reason, traceback="")
    else:
        request.send_event("task-started")
