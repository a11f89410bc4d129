"""The HTTP calls of agent-sandbox's Python runtime: execute, upload, download.

The runtime is in the sandbox's pod, so its answers may be forged by sandboxed code: they are
bounded and checked, and no redirect is followed.
"""

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import quote

import httpx
import orjson

from skillfleet.errors import SandboxRuntimeError
from skillfleet_adapters.sandbox.remote.process import REPLY_BYTES, Connection

_ATTEMPTS: Final = 5
_PAUSE_SECONDS: Final = 0.2
_TRANSFER_SECONDS: Final = 120.0
_AGAIN: Final = frozenset({502, 503, 504})


@dataclass(frozen=True)
class Address:
    """The place of a runtime: its URL, and the headers by which a router finds it."""

    url: str
    headers: Mapping[str, str]


def address_of(pod: str, port: int, sandbox: str, namespace: str, router: str) -> Address:
    """Return the address of the runtime of a pod, through the router where there is one."""
    if router:
        headers = {
            "X-Sandbox-ID": sandbox,
            "X-Sandbox-Namespace": namespace,
            "X-Sandbox-Port": str(port),
            "X-Sandbox-Pod-IP": pod,
        }
        return Address(router.rstrip("/"), headers)
    host = f"[{pod}]" if ":" in pod else pod
    return Address(f"http://{host}:{port}", {})


class RuntimeConnection(Connection):
    """One sandbox's runtime; `delete` ends the sandbox in the cluster."""

    def __init__(
        self, client: httpx.AsyncClient, address: Address, delete: Callable[[], Awaitable[None]]
    ) -> None:
        self._client = client
        self._address = address
        self._delete = delete

    async def run(self, command: Sequence[str], seconds: float) -> bytes:
        """See `Connection.run`: `POST /execute`, which splits the command like a shell."""
        body = orjson.dumps({"command": shlex.join(command)})
        headers = {"Content-Type": "application/json"}
        answer = await self._call("POST", "/execute", seconds, REPLY_BYTES, body, headers)
        try:
            result: dict[str, Any] = orjson.loads(answer)
            stdout, stderr, code = result["stdout"], result["stderr"], result["exit_code"]
            if code == 0:
                return bytes(stdout, "utf-8")
        except (ValueError, TypeError, KeyError) as error:
            raise SandboxRuntimeError(f"the runtime's answer is invalid: {error!r}") from error
        raise SandboxRuntimeError(f"the runtime cannot execute: {str(stderr)[-300:]}")

    async def upload(self, name: str, data: bytes) -> None:
        """See `Connection.upload`: `POST /upload` of a form with the part `file`."""
        request = self._client.build_request(
            "POST", self._address.url, files={"file": (name, data, "application/octet-stream")}
        )
        body = await request.aread()
        headers = {"Content-Type": request.headers["Content-Type"]}
        await self._call("POST", "/upload", _TRANSFER_SECONDS, REPLY_BYTES, body, headers)

    async def download(self, name: str, limit: int) -> bytes:
        """See `Connection.download`: `GET /download/NAME`."""
        path = f"/download/{quote(str(PurePosixPath(name)))}"
        return await self._call("GET", path, _TRANSFER_SECONDS, limit)

    async def end(self) -> None:
        """See `Connection.end`."""
        await self._delete()

    async def _call(
        self,
        method: str,
        path: str,
        seconds: float,
        limit: int,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Return the content of an answer; repeated while the pod cannot be reached."""
        problem = ""
        for attempt in range(_ATTEMPTS):
            await asyncio.sleep(_PAUSE_SECONDS * attempt)
            try:
                async with self._client.stream(
                    method,
                    self._address.url + path,
                    content=body,
                    headers={**self._address.headers, **(headers or {})},
                    timeout=httpx.Timeout(seconds, connect=10.0),
                ) as answer:
                    content = await _bounded(answer, limit)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if answer.is_success:
                return content
            problem = f"{answer.status_code} {content[:300].decode(errors='replace')}"
            if answer.status_code not in _AGAIN:
                raise SandboxRuntimeError(f"the runtime refuses {path}: {problem}")
        raise SandboxRuntimeError(f"the runtime cannot be reached: {problem}")


async def _bounded(answer: httpx.Response, limit: int) -> bytes:
    content = bytearray()
    async for piece in answer.aiter_raw():
        content += piece
        if len(content) > limit:
            raise SandboxRuntimeError(f"the runtime's answer has more than {limit} bytes")
    return bytes(content)
