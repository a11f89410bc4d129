"""dramatiq: its Redis broker and result backend, default middleware."""

import dramatiq  # type: ignore[import-not-found]
import redis
from dramatiq.brokers.redis import RedisBroker  # type: ignore[import-not-found]
from dramatiq.results import Results  # type: ignore[import-not-found]
from dramatiq.results.backends import RedisBackend  # type: ignore[import-not-found]

from benchmarks.peers import blocking

# redis-py gives a silent server up after five seconds; dramatiq waits longer for a result.
client = redis.Redis.from_url(blocking.URL, socket_timeout=None)
broker = RedisBroker(client=client)
results = RedisBackend(client=client)
broker.add_middleware(Results(backend=results))
dramatiq.set_broker(broker)

FUNCTIONS = [blocking.noop, blocking.sleep, blocking.stream, blocking.hold]
JOBS = {each.__name__: dramatiq.actor(each, store_results=True) for each in FUNCTIONS}
