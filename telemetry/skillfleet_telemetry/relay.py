"""Relay of measurements from the children of a prefork worker to its main process.

The main process holds all metrics, so none is lost or starts again when a child ends.
"""

import os
import socket
import threading

import orjson

from skillfleet_telemetry.metrics import IN_FLIGHT, TABLE, Metric, Sink

_MAX_BYTES = 4096
_BUFFER_BYTES = 1024 * 1024
_BY_NAME = {metric.name: metric for metric in TABLE}


class Relay:
    """Datagrams over a pair of sockets, opened before the pool forks."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self._writer.settimeout(0)
        self._in_flight: dict[int, float] = {}

    def listen(self, sink: Sink) -> None:
        """Pass measurements on to `sink`, in a thread of the main process."""

        def run() -> None:
            while data := self._reader.recv(_MAX_BYTES):
                pid, name, value, labels = orjson.loads(data)
                if name == IN_FLIGHT.name:
                    self._in_flight[pid] = value
                else:
                    sink(_BY_NAME[name], value, tuple(labels))

        threading.Thread(target=run, name="skillfleet-metrics", daemon=True).start()

    def in_flight(self) -> float:
        """Return how many runs execute in the living children; in the main process."""
        self._in_flight = {pid: n for pid, n in self._in_flight.items() if _lives(pid)}
        return sum(self._in_flight.values())

    def send(self, metric: Metric, value: float, labels: tuple[str, ...]) -> None:
        """Send a measurement from a child; it is dropped when the buffer is full."""
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
