"""Tunnels of CONNECT: TLS of the sandbox's own, to the host that it has named."""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Final

import h11

from skillfleet_adapters.sandbox.egress.exchange import Peer, Wanted, connect
from skillfleet_adapters.sandbox.egress.policy import EgressPolicy, Refused
from skillfleet_adapters.sandbox.egress.traffic import PIECE, Traffic

_HELLO_BYTES: Final = 64 * 1024


async def tunnel(client: Peer, asked: Wanted, policy: EgressPolicy, traffic: Traffic) -> None:
    """Connect a client with the host it asked for until one side ends; raises Refused."""
    target = asked.target
    reader, writer = await connect(policy, target, tls=False)
    try:
        await client.send(
            h11.Response(status_code=200, headers=[], reason=b"Connection established")
        )
        hello, name = await _client_hello(client, traffic)
        if name is None or name.lower() != target.host:
            # The address of an allowed host may serve others, too.
            raise Refused(403, f"the tunnel does not begin with TLS for {target.host}")
        writer.write(hello)
        outward = asyncio.ensure_future(_pump(client.reader, writer, traffic.count_sent))
        inward = asyncio.ensure_future(_pump(reader, client.writer, traffic.count_received))
        try:
            # A side that has what it wants may reset the connection.
            with contextlib.suppress(ConnectionError):
                await asyncio.gather(outward, inward)
        finally:
            for task in (outward, inward):
                task.cancel()
            await asyncio.gather(outward, inward, return_exceptions=True)
    finally:
        writer.close()


async def _client_hello(client: Peer, traffic: Traffic) -> tuple[bytes, str | None]:
    """Return the first bytes of a tunnel and the server name in them; None for no TLS.

    OpenSSL parses them, as the server that it does not become.
    """
    names: list[str | None] = []

    def note(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> int:
        names.append(name)
        return ssl.ALERT_DESCRIPTION_CLOSE_NOTIFY

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = note
    incoming = ssl.MemoryBIO()
    server = context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    data = bytes(client.http.trailing_data[0])
    incoming.write(data)
    while len(data) <= _HELLO_BYTES:
        try:
            server.do_handshake()
        except ssl.SSLWantReadError:
            more = await client.reader.read(PIECE)
            if not more:
                break
            traffic.count_sent(len(more))
            incoming.write(more)
            data += more
        except ssl.SSLError:
            break
    return data, names[0] if names else None


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: Callable[[int], None]
) -> None:
    while data := await reader.read(PIECE):
        count(len(data))
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
