"""Celery made asynchronous on its own hooks; runs any Celery app.

- `pool.LoopPool` and `consumer.LoopConsumer`: settings `worker_pool` and `worker_consumer`
- `task.AsyncTask`: tasks that are `async def`, in every pool
- `bridge`: `run`, `home_loop` and `at_home`, between synchronous code and coroutines
- `slots.release_slot`: give the slot back while waiting for other tasks
- `watchdog.loop_blocked`: a signal that tells of code which blocks the loop
"""
