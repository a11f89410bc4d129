"""taskiq: the Redis stream broker (the one with acknowledgements) and its result backend."""

from taskiq_redis import (  # type: ignore[import-not-found]
    RedisAsyncResultBackend,
    RedisStreamBroker,
)

from benchmarks.peers import awaiting, blocking

results = RedisAsyncResultBackend(blocking.URL, result_ex_time=3600)
broker = RedisStreamBroker(blocking.URL).with_result_backend(results)

FUNCTIONS = [awaiting.noop, awaiting.sleep, awaiting.stream, awaiting.hold]
JOBS = {each.__name__: broker.register_task(each, task_name=each.__name__) for each in FUNCTIONS}
