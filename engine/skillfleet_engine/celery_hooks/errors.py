"""What tasks may fail with because of the engine."""


class HandlerCancelledError(Exception):
    """The task's coroutine ended with CancelledError although the task was not terminated.

    An Exception, so that Celery records a failure: asyncio's CancelledError is none, and Celery
    would take it for the loss of the worker.
    """
