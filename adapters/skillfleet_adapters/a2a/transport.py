"""HTTP transport to untrusted hosts: requests are checked, pinned and bounded."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping

import httpx

from skillfleet.errors import TargetRefusedError
from skillfleet_adapters.a2a.ca_bundles import CABundles
from skillfleet_adapters.a2a.host_allowlist import HostAllowlist

_PORTS = {"http": 80, "https": 443}
_CONNECT_SECONDS = 10.0

Credential = Callable[[], str]
"""Returns the present value of the header `Authorization`."""


class GuardedTransport(httpx.AsyncBaseTransport):
    """Connects to the checked address only.

    `credentials` holds the `Authorization` for hosts that get one, and only over TLS. No
    proxies and no redirects: a redirect's target is another request, checked again.
    """

    def __init__(
        self,
        hosts: HostAllowlist,
        max_bytes: int,
        credentials: Mapping[str, Credential] | None = None,
        ca_bundles: CABundles | None = None,
    ) -> None:
        self._hosts = hosts
        self._max_bytes = max_bytes
        self._credentials = dict(credentials or {})
        self._ca_bundles = ca_bundles or CABundles()
        self._inner: dict[ssl.SSLContext, httpx.AsyncBaseTransport] = {}

    def check(self, url: httpx.URL) -> None:
        """Raise TargetRefusedError for a URL that may not be called; resolves nothing."""
        if url.scheme not in _PORTS or url.userinfo:
            raise TargetRefusedError("a target is an http(s) URL without user and password")
        self._hosts.check_name(url.host)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; raises TargetRefusedError before anything leaves."""
        url = request.url
        self.check(url)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                address = await self._hosts.resolve(url.host, url.port or _PORTS[url.scheme])
        except (OSError, UnicodeError, TimeoutError) as error:
            if isinstance(error, TargetRefusedError):
                raise
            raise httpx.ConnectError(f"{url.host} cannot be resolved", request=request) from error
        headers = request.headers.copy()
        headers["accept-encoding"] = "identity"
        headers.pop("authorization", None)
        headers.pop("cookie", None)
        credential = self._credentials.get(url.host)
        if credential is not None and url.scheme == "https":
            headers["authorization"] = credential()
        pinned = httpx.Request(
            request.method,
            url.copy_with(host=address),
            headers=headers,
            stream=request.stream,
            extensions=request.extensions | {"sni_hostname": url.host},
        )
        response = await self._inner_for(url.host).handle_async_request(pinned)
        return await self._bounded(response)

    async def aclose(self) -> None:
        """Close all connections."""
        for inner in self._inner.values():
            await inner.aclose()

    def _inner_for(self, host: str) -> httpx.AsyncBaseTransport:
        """Return the transport whose certificate authorities are those of the host."""
        context = self._ca_bundles.for_host(host)
        if context not in self._inner:
            # No connection is kept alive: the pool finds it by its address, which another host
            # may share whose certificate was not checked for this one.
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
            self._inner[context] = httpx.AsyncHTTPTransport(
                verify=context, trust_env=False, limits=limits
            )
        return self._inner[context]

    async def _bounded(self, response: httpx.Response) -> httpx.Response:
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise httpx.RemoteProtocolError("the response is compressed, though that was excluded")
        stream = response.stream
        if not isinstance(stream, httpx.AsyncByteStream):
            raise TypeError("an asynchronous transport gave a synchronous stream")
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_Bounded(stream, self._max_bytes),
            extensions=response.extensions,
        )


class _Bounded(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, most: int) -> None:
        self._stream = stream
        self._left = most
        self._most = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            self._left -= len(piece)
            if self._left < 0:
                raise httpx.RemoteProtocolError(
                    f"the response is larger than {self._most} bytes"
                    " (SKILLFLEET_A2A_MAX_RESPONSE_BYTES)"
                )
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()
