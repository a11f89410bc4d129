"""How a prefork worker's children tell their measurements: datagrams to the main process.

The main process so holds all metrics, and none is lost or counted anew when a child goes.
"""

import os
import socket
import threading

import orjson

from skillfleet_telemetry.metrics import IN_FLIGHT, TABLE, Metric, Sink

_MOST_BYTES = 4096
_BUFFER_BYTES = 1024 * 1024
_BY_NAME = {metric.name: metric for metric in TABLE}


class Relay:
    """Opened before the pool forks; both ends close with their processes."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self._writer.settimeout(0)
        self._in_flight: dict[int, float] = {}

    def listen(self, sink: Sink) -> None:
        """In the main process: pass measurements on to `sink`, in a thread."""

        def run() -> None:
            while data := self._reader.recv(_MOST_BYTES):
                pid, name, value, labels = orjson.loads(data)
                if name == IN_FLIGHT.name:
                    self._in_flight[pid] = value
                else:
                    sink(_BY_NAME[name], value, tuple(labels))

        threading.Thread(target=run, name="skillfleet-metrics", daemon=True).start()

    def in_flight(self) -> float:
        """In the main process: how many runs execute in its living children."""
        self._in_flight = {pid: n for pid, n in self._in_flight.items() if _lives(pid)}
        return sum(self._in_flight.values())

    def send(self, metric: Metric, value: float, labels: tuple[str, ...]) -> None:
        """In a child: the sink for its measurements. A full buffer costs the measurement."""
        try:
            self._writer.send(orjson.dumps((os.getpid(), metric.name, value, labels)))
        except OSError:
            return


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
