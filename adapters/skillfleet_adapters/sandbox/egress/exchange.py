"""One HTTP message exchange through the proxy: parsed and written anew by h11 on both sides."""

import asyncio
import contextlib
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import h11

from skillfleet_adapters.sandbox.egress.guard import RepeatGuard
from skillfleet_adapters.sandbox.egress.policy import (
    HTTP_PORT,
    EgressPolicy,
    Refused,
    Target,
    host_and_port,
)
from skillfleet_adapters.sandbox.egress.traffic import PIECE, Traffic

_HEAD_BYTES: Final = 64 * 1024
_CONNECT_SECONDS: Final = 15.0
_TRIED_ADDRESSES: Final = 4
_LINGER_SECONDS: Final = 1.0
_LINGER_PIECES: Final = 16
_ABSOLUTE: Final = re.compile(rb"http://([^/?#]*)(/[^#]*)?", re.IGNORECASE)
_ECHOING: Final = frozenset({b"TRACE", b"TRACK"})
_HOP_BY_HOP: Final = frozenset({
    b"connection", b"expect", b"http2-settings", b"keep-alive", b"proxy-authenticate",
    b"proxy-authentication-info", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
})  # fmt: skip

Headers = list[tuple[bytes, bytes]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Peer:
    """One side of an exchange."""

    http: h11.Connection
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    traffic: Traffic | None = None
    """Counts the bytes of the sandbox's side."""

    @classmethod
    def of(
        cls,
        role: type[h11.CLIENT | h11.SERVER],
        streams: Streams,
        traffic: Traffic | None = None,
    ) -> "Peer":
        """Return the peer at the other end of streams; `role` is the proxy's own."""
        return cls(h11.Connection(role, _HEAD_BYTES), *streams, traffic)

    async def receive(self) -> object:
        """Return the next event; raises h11.RemoteProtocolError."""
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event
            data = await self.reader.read(PIECE)
            if self.traffic is not None:
                self.traffic.count_sent(len(data))
            self.http.receive_data(data)

    async def send(self, event: h11.Event) -> None:
        """Write an event."""
        data = self.http.send(event) or b""
        if self.traffic is not None:
            self.traffic.count_received(len(data))
        self.writer.write(data)
        await self.writer.drain()

    async def refuse(self, refusal: Refused) -> None:
        """Answer with the reason, unless an answer has begun."""
        if self.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        # Clients show the reason of a refused tunnel rather than its body.
        reason = f"egress refused: {refusal.reason}".encode()
        text = reason + b"\n"
        headers = [("content-type", "text/plain"), ("content-length", str(len(text)))]
        head = h11.Response(
            status_code=refusal.status,
            headers=[*headers, ("connection", "close")],
            reason=reason,
        )
        for event in (head, h11.Data(data=text), h11.EndOfMessage()):
            # A HEAD request gets no body; what exceeds a limit of bytes gets its answer still.
            self.writer.write(self.http.send(event) or b"")
        await self.writer.drain()

    async def close(self) -> None:
        """Close, after a moment for what is still sent: unread data would destroy an answer."""
        try:
            with contextlib.suppress(OSError, TimeoutError):
                self.writer.write_eof()
                async with asyncio.timeout(_LINGER_SECONDS):
                    for _ in range(_LINGER_PIECES):
                        if not await self.reader.read(PIECE):
                            return
        finally:
            self.writer.close()


@dataclass(frozen=True)
class Wanted:
    """A request's target, and the path for it; None for a tunnel."""

    target: Target
    path: bytes | None


def wanted(request: h11.Request, policy: EgressPolicy) -> Wanted:
    """Return what a request is for; raises Refused."""
    headers = list(request.headers)
    hosts = [value for name, value in headers if name == b"host"]
    _check_framing(request, headers)
    if request.method == b"CONNECT":
        host, port = host_and_port(request.target, None)
        _check_host(hosts, (host, port), port)
        return Wanted(policy.target(host, port, tunnel=True), None)
    if request.method in _ECHOING:
        raise Refused(405, "the method repeats headers")
    match = _ABSOLUTE.fullmatch(request.target)
    if match is not None:
        authority, path = match[1], match[2] or b"/"
    elif request.target.startswith(b"/") and hosts:
        authority, path = hosts[0], request.target
    else:
        raise Refused(400, "the request is neither for an http URL nor a tunnel")
    host, port = host_and_port(authority, HTTP_PORT)
    _check_host(hosts, (host, port), HTTP_PORT)
    return Wanted(policy.target(host, port, tunnel=False), path)


async def connect(policy: EgressPolicy, target: Target, *, tls: bool) -> Streams:
    """Connect to a target, by TLS with a verified certificate or plainly; raises Refused."""
    addresses = await policy.resolve(target)
    secured = {"ssl": policy.rules.tls, "server_hostname": target.host} if tls else {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CONNECT_SECONDS):
            for address in list(dict.fromkeys(addresses))[:_TRIED_ADDRESSES]:
                try:
                    return await asyncio.open_connection(address, target.port, **secured)  # type: ignore[arg-type]
                except ssl.SSLCertVerificationError as error:
                    reason = f"the certificate of {target.host} is not valid"
                    raise Refused(502, f"{reason}: {error.verify_message}") from None
                except OSError:
                    continue
    raise Refused(502, f"no connection to {target.host}")


async def forward(client: Peer, request: h11.Request, asked: Wanted, policy: EgressPolicy) -> None:
    """Send a request to its host and the answer back; raises Refused."""
    target = asked.target
    streams = await connect(policy, target, tls=target.credential is not None)
    upstream = Peer.of(h11.CLIENT, streams)
    try:
        headers = _request_headers(list(request.headers), target)
        await upstream.send(
            h11.Request(method=request.method, target=asked.path or b"/", headers=headers)
        )
        sending = asyncio.ensure_future(_send_body(client, upstream))
        answering = asyncio.ensure_future(_answer(client, upstream, target))
        try:
            await asyncio.wait({sending, answering}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                sending.result()
            await answering
        finally:
            for task in (sending, answering):
                task.cancel()
            await asyncio.gather(sending, answering, return_exceptions=True)
    finally:
        upstream.writer.close()


async def _send_body(client: Peer, upstream: Peer) -> None:
    if client.http.they_are_waiting_for_100_continue:
        await client.send(h11.InformationalResponse(status_code=100, headers=[]))
    while True:
        event = await client.receive()
        if isinstance(event, h11.Data):
            piece: h11.Event = h11.Data(data=event.data)
        elif isinstance(event, h11.EndOfMessage):
            piece = h11.EndOfMessage()  # without trailers
        else:
            return
        try:
            await upstream.send(piece)
        except OSError:
            return  # The host may have answered before it stopped reading.
        if isinstance(piece, h11.EndOfMessage):
            return


async def _answer(client: Peer, upstream: Peer, target: Target) -> None:
    guard = RepeatGuard(target.credential)
    response = await _receive(upstream)
    while isinstance(response, h11.InformationalResponse):
        response = await _receive(upstream)
    if not isinstance(response, h11.Response):
        raise Refused(502, "the host does not answer")
    headers = _response_headers(list(response.headers))
    guard.check_head([response.reason, *(part for header in headers for part in header)])
    await client.send(
        h11.Response(
            status_code=response.status_code,
            headers=[*headers, (b"connection", b"close")],
            reason=response.reason,
        )
    )
    while isinstance(event := await _receive(upstream), h11.Data):
        if passed := guard.passed(bytes(event.data)):
            await client.send(h11.Data(data=passed))
    if not isinstance(event, h11.EndOfMessage):
        raise Refused(502, "the answer is incomplete")
    if rest := guard.rest():
        await client.send(h11.Data(data=rest))
    await client.send(h11.EndOfMessage())


async def _receive(upstream: Peer) -> object:
    try:
        return await upstream.receive()
    except (h11.RemoteProtocolError, OSError):
        raise Refused(502, "the answer is not valid HTTP, or incomplete") from None


def _check_framing(request: h11.Request, headers: Headers) -> None:
    """Refuse what two parsers may read as messages of different length."""
    names = [name for name, _ in headers]
    lengths, codings = names.count(b"content-length"), names.count(b"transfer-encoding")
    # h11 has refused other codings than chunked, and lengths that differ.
    if lengths + codings > 1 or (codings and request.http_version != b"1.1"):
        raise Refused(400, "the length of the request is ambiguous")
    if request.method == b"CONNECT" and lengths + codings:
        raise Refused(400, "a tunnel has no request body")


def _check_host(hosts: Sequence[bytes], expected: tuple[str, int], default: int) -> None:
    # HTTP/1.0 may leave it out; h11 has refused several.
    for host in hosts:
        if host_and_port(host, default) != expected:
            raise Refused(400, "the header Host is not the host of the request")


def _kept(headers: Headers) -> Headers:
    """Return the headers that are not for the proxy itself."""
    nominated = {
        name.strip().lower()
        for key, value in headers
        if key == b"connection"
        for name in value.split(b",")
    } - {b"content-length", b"host"}
    dropped = nominated | _HOP_BY_HOP
    return [(name, value) for name, value in headers if name not in dropped]


def _request_headers(headers: Headers, target: Target) -> Headers:
    chunked = any(name == b"transfer-encoding" for name, _ in headers)
    credential = target.credential
    replaced = {b"host"}
    usual = 80 if credential is None else 443
    host = target.host if target.port == usual else f"{target.host}:{target.port}"
    added = [(b"host", host.encode()), (b"connection", b"close")]
    if chunked:
        added.append((b"transfer-encoding", b"chunked"))
    if credential is not None:
        # Compression would hide a repeated credential from the guard.
        added += [(credential.header, credential.value), (b"accept-encoding", b"identity")]
        replaced |= {credential.header, b"accept-encoding"}
    return [*added, *(each for each in _kept(headers) if each[0] not in replaced)]


def _response_headers(headers: Headers) -> Headers:
    chunked = any(name == b"transfer-encoding" for name, _ in headers)
    return [each for each in _kept(headers) if not (chunked and each[0] == b"content-length")]
