"""huey: threads, blocking reads, results announced."""

from huey import RedisHuey  # type: ignore[import-not-found]

from benchmarks.peers import blocking

HUEY = RedisHuey("bench", url=f"{blocking.URL}?max_connections=3000", notify_result=True)

FUNCTIONS = [blocking.noop, blocking.sleep, blocking.stream, blocking.hold]
JOBS = {each.__name__: HUEY.task()(each) for each in FUNCTIONS}
