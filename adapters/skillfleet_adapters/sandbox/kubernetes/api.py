"""The Kubernetes API, as far as sandboxes need it: create, get, list, delete, and rights.

By httpx: a client library for all of Kubernetes brings hundreds of classes for these five calls.
"""

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from skillfleet.errors import SandboxUnavailable

_TIMEOUT_SECONDS: Final = 15.0
_ATTEMPTS: Final = 4
_PAUSE_SECONDS: Final = 0.2
_AGAIN: Final = frozenset({429, 500, 502, 503, 504})
_PAGE: Final = 500


@dataclass(frozen=True)
class Resource:
    """A kind of objects: API group and version, the plural in paths, and the kind's name."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """The field `apiVersion` of its objects."""
        return f"{self.group}/{self.version}"


SANDBOX: Final = Resource("agents.x-k8s.io", "v1beta1", "sandboxes", "Sandbox")
CLAIM: Final = Resource("extensions.agents.x-k8s.io", "v1beta1", "sandboxclaims", "SandboxClaim")


class ApiError(SandboxUnavailable):
    """A refusal of the API server; `status` is its HTTP status, 0 without an answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class KubernetesApi:
    """The API server, with the pod's service account.

    Concurrency: the event loop of its first call. Connections are closed by `aclose`.
    """

    def __init__(self, url: str, account: Path) -> None:
        self._url = url.rstrip("/")
        self._account = account
        self._client: httpx.AsyncClient | None = None

    async def create(self, resource: Resource, namespace: str, body: Mapping[str, Any]) -> None:
        """Create an object; one of that name that a lost answer has left counts as created."""
        try:
            await self._call("POST", self._path(resource, namespace), body)
        except ApiError as error:
            if error.status != httpx.codes.CONFLICT:
                raise

    async def get(self, resource: Resource, namespace: str, name: str) -> dict[str, Any] | None:
        """Return an object; None for one that does not exist."""
        try:
            return await self._call("GET", self._path(resource, namespace, name))
        except ApiError as error:
            if error.status == httpx.codes.NOT_FOUND:
                return None
            raise

    async def list(
        self, resource: Resource, namespace: str, selector: str
    ) -> "list[dict[str, Any]]":
        """Return all objects with the labels of a selector."""
        found: list[dict[str, Any]] = []
        query = {"labelSelector": selector, "limit": str(_PAGE)}
        while True:
            page = await self._call("GET", self._path(resource, namespace), query=query)
            found += page.get("items") or []
            following = (page.get("metadata") or {}).get("continue")
            if not following:
                return found
            query["continue"] = following

    async def delete(self, resource: Resource, namespace: str, name: str) -> None:
        """Delete an object with all that it owns; does nothing for one that does not exist."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
        }
        try:
            await self._call("DELETE", self._path(resource, namespace, name), options)
        except ApiError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise

    async def allows(self, resource: Resource, namespace: str, verb: str) -> bool:
        """Return whether the service account has a right."""
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {
                "resourceAttributes": {
                    "group": resource.group,
                    "resource": resource.plural,
                    "namespace": namespace,
                    "verb": verb,
                }
            },
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = await self._call("POST", path, review)
        return (answer.get("status") or {}).get("allowed") is True

    async def aclose(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _path(self, resource: Resource, namespace: str, name: str = "") -> str:
        path = f"/apis/{resource.api_version}/namespaces/{namespace}/{resource.plural}"
        return f"{path}/{name}" if name else path

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Return the answer; a call that may help later is repeated some times."""
        content = None if body is None else json.dumps(body)
        problem = ""
        for attempt in range(_ATTEMPTS):
            await asyncio.sleep(attempt * _PAUSE_SECONDS)
            try:
                client = await self._opened()
                answer = await client.request(
                    method, path, content=content, params=query, headers=await self._headers()
                )
            except (httpx.HTTPError, OSError) as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if answer.is_success:
                found: dict[str, Any] = answer.json()
                return found
            if answer.status_code not in _AGAIN:
                raise ApiError(_explained(method, path, answer), answer.status_code)
            problem = _explained(method, path, answer)
        raise ApiError(f"the Kubernetes API server {self._url} does not answer: {problem}")

    async def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            tls: ssl.SSLContext | bool = False
            if self._url.startswith("https://"):
                authority = str(self._account / "ca.crt")
                tls = await asyncio.to_thread(ssl.create_default_context, cafile=authority)
            # A proxy in the environment is meant for the skills' calls, not for the API server.
            self._client = httpx.AsyncClient(
                base_url=self._url, verify=tls, trust_env=False, timeout=_TIMEOUT_SECONDS
            )
        return self._client

    async def _headers(self) -> Mapping[str, str]:
        # The token is rotated, so it is read each time.
        token = await asyncio.to_thread((self._account / "token").read_text)
        return {"Authorization": f"Bearer {token.strip()}", "Content-Type": "application/json"}


def _explained(method: str, path: str, answer: httpx.Response) -> str:
    """Return the server's reason, from a Status object where it sends one."""
    try:
        message = str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        message = answer.text[:300]
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return f"the service account lacks a right: {message}"
    if answer.status_code == httpx.codes.NOT_FOUND and "/apis/" in path and method == "POST":
        return f"the cluster has no agent-sandbox v1beta1 ({message})"
    return f"the Kubernetes API server refuses {method} {path}: {answer.status_code} {message}"
