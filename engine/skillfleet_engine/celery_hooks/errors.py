"""Errors that tasks may fail with because of the engine."""


class HandlerCancelledError(Exception):
    """The task's coroutine ended with CancelledError although the task was not terminated.

    It is an Exception, so that Celery records a failure: asyncio's CancelledError is not, and
    Celery would treat it as the loss of the worker.
    """
