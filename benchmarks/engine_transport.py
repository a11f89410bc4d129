"""Drain no-op tasks (acks_late, LoopPool) with kombu's Redis transport and with the engine's.

Interleaved rounds, one worker process each, a fresh server each; jobs a second, Redis commands a
job (those inside scripts too), and CPU a job of the worker and of the server.

    python benchmarks/engine_transport.py [--jobs 3000] [--rounds 3] [--concurrency 100]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from celery import Celery

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.valkey import ValkeyServer  # noqa: E402
from tests.support.waiting import wait_until  # noqa: E402

TRANSPORTS = {"kombu": None, "engine": "skillfleet_engine.transport:Transport"}

app = Celery("drain", broker=os.environ.get("DRAIN_URL", "memory://"), set_as_current=False)
app.conf.update(
    worker_pool="skillfleet_engine:LoopPool",
    worker_consumer="skillfleet_engine:LoopConsumer",
    worker_disable_prefetch=True,
    worker_prefetch_multiplier=1,
    task_ignore_result=True,
    task_acks_late=True,
    broker_transport=os.environ.get("DRAIN_TRANSPORT") or None,
    broker_connection_retry_on_startup=True,
)


@app.task
def noop(number: int, text: str) -> None:
    if number < 0:
        print(text)


def measure(transport: str | None, jobs: int, concurrency: int) -> dict[str, float]:
    server = ValkeyServer().start()
    client: Any = server.client()
    worker = None
    try:
        publish(server.url, jobs)
        queued = client.lrange("celery", 0, -1)
        client.delete("celery")
        worker = start(server.url, transport, concurrency)
        wait_until(lambda: client.info("clients")["blocked_clients"], what="the worker to wait")
        for half in (queued[:200], queued[200:]):
            before = usage(client, server, worker)
            began = time.perf_counter()
            client.lpush("celery", *half)
            wait_until(lambda: done(client), 120, "the queue to drain")
            seconds = time.perf_counter() - began
        after = usage(client, server, worker)
        count = len(queued) - 200
        spent = {name: (after[name] - before[name]) / count for name in before}
        return {"jobs/s": count / seconds} | spent
    finally:
        if worker is not None:
            worker.terminate()
            try:
                worker.wait(10)
            except psutil.TimeoutExpired:
                worker.kill()
        server.close()


def publish(url: str, jobs: int) -> None:
    with Celery(broker=url, set_as_current=False) as producer:
        for number in range(jobs + 200):
            producer.send_task("engine_transport.noop", (number, "text"))


def start(url: str, transport: str | None, concurrency: int) -> psutil.Popen:
    environment = os.environ | {"DRAIN_URL": url, "DRAIN_TRANSPORT": transport or ""}
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import engine_transport"
    run = "engine_transport.app.worker_main(sys.argv[1:])"
    options = ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "WARNING"]
    return psutil.Popen(
        [sys.executable, "-c", f"{code}; {run}", "worker", "-c", str(concurrency), *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def done(client: Any) -> bool:
    time.sleep(0.02)
    with client.pipeline() as pipe:
        return bool(pipe.llen("celery").hlen("unacked").execute() == [0, 0])


def usage(client: Any, server: ValkeyServer, worker: psutil.Popen) -> dict[str, float]:
    commands = sum(each["calls"] for each in client.info("commandstats").values())
    assert server.process is not None
    pids = {"worker ms": worker.pid, "server ms": server.process.pid}
    cpu = {name: sum(psutil.Process(pid).cpu_times()[:2]) * 1000 for name, pid in pids.items()}
    return {"commands": commands, **cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=100)
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in TRANSPORTS}
    for _ in range(options.rounds):
        for name, transport in TRANSPORTS.items():
            found[name].append(measure(transport, options.jobs, options.concurrency))
            print(name, json.dumps({key: round(v, 2) for key, v in found[name][-1].items()}))
    for name, rounds in found.items():
        for key in rounds[0]:
            values = [each[key] for each in rounds]
            median = statistics.median(values)
            print(f"{name:7} {key:14} {median:10.2f}  ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
