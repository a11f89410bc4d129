"""The deletion cost of the worker's pod: Kubernetes removes the pods with the lowest cost first.

Keeps the annotation `controller.kubernetes.io/pod-deletion-cost` (KEP-2255) on the worker's own
pod: 0 while it is idle; 10 and a point for each minute of its oldest run, at most a day's,
while it is busy. Written when it changes, at most every few seconds.
"""

import asyncio
import json
import logging
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import model_validator

from skillfleet.errors import SettingsError
from skillfleet.ports.orchestrator import OldestStarted, Orchestrator
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.settings import AdapterSettings

logger = logging.getLogger(__name__)

ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
BUSY = 10
MOST_MINUTES = 24 * 60
_PAUSE_SECONDS = 5.0
_TIMEOUT_SECONDS = 5.0


class KubernetesSettings(AdapterSettings):
    """Kubernetes, read by workers."""

    pod_deletion_cost: bool = False
    """Report to Kubernetes how busy this pod is, by its deletion-cost annotation; not with
    prefork."""
    pod_name: str = ""
    """Name of this pod."""
    pod_namespace: str = ""
    """Namespace of this pod."""
    kubernetes_url: str = "https://kubernetes.default.svc"
    """URL of the Kubernetes API server."""
    kubernetes_account: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    """Folder of the service account's token and `ca.crt`."""

    @model_validator(mode="after")
    def _names_the_pod(self) -> Self:
        if self.pod_deletion_cost and not (self.pod_name and self.pod_namespace):
            raise ValueError(
                "SKILLFLEET_POD_DELETION_COST needs SKILLFLEET_POD_NAME"
                " and SKILLFLEET_POD_NAMESPACE"
            )
        return self


@dataclass(frozen=True)
class Pod:
    """The address of a pod: API server, folder of the service account, namespace and name."""

    api_url: str
    account: Path
    namespace: str
    name: str

    @property
    def url(self) -> str:
        """The pod's address at the API server."""
        return f"{self.api_url}/api/v1/namespaces/{self.namespace}/pods/{self.name}"


def deletion_cost(oldest_started: float | None, now: float) -> int:
    """Return the cost of a worker whose oldest run started then (None: it has none), in seconds."""
    if oldest_started is None:
        return 0
    return BUSY + min(int((now - oldest_started) / 60), MOST_MINUTES)


class DeletionCost(Orchestrator):
    """The writer of one pod's deletion cost."""

    def __init__(self, pod: Pod, *, pause_seconds: float = _PAUSE_SECONDS) -> None:
        self._pod = pod
        self._pause = pause_seconds

    async def report(self, oldest_started: OldestStarted) -> None:
        """Keep the annotation until cancelled; a failed write is repeated after a pause."""
        written: int | None = None
        while True:
            cost = deletion_cost(oldest_started(), time.monotonic())
            if cost != written:
                try:
                    await asyncio.to_thread(self._write, cost)
                except (OSError, urllib.error.URLError) as error:
                    logger.warning("cannot write the pod's deletion cost: %s", error)
                else:
                    written = cost
            await asyncio.sleep(self._pause)

    def _write(self, cost: int) -> None:
        body = json.dumps({"metadata": {"annotations": {ANNOTATION: str(cost)}}}).encode()
        # The token is rotated, so it is read each time.
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
        # A proxy in the environment is meant for the skills' calls, not for the API server.
        direct = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._tls())
        )
        with direct.open(request, timeout=_TIMEOUT_SECONDS):
            pass

    def _tls(self) -> ssl.SSLContext | None:
        if not self._pod.api_url.startswith("https://"):
            return None
        return ssl.create_default_context(cafile=str(self._pod.account / "ca.crt"))


def create(environment: AdapterEnvironment) -> Orchestrator | None:
    """Return the report of this pod; None unless SKILLFLEET_POD_DELETION_COST is true."""
    settings = KubernetesSettings.load(environment.variables)
    if not settings.pod_deletion_cost:
        return None
    if environment.pool == "prefork":
        raise SettingsError(
            "SKILLFLEET_POD_DELETION_COST: not with prefork, whose children know their own runs"
            " only; leave it out, or choose another pool"
        )
    pod = Pod(
        settings.kubernetes_url,
        settings.kubernetes_account,
        settings.pod_namespace,
        settings.pod_name,
    )
    return DeletionCost(pod)
