"""A real TLS server with its own authority, and an egress proxy on a socket of the test's own."""

import asyncio
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skillfleet.ports.sandbox import HostSecret, SandboxSpec
from skillfleet_adapters.sandbox.egress.policy import EgressPolicy, EgressRules
from skillfleet_adapters.sandbox.egress.proxy import EgressProxy
from tests.support.tls import write_certificate

API, FILES = "api.test", "files.test"
"""A host with a secret, and one without."""
SECRET = "s3cr3t-Value-of-the-host"
HOST_SECRET = HostSecret("key", API)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@dataclass
class Host:
    """Answers each request with the bytes for its path; both by TLS and plainly."""

    certificate: Path
    port: int = 0
    plain_port: int = 0
    answers: dict[str, bytes | None] = field(default_factory=dict)
    """Raw answers by path, instead of OK; None: no answer."""
    requests: list[bytes] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a connection has ended."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a request without an answer has come."""
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def cut(self) -> None:
        """End the connections of requests without an answer."""
        for writer in self.writers:
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request, record it, and answer."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head)
            lengths = [line for line in head.lower().split(b"\r\n") if b"content-length" in line]
            if lengths:
                self.requests[-1] += await reader.readexactly(int(lengths[0].split(b":")[1]))
            elif b"transfer-encoding" in head.lower():
                self.requests[-1] += await reader.readuntil(b"\r\n0\r\n\r\n")
            answer = self.answers.get(head.split(b" ")[1].decode(), OK)
            if answer is None:
                self.writers.append(writer)
                self.arrived.set()
                await reader.read()
            else:
                writer.write(answer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.ended.set()
            writer.close()


@asynccontextmanager
async def serving(folder: Path, *names: str, address: str = "127.0.0.1") -> AsyncIterator[Host]:
    """Serve with a certificate for the names, that no system trusts."""
    certificate, key = write_certificate(folder, *names)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    host = Host(certificate)
    async with (
        await asyncio.start_server(host.serve, address, 0, ssl=context) as secure,
        await asyncio.start_server(host.serve, address, 0) as plain,
    ):
        host.port = secure.sockets[0].getsockname()[1]
        host.plain_port = plain.sockets[0].getsockname()[1]
        yield host


@dataclass
class Names:
    """The resolver of the test: addresses by name, the last of several answers again and again."""

    answers: dict[str, list[list[str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def lookup(self, host: str, _: int) -> Sequence[str]:
        """Stand in for `policy.lookup`."""
        self.asked.append(host)
        answers = self.answers.get(host, [["127.0.0.1"]])
        return answers.pop(0) if len(answers) > 1 else answers[0]


def rules_for(host: Host, **changes: Any) -> EgressRules:
    """Return rules that allow a test's server."""
    values: dict[str, Any] = {
        "networks": "127.0.0.1/32",
        "ca_file": host.certificate,
        "max_bytes": 1 << 20,
        "max_connections": 4,
        "seconds": 60,
    }
    return EgressRules.read(f"{host.port},{host.plain_port}", **(values | changes))


@dataclass
class Client:
    """Talks to a proxy in bytes."""

    path: Path

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the proxy."""
        return await asyncio.open_unix_connection(self.path)

    async def ask(self, request: bytes) -> bytes:
        """Send bytes and return all that comes until the proxy closes."""
        reader, writer = await self.open()
        writer.write(request)
        try:
            return await asyncio.wait_for(reader.read(), 60)
        finally:
            writer.close()


@asynccontextmanager
async def proxying(
    rules: EgressRules, spec: SandboxSpec | None = None, secret: str = SECRET
) -> AsyncIterator[Client]:
    """Run the proxy of a sandbox, by default one with a secret for API."""
    if spec is None:
        spec = SandboxSpec("box", secrets=(HOST_SECRET,), egress=(API, FILES, "*.wild.test"))
    proxy = EgressProxy(EgressPolicy.of(spec, rules, lambda _: secret), spec.name, "run-1")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "s")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(16)
        proxy.start([listener])
        try:
            yield Client(path)
        finally:
            await proxy.aclose()
