"""The provider of sandboxes in Kubernetes, by agent-sandbox."""

import asyncio
import logging
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import httpx

from skillfleet.errors import CapabilityUnavailableError, SandboxUnavailable, SettingsError
from skillfleet.ports.provider import AdapterEnvironment, HoldsLease
from skillfleet.ports.sandbox import DEFAULT_IMAGE, SandboxClient, SandboxProvider, SandboxSpec
from skillfleet.ports.scope import RunScope
from skillfleet_adapters.kubernetes.deletion_cost import KubernetesSettings
from skillfleet_adapters.sandbox.kubernetes import objects
from skillfleet_adapters.sandbox.kubernetes.api import CLAIM, SANDBOX, KubernetesApi, Resource
from skillfleet_adapters.sandbox.kubernetes.runtime import RuntimeConnection, address_of
from skillfleet_adapters.sandbox.kubernetes.settings import KubernetesSandboxSettings
from skillfleet_adapters.sandbox.provider import LocalSandboxSettings
from skillfleet_adapters.sandbox.remote.client import RemoteSandboxes, Site, refuse
from skillfleet_adapters.sandbox.remote.process import Connection

logger = logging.getLogger(__name__)

_STANDARD: Final = SandboxSpec("")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
_VERBS: Final = ("create", "get", "list", "delete")


class Cluster(Site):
    """The sandboxes of a namespace."""

    def __init__(
        self,
        settings: KubernetesSandboxSettings,
        access: KubernetesSettings,
        environment: AdapterEnvironment,
    ) -> None:
        limits = LocalSandboxSettings.load(environment.variables)
        self.output_bytes = limits.sandbox_output_bytes
        self.fleet = environment.fleet
        self.api = KubernetesApi(access.kubernetes_url, access.kubernetes_account)
        self._account = access.kubernetes_account
        self._settings = settings
        self._http: httpx.AsyncClient | None = None

    @property
    def namespace(self) -> str:
        """The namespace of sandboxes; raises SandboxUnavailable outside of a pod."""
        if self._settings.sandbox_namespace:
            return self._settings.sandbox_namespace
        try:
            return (self._account / "namespace").read_text().strip()
        except OSError as error:
            raise SandboxUnavailable(
                "this process has no service account of Kubernetes (it runs in no pod, or"
                f" automountServiceAccountToken is false): {error}"
            ) from error

    @property
    def resources(self) -> tuple[Resource, ...]:
        """The kinds of objects that the settings need."""
        settings = self._settings
        own = settings.sandbox_image or settings.images
        wanted = {CLAIM: settings.sandbox_warm_pool, SANDBOX: own}
        return tuple(resource for resource, setting in wanted.items() if setting)

    def check(self, spec: SandboxSpec) -> None:
        """Refuse what a pod cannot provide."""
        refuse(
            "kubernetes",
            spec,
            {
                "egress": "has the network of its pod's NetworkPolicy: leave egress empty",
                "secrets": "takes no secrets: leave secrets empty",
                "workspace": "has no files of a view: leave workspace empty, use put and get",
            },
        )
        self._image(spec)

    def _image(self, spec: SandboxSpec) -> str:
        """Return the image of a sandbox of its own; "" for one of the pool."""
        settings = self._settings
        if spec.image != DEFAULT_IMAGE:
            if spec.image not in settings.images:
                raise CapabilityUnavailableError(
                    f"the image {spec.image!r} is not in SKILLFLEET_SANDBOX_IMAGES"
                )
            return spec.image
        standard = (spec.memory_mib, spec.cpus) == (_STANDARD.memory_mib, _STANDARD.cpus)
        if settings.sandbox_warm_pool and (standard or not settings.sandbox_image):
            if not standard:
                raise CapabilityUnavailableError(
                    "the template of the warm pool decides on memory_mib and cpus: leave them out,"
                    " or set SKILLFLEET_SANDBOX_IMAGE"
                )
            return ""
        return settings.sandbox_image

    async def connect(self, spec: SandboxSpec, labels: Mapping[str, str]) -> Connection:
        """Create a claim or a sandbox, wait until it is ready, and connect to its runtime."""
        settings, namespace = self._settings, self.namespace
        image, name = self._image(spec), f"skillfleet-{uuid.uuid4().hex[:20]}"
        until = datetime.now(UTC) + timedelta(seconds=settings.sandbox_lifetime_seconds)
        metadata = objects.metadata(name, labels)
        if image:
            pods = objects.Pods(settings.sandbox_runtime_class, settings.sandbox_port)
            resource, body = SANDBOX, objects.sandbox(metadata, spec, image, pods, until)
        else:
            resource, body = CLAIM, objects.claim(metadata, settings.sandbox_warm_pool, until)

        async def delete() -> None:
            await self.api.delete(resource, namespace, name)

        try:
            await self.api.create(resource, namespace, body)
            state = await self._ready(resource, namespace, name)
        except BaseException:
            await asyncio.shield(delete())
            raise
        port, router = settings.sandbox_port, settings.sandbox_router_url
        address = address_of(state.address, port, state.name, namespace, router)
        return RuntimeConnection(self._opened(), address, delete)

    async def _ready(self, resource: Resource, namespace: str, name: str) -> objects.State:
        seconds, pause = self._settings.sandbox_start_seconds, _FIRST_PAUSE
        reason = "nothing was reported"
        try:
            async with asyncio.timeout(seconds):
                while True:
                    found = await self.api.get(resource, namespace, name)
                    if found is None:
                        raise SandboxUnavailable(f"the {resource.kind} {name} was deleted")
                    state = objects.state_of(resource, found)
                    if state.ready:
                        return state
                    reason = state.reason
                    if state.failed:
                        raise SandboxUnavailable(f"the {resource.kind} {name} failed: {reason}")
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
        except TimeoutError as error:
            raise SandboxUnavailable(
                f"the {resource.kind} {name} is not ready after {seconds} s: {reason}"
            ) from error

    def _opened(self) -> httpx.AsyncClient:
        if self._http is None:
            # A proxy in the environment is not meant for pods.
            self._http = httpx.AsyncClient(trust_env=False, follow_redirects=False)
        return self._http

    async def owned(self) -> "list[tuple[Resource, str, str, str]]":
        """Return the fleet's objects: resource, name, run id and lease."""
        found = []
        for resource in self.resources:
            selector = objects.fleet_selector(self.fleet)
            for each in await self.api.list(resource, self.namespace, selector):
                fleet, run_id, lease = objects.attempt_of(each) or ("", "", "")
                if fleet == self.fleet:
                    found.append((resource, str(each["metadata"]["name"]), run_id, lease))
        return found

    async def report(self) -> str:
        """Return what its sandboxes are; raises SandboxUnavailable with what is missing."""
        settings, namespace = self._settings, self.namespace
        missing = [
            f"{verb} {resource.plural}.{resource.group}"
            for resource in self.resources
            for verb in _VERBS
            if not await self.api.allows(resource, namespace, verb)
        ]
        if missing:
            raise SandboxUnavailable(
                f"the service account may not {', '.join(missing)} in the namespace {namespace}:"
                " the chart grants it with sandbox.kubernetes.enabled"
            )
        await self.owned()
        pods = []
        if settings.sandbox_warm_pool:
            pods.append(f"those of the pool {settings.sandbox_warm_pool}, as its template has them")
        if settings.sandbox_image:
            kernel = settings.sandbox_runtime_class or "none: the node's kernel is shared"
            pods.append(f"of the image {settings.sandbox_image} (RuntimeClass: {kernel})")
        return (
            f"kubernetes. Isolated: pods of the namespace {namespace}, {'; '.join(pods)};"
            " their network is that of their NetworkPolicy"
        )

    async def aclose(self) -> None:
        """Close the connections."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()
        await self.api.aclose()


class KubernetesSandboxProvider(SandboxProvider):
    """Opens clients of a cluster's sandboxes and deletes those of lost attempts."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._reported = False

    def open(self, scope: RunScope) -> SandboxClient:
        """Return the client of one attempt."""
        return RemoteSandboxes.open(self._cluster, scope)

    async def report(self) -> str:
        """Return what the sandboxes are; raises SandboxUnavailable with what is missing."""
        return await self._cluster.report()

    async def reap(self, holds_lease: HoldsLease) -> None:
        """Delete the sandboxes of this fleet whose attempt no longer holds its lease."""
        cluster = self._cluster
        try:
            if not self._reported:
                self._reported = True
                logger.info("sandboxes: %s", await self.report())
            for resource, name, run_id, lease in await cluster.owned():
                if not await holds_lease(run_id, lease):
                    logger.info("the sandbox of run %s is ended, as its attempt is", run_id)
                    await cluster.api.delete(resource, cluster.namespace, name)
        except SandboxUnavailable as error:
            logger.warning("sandboxes: %s", error)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._cluster.aclose()


def create(environment: AdapterEnvironment) -> SandboxProvider:
    """Return the provider of sandboxes in Kubernetes."""
    settings = KubernetesSandboxSettings.load(environment.variables)
    if not settings.wanted:
        raise SettingsError(
            "SKILLFLEET_SANDBOX: kubernetes needs SKILLFLEET_SANDBOX_WARM_POOL or"
            " SKILLFLEET_SANDBOX_IMAGE"
        )
    access = KubernetesSettings.load(environment.variables)
    return KubernetesSandboxProvider(Cluster(settings, access, environment))
