"""Egress of real sandboxes: what gets out, what does not, and when it ends."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from skillfleet import LocalRunContext, NoAuth
from skillfleet.errors import SandboxRuntimeError, SettingsError, UnknownSecretError
from skillfleet.ports.sandbox import SandboxHandle, SandboxSpec
from skillfleet_adapters.sandbox.egress import policy, proxy
from skillfleet_adapters.sandbox.kinds import _landlock_version
from tests.adapters.sandbox.conftest import provider_of, require
from tests.adapters.sandbox.egress_hosts import (
    API,
    FILES,
    HOST_SECRET,
    SECRET,
    Host,
    Names,
    proxying,
    rules_for,
    serving,
)
from tests.support.debian import require_binary

SPEC = SandboxSpec("box", egress=(API, FILES), secrets=(HOST_SECRET,))


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Resolve all names to the test's server."""
    names = Names()
    monkeypatch.setattr(policy, "lookup", names.lookup)
    return names


@pytest_asyncio.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    """Serve the hosts that a sandbox may reach."""
    async with serving(tmp_path, API, FILES) as host:
        yield host


@pytest_asyncio.fixture
async def ctx(kind: str, folder: Path, host: Host) -> AsyncIterator[LocalRunContext]:
    """Return the context of a run whose sandboxes may reach the test's server."""
    provider = provider_of(
        kind,
        folder,
        SKILLFLEET_SANDBOX_EGRESS_PORTS=f"{host.port},{host.plain_port}",
        SKILLFLEET_SANDBOX_EGRESS_NETWORKS="127.0.0.0/8",
        SKILLFLEET_SANDBOX_EGRESS_CA_FILE=str(host.certificate),
    )
    context = LocalRunContext(auth=NoAuth(), sandbox=provider, secrets={"key": SECRET})
    yield context
    await context.aclose()


async def _box(ctx: LocalRunContext, host: Host) -> SandboxHandle:
    box = await ctx.sandbox.create(SPEC)
    await box.put("ca.pem", host.certificate.read_bytes())
    return box


BY_SOCKET = """
import http.client, os, socket, ssl

class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ["SKILLFLEET_EGRESS_SOCKET"])

api = Connection("api.test", PORT)
api.request("POST", "/v1", body="question")
print(api.getresponse().read())

tunnel = Connection("files.test", PORT)
tunnel.connect()
tunnel.sock.sendall(b"CONNECT files.test:PORT HTTP/1.1\\r\\nHost: files.test:PORT\\r\\n\\r\\n")
assert tunnel.sock.recv(1000).startswith(b"HTTP/1.1 200 ")
context = ssl.create_default_context(cafile="ca.pem")
tunnel.sock = context.wrap_socket(tunnel.sock, server_hostname="files.test")
tunnel.request("GET", "/file")
print(tunnel.getresponse().read())
"""

BY_PROXY = """
import ssl, urllib.error, urllib.request
print(urllib.request.urlopen("http://api.test:PORT/v1", b"question").read())
context = ssl.create_default_context(cafile="ca.pem")
print(urllib.request.urlopen("https://files.test:PORT/file", context=context).read())
try:
    urllib.request.urlopen("https://evil.test/", context=context)
except urllib.error.URLError as error:
    print(error)
"""


def _check(host: Host) -> None:
    api, files = (request.decode().lower() for request in host.requests)
    assert f"authorization: bearer {SECRET.lower()}" in api
    assert api.endswith("\r\n\r\nquestion")
    assert files.startswith("get /file ")
    assert "authorization" not in files
    host.requests.clear()


async def test_a_client_of_the_socket_reaches_the_hosts(ctx: LocalRunContext, host: Host) -> None:
    box = await _box(ctx, host)
    code = BY_SOCKET.replace("PORT", str(host.port))
    result = await box.exec("python3", ["-I", "-c", code], timeout=120)
    assert result.stdout == "b'hello'\nb'hello'\n", result.output
    _check(host)


@pytest.mark.parametrize("kind", ["bubblewrap"])
async def test_ordinary_clients_reach_the_hosts(
    ctx: LocalRunContext, host: Host, kind: str
) -> None:
    require(kind)
    require_binary("curl", "curl")
    box = await _box(ctx, host)
    code = BY_PROXY.replace("PORT", str(host.port))
    result = await box.exec("python3", ["-I", "-c", code], timeout=120)
    assert result.stdout.startswith("b'hello'\nb'hello'\n"), result.output
    assert "host evil.test is not in the sandbox's egress list" in result.stdout
    _check(host)
    curl = "curl -sS --cacert ca.pem"
    result = await box.shell(
        f"{curl} http://api.test:{host.port}/v1 -d question &&"
        f" {curl} https://files.test:{host.port}/file",
        timeout=120,
    )
    assert result.output == "hellohello"
    _check(host)


OUTSIDE = {
    "tcp": "socket.create_connection(('127.0.0.1', PORT), 5)",
    "tcp_by_name": "socket.create_connection(('files.test', PORT), 5)",
    "tcp_fast_open": (
        "socket.socket(socket.AF_INET, socket.SOCK_STREAM)"
        ".sendto(b'x', 0x20000000, ('127.0.0.1', PORT))"
    ),
    "multipath_tcp": "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)",
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "ipv6": "socket.socket(socket.AF_INET6, socket.SOCK_STREAM)",
    "raw": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "netlink": "socket.socket(16, socket.SOCK_RAW)",
    "vsock": "socket.socket(40, socket.SOCK_STREAM)",
    "abstract_socket": "socket.socket(socket.AF_UNIX).connect(chr(0) + NAME)",
    "name_service": "socket.getaddrinfo('files.test', 80)",
}
"""Ways around the proxy, each of which must fail."""

TRY = """
import socket
for name, attempt in ATTEMPTS.items():
    try:
        eval(attempt)
    except OSError as error:
        pass
    else:
        print(name)
print("tried")
"""


async def test_there_is_no_way_around_the_proxy(ctx: LocalRunContext, host: Host) -> None:
    box = await _box(ctx, host)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0host-{host.port}")
        listening.listen()
        attempts = {
            name: code.replace("PORT", str(host.plain_port)).replace("NAME", f"'host-{host.port}'")
            for name, code in OUTSIDE.items()
        }
        code = TRY.replace("ATTEMPTS", repr(attempts))
        result = await box.exec("python3", ["-I", "-c", code], timeout=120)
    assert result.output == "tried\n"


async def test_other_sockets_of_the_machine(
    ctx: LocalRunContext, host: Host, kind: str, folder: Path
) -> None:
    """Landlock refuses them from version 9 on; before, docs/isolation.md says so."""
    box = await _box(ctx, host)
    path = folder / "other.sock"
    async with await asyncio.start_unix_server(host.serve, path):
        path.chmod(0o666)
        code = f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r})"
        result = await box.exec("python3", ["-I", "-c", code], timeout=120)
    assert result.ok == (kind == "landlock" and _landlock_version() < 9), result.output


async def test_no_secret_enters_the_sandbox_or_the_log(
    ctx: LocalRunContext, host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    box = await _box(ctx, host)
    code = BY_SOCKET.replace("PORT", str(host.port))
    look = "env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline $(find /tmp /run . -type f)"
    result = await box.shell(f"python3 -I -c '{code}'; {look} 2>/dev/null", timeout=120)
    assert "b'hello'\nb'hello'\n" in result.stdout
    assert "SKILLFLEET_EGRESS_SOCKET" in result.stdout
    await box.stop()
    lines = [each.getMessage() for each in caplog.records if each.name == proxy.__name__]
    assert [line.partition("bytes")[0].rstrip(" 0123456789") for line in lines] == [
        f"egress of run {ctx.task_id}, sandbox box: host {name}, passed," for name in (API, FILES)
    ]
    assert not any(SECRET in text for text in (result.output, caplog.text, str(await box.logs())))


@pytest.mark.parametrize("end", ["kill", "stop", "aclose"])
async def test_the_proxy_ends_with_its_sandbox(ctx: LocalRunContext, host: Host, end: str) -> None:
    before = asyncio.all_tasks()
    box = await _box(ctx, host)
    host.answers["/v1"] = None
    code = BY_SOCKET.replace("PORT", str(host.port))
    command = asyncio.ensure_future(box.exec("python3", ["-I", "-c", code]))
    async with asyncio.timeout(60):
        await host.arrived.wait()
        assert not host.ended.is_set()
        await (ctx.aclose() if end == "aclose" else getattr(box, end)())
        await host.ended.wait()
    with pytest.raises(SandboxRuntimeError):
        await command
    left = [str(task) for task in asyncio.all_tasks() - before if "egress" in str(task)]
    assert left == []


async def test_a_secret_must_be_declared(kind: str, folder: Path) -> None:
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider_of(kind, folder))
    with pytest.raises(UnknownSecretError):
        await ctx.sandbox.create(SPEC)
    assert await ctx.sandbox.list() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORTS", "http"), ("PORTS", "70000"), ("NETWORKS", "here"), ("CA_FILE", "/nowhere.pem")],
)
def test_settings_are_checked_at_the_start(folder: Path, name: str, value: str) -> None:
    with pytest.raises(SettingsError, match="SKILLFLEET_SANDBOX_EGRESS"):
        provider_of("landlock", folder, **{f"SKILLFLEET_SANDBOX_EGRESS_{name}": value})


def _get(host: Host, path: str = "/") -> bytes:
    place = f"{API}:{host.port}"
    return f"GET http://{place}{path} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode()


async def test_bytes_are_limited_over_all_connections(host: Host) -> None:
    host.answers["/"] = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 300_000
    async with proxying(rules_for(host, max_bytes=500_000)) as client:
        first = await client.ask(_get(host))
        second = await client.ask(_get(host))
        third = await client.ask(_get(host))
    assert len(first) > 300_000
    assert len(first) + len(second) < 500_000 + 2000
    assert b"limit of bytes" in third


async def test_connections_beyond_the_limit_wait(host: Host) -> None:
    host.answers["/hang"] = None
    async with proxying(rules_for(host, max_connections=1)) as client:
        first = asyncio.ensure_future(client.ask(_get(host, "/hang")))
        await asyncio.wait_for(host.arrived.wait(), 60)
        host.answers.clear()
        second = asyncio.ensure_future(client.ask(_get(host)))
        done, _ = await asyncio.wait({second}, timeout=0.2)
        assert (done, len(host.requests)) == (set(), 1)
        host.cut()
        assert (await first).startswith(b"HTTP/1.1 502 ")
        assert (await second).endswith(b"hello")


async def test_a_connection_is_limited_in_time(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    host.answers["/hang"] = None
    async with proxying(rules_for(host, seconds=0.3)) as client:
        async with asyncio.timeout(30):
            for first in (b"", b"GET http", _get(host, "/hang")):
                assert await client.ask(first) == b""
    assert caplog.text.count("it took too long") == 3


async def test_lines_of_the_log_are_limited(
    host: Host, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(proxy, "_LOG_LINES", 3)
    async with proxying(rules_for(host)) as client:
        for _ in range(6):
            await client.ask(b"GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n")
    assert [each.getMessage()[-10:] for each in caplog.records] == [
        "0 received",
        "0 received",
        "not logged",
    ]
