"""Kubernetes removes the pod first whose loss costs least: this worker tells what its costs.

Keeps the annotation `controller.kubernetes.io/pod-deletion-cost` (KEP-2255) on the worker's own
pod: 0 while it is idle; 10 and a point for each minute of its oldest run, at most a day's,
while it is busy. Written when it changes and at most every few seconds.
"""

import asyncio
import json
import logging
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
BUSY = 10
MOST_MINUTES = 24 * 60
_PAUSE_SECONDS = 5.0
_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Pod:
    """Where the worker's pod is found: API server, folder of the service account, names."""

    api_url: str
    account: Path
    namespace: str
    name: str

    @property
    def url(self) -> str:
        """The pod's address at the API server."""
        return f"{self.api_url}/api/v1/namespaces/{self.namespace}/pods/{self.name}"


def deletion_cost(oldest_started: float | None, now: float) -> int:
    """The cost of a worker whose oldest run started then (None: it has none), in seconds."""
    if oldest_started is None:
        return 0
    return BUSY + min(int((now - oldest_started) / 60), MOST_MINUTES)


class DeletionCostKeeper:
    """Writes the cost of one pod; `oldest_started` tells when its oldest run started."""

    def __init__(
        self,
        pod: Pod,
        oldest_started: Callable[[], float | None],
        *,
        pause_seconds: float = _PAUSE_SECONDS,
    ) -> None:
        self._pod = pod
        self._oldest_started = oldest_started
        self._pause = pause_seconds
        self._written: int | None = None

    async def run(self) -> None:
        """Keep the annotation until cancelled; what fails is tried again at the next change."""
        while True:
            cost = deletion_cost(self._oldest_started(), time.monotonic())
            if cost != self._written:
                try:
                    await asyncio.to_thread(self._write, cost)
                except (OSError, urllib.error.URLError) as error:
                    logger.warning("the pod's deletion cost could not be written: %s", error)
                else:
                    self._written = cost
            await asyncio.sleep(self._pause)

    def _write(self, cost: int) -> None:
        body = json.dumps({"metadata": {"annotations": {ANNOTATION: str(cost)}}}).encode()
        # The token is rotated: it is read each time.
        token = (self._pod.account / "token").read_text().strip()
        request = urllib.request.Request(  # noqa: S310 - the operator's own API server
            self._pod.url,
            data=body,
            method="PATCH",
            headers={
                "Authorization": f"Bearer {token}",
                "Content-Type": "application/merge-patch+json",
            },
        )
        # A proxy for the skills' calls is none for the API server.
        direct = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._tls())
        )
        with direct.open(request, timeout=_TIMEOUT_SECONDS):
            pass

    def _tls(self) -> ssl.SSLContext | None:
        if not self._pod.api_url.startswith("https://"):
            return None
        return ssl.create_default_context(cafile=str(self._pod.account / "ca.crt"))
