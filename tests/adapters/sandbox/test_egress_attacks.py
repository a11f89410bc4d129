"""Attempts of sandboxed code to get around the egress proxy, as bytes on its socket."""

import base64
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from skillfleet.errors import InvalidArgumentsError
from skillfleet.ports.sandbox import HostSecret, SandboxSpec
from skillfleet_adapters.sandbox.egress import policy
from skillfleet_adapters.sandbox.egress.policy import EgressPolicy
from tests.adapters.sandbox.egress_hosts import (
    API,
    FILES,
    HOST_SECRET,
    SECRET,
    Client,
    Host,
    Names,
    proxying,
    rules_for,
    serving,
)


@pytest.fixture
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


GET = "GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n"


def _get(url: str, host: str = "api.test:PORT") -> str:
    return GET.format(url=url, host=host)


def _post(*headers: str, body: str = "") -> str:
    lines = "".join(f"{line}\r\n" for line in headers)
    return f"POST http://api.test:PORT/ HTTP/1.1\r\nHost: api.test:PORT\r\n{lines}\r\n{body}"


def _connect(authority: str, *headers: str) -> str:
    lines = "".join(f"{line}\r\n" for line in (f"Host: {authority}", *headers))
    return f"CONNECT {authority} HTTP/1.1\r\n{lines}\r\n"


REFUSED = {
    # Hosts that are not in the list.
    "other_host": (403, _get("http://evil.test/", "evil.test")),
    "other_host_tunnel": (403, _connect("evil.test:PORT")),
    "below_a_host": (403, _get("http://x.api.test:PORT/", "x.api.test:PORT")),
    "longer_name": (403, _get("http://xapi.test:PORT/", "xapi.test:PORT")),
    "suffix": (403, _get("http://api.test.evil.test:PORT/", "api.test.evil.test:PORT")),
    "wildcard_itself": (403, _get("http://wild.test:PORT/", "wild.test:PORT")),
    "wildcard_longer": (403, _get("http://evilwild.test:PORT/", "evilwild.test:PORT")),
    "metadata_name": (403, _connect("metadata.google.internal:PORT")),
    "local_host": (403, _connect("localhost:PORT")),
    # Names that some parsers read differently.
    "trailing_dot": (400, _get("http://api.test.:PORT/", "api.test.:PORT")),
    "trailing_dot_tunnel": (400, _connect("files.test.:PORT")),
    "leading_dot": (400, _connect(".files.test:PORT")),
    "two_dots": (400, _connect("files..test:PORT")),
    "userinfo": (400, _get("http://api.test:PORT@evil.test/", "evil.test")),
    "userinfo_of_evil": (400, _get("http://evil.test@api.test:PORT/")),
    "userinfo_tunnel": (400, _connect("api.test@evil.test:PORT")),
    "backslash": (400, _get("http://evil.test\\@api.test:PORT/")),
    "fragment": (400, _get("http://api.test:PORT#@evil.test/")),
    "query_without_path": (400, _get("http://api.test:PORT?@evil.test/")),
    "escape": (400, _get("http://api.test%00.evil.test/", "api.test%00.evil.test")),
    "comma": (400, _get("http://api.test,evil.test/", "api.test,evil.test")),
    "unicode": (400, _get("http://api.test:PORT/", "\uff41pi.test:PORT")),
    "no_host": (400, _get("http:///", "")),
    "triple_slash": (400, _get("http:///api.test:PORT/")),
    # Addresses instead of names.
    "ipv4": (403, _connect("127.0.0.1:PORT")),
    "ipv4_metadata": (403, _get("http://169.254.169.254/", "169.254.169.254")),
    "ipv4_decimal": (403, _connect("2130706433:PORT")),
    "ipv4_hexadecimal": (403, _connect("0x7f000001:PORT")),
    "ipv4_octal": (403, _connect("0177.0.0.1:PORT")),
    "ipv4_short": (403, _connect("127.1:PORT")),
    "ipv4_last_label": (403, _connect("evil.0x1:PORT")),
    "ipv6": (400, _connect("[::1]:PORT")),
    "ipv6_mapped": (400, _get("http://[::ffff:127.0.0.1]:PORT/", "[::ffff:127.0.0.1]:PORT")),
    # Ports.
    "other_port": (403, _connect("files.test:22")),
    "default_port": (403, _get("http://files.test/", "files.test")),
    "port_overflow": (403, _connect("files.test:OVERFLOW")),
    "port_missing": (400, _connect("files.test")),
    "port_empty": (400, _get("http://api.test:/", "api.test:")),
    "port_twice": (400, _connect("files.test:PORT:PORT")),
    "port_sign": (400, _connect("files.test:+PORT")),
    # The target and the header Host.
    "host_differs": (400, _get("http://api.test:PORT/", "files.test:PORT")),
    "host_port_differs": (400, _get("http://api.test:PORT/", "api.test:22")),
    "host_differs_tunnel": (
        400, "CONNECT files.test:PORT HTTP/1.1\r\nHost: api.test:PORT\r\n\r\n"
    ),
    "host_twice": (400, _post("Host: evil.test")),
    "host_missing": (400, "GET http://api.test:PORT/ HTTP/1.1\r\n\r\n"),
    "host_of_a_path": (403, _get("/", "evil.test:PORT")),
    "no_host_of_a_path": (400, "GET / HTTP/1.0\r\n\r\n"),
    "asterisk": (400, "OPTIONS * HTTP/1.1\r\nHost: api.test:PORT\r\n\r\n"),
    "https_url": (400, _get("https://api.test:PORT/")),
    "other_scheme": (400, _get("ftp://api.test:PORT/")),
    # Two requests that look like one.
    "length_and_chunked": (
        400, _post("Content-Length: 4", "Transfer-Encoding: chunked", body="0\r\n\r\nGET ")
    ),
    "two_lengths": (400, _post("Content-Length: 0", "Content-Length: 5", body="hello")),
    "list_of_lengths": (400, _post("Content-Length: 0, 5", body="hello")),
    "signed_length": (400, _post("Content-Length: +5", body="hello")),
    "negative_length": (400, _post("Content-Length: -5", body="hello")),
    "other_coding": (400, _post("Transfer-Encoding: xchunked", body="0\r\n\r\n")),
    "coding_list": (400, _post("Transfer-Encoding: chunked, identity", body="0\r\n\r\n")),
    "two_codings": (
        400, _post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body="0\r\n\r\n")
    ),
    "coding_tab": (400, _post("Transfer-Encoding: \x0bchunked", body="0\r\n\r\n")),
    "chunked_1_0": (
        400,
        ("POST http://api.test:PORT/ HTTP/1.0\r\nHost: api.test:PORT\r\n"
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ),
    "space_before_colon": (400, _post("Content-Length : 5", body="hello")),
    "folded_first_line": (400, "GET http://api.test:PORT/\r\n HTTP/1.1\r\n\r\n"),
    "zero_byte": (400, _post("X: a\0b")),
    "bare_return": (400, _post("X: a\rHost: evil.test")),
    "space_in_target": (400, _get("http://api.test:PORT/a b")),
    "large_head": (400, _post(f"X: {'x' * 300_000}")),
    "not_http": (400, "\x16\x03\x01\r\n\r\n"),
    "body_of_a_tunnel": (400, _connect("files.test:PORT", "Content-Length: 5") + "hello"),
    # The credential.
    "tunnel_to_a_host_with_a_secret": (403, _connect("api.test:PORT")),
    "trace": (405, "TRACE http://api.test:PORT/ HTTP/1.1\r\nHost: api.test:PORT\r\n\r\n"),
}  # fmt: skip
"""The status and the request, in which PORT is one that is allowed."""


def _bytes(text: str, port: int) -> bytes:
    text = text.replace("OVERFLOW", str(port + 65536)[:5]).replace("PORT", str(port))
    return text.encode("utf-8")


async def test_attempts_are_refused_and_nothing_is_sent(host: Host, names: Names) -> None:
    found = {}
    async with proxying(rules_for(host)) as client:
        for name, (_, text) in REFUSED.items():
            answer = await client.ask(_bytes(text, host.port))
            found[name] = answer.split(b" ")[1].decode() if answer else ""
            assert (b"an address is not" in answer) == name.startswith("ipv4"), name
    assert found == {name: str(status) for name, (status, _) in REFUSED.items()}
    assert host.requests == []
    assert names.asked == [], "a name that is refused is not resolved"


async def test_a_request_gets_the_credential_and_tls(host: Host, names: Names) -> None:
    async with proxying(rules_for(host)) as client:
        for target, place in (
            ("http://api.test:PORT/v1?q=1", "api.test:PORT"),
            ("HTTP://API.Test:PORT/v1?q=1", "API.TEST:PORT"),
            ("/v1?q=1", "api.test:PORT"),
        ):
            answer = await client.ask(_bytes(_get(target, place), host.port))
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer
            assert answer.endswith(b"\r\n\r\nhello")
            assert b"connection: close" in answer
            head = host.requests.pop().decode().lower()
            assert head.startswith("get /v1?q=1 http/1.1\r\n")
            assert f"\r\nhost: api.test:{host.port}\r\n" in head
            assert f"\r\nauthorization: bearer {SECRET.lower()}\r\n" in head
    assert names.asked == [API] * 3


@pytest.mark.parametrize("nominated", ["close", "authorization, accept-encoding, x-private"])
async def test_the_credential_cannot_be_replaced_or_removed(
    host: Host, names: Names, nominated: str
) -> None:
    del names
    headers = (
        "Authorization: Bearer mine", "AUTHORIZATION: Basic x", "Proxy-Authorization: Basic y",
        f"Connection: {nominated}", "X-Private: 1", "Upgrade: websocket", "TE: trailers",
        "Keep-Alive: 5", "Accept-Encoding: gzip", "X-Kept: 1", "Content-Length: 5",
    )  # fmt: skip
    async with proxying(rules_for(host)) as client:
        await client.ask(_bytes(_post(*headers, body="hello"), host.port))
    head, _, body = host.requests[0].decode().lower().partition("\r\n\r\n")
    assert sorted(head.split("\r\n")) == sorted(
        [
            "post / http/1.1",
            f"host: api.test:{host.port}",
            "connection: close",
            f"authorization: bearer {SECRET.lower()}",
            "accept-encoding: identity",
            "content-length: 5",
            "x-kept: 1",
            *(["x-private: 1"] if nominated == "close" else []),
        ]
    )
    assert body == "hello"


async def test_what_follows_a_request_is_not_sent(host: Host, names: Names) -> None:
    del names
    second = _get("http://api.test:PORT/second")
    twice = _post("Content-Length: 5", "Content-Length: 5", body="hello")
    chunked = _post("Transfer-Encoding: chunked", body="5;x=y\r\nhello\r\n0\r\nTrailer: 1\r\n\r\n")
    async with proxying(rules_for(host)) as client:
        for first in (_get("http://api.test:PORT/"), twice, chunked):
            answer = await client.ask(_bytes(first + second, host.port))
            assert answer.count(b"HTTP/1.1 ") == 1
    assert len(host.requests) == 3
    assert host.requests[1].lower().count(b"content-length") == 1
    assert host.requests[2].endswith(b"5\r\nhello\r\n0\r\n\r\n")


async def test_a_broken_chunk_ends_the_request(host: Host, names: Names) -> None:
    del names
    async with proxying(rules_for(host)) as client:
        for body in ("0x5\r\nhello\r\n0\r\n\r\n", "-1\r\n", "5\r\nhelloGET / HTTP/1.1\r\n\r\n"):
            broken = _post("Transfer-Encoding: chunked", body=body)
            answer = await client.ask(_bytes(broken, host.port))
            assert answer.startswith(b"HTTP/1.1 400 "), (body, answer)


async def test_a_client_that_waits_for_it_is_asked_for_the_body(host: Host, names: Names) -> None:
    del names
    request = _post("Expect: 100-continue", "Content-Length: 5")
    async with proxying(rules_for(host)) as client:
        reader, writer = await client.open()
        writer.write(_bytes(request, host.port))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(b"hello")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
    assert host.requests[0].endswith(b"\r\n\r\nhello")
    assert b"expect" not in host.requests[0].lower()


async def test_a_host_without_a_secret_gets_none(host: Host, names: Names) -> None:
    request = _get("http://files.test:PORT/", "files.test:PORT")
    async with proxying(rules_for(host)) as client:
        answer = await client.ask(_bytes(request, host.plain_port))
        assert answer.endswith(b"hello")
        request = _get("http://a.b.wild.test:PORT/", "a.b.wild.test:PORT")
        assert (await client.ask(_bytes(request, host.plain_port))).endswith(b"hello")
    assert b"authorization" not in b"".join(host.requests).lower()
    assert names.asked == [FILES, "a.b.wild.test"]


async def test_credentials_of_a_user_are_basic(host: Host, names: Names) -> None:
    del names
    spec = SandboxSpec("box", egress=(API,), secrets=(HostSecret("key", API, user="git"),))
    async with proxying(rules_for(host), spec) as client:
        await client.ask(_bytes(_get("http://api.test:PORT/"), host.port))
    expected = base64.b64encode(f"git:{SECRET}".encode())
    assert b"\r\nauthorization: Basic " + expected + b"\r\n" in host.requests[0]


async def test_a_redirect_is_not_followed(host: Host, names: Names) -> None:
    location = b"Location: https://evil.test/"
    host.answers["/"] = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n%s\r\n\r\n" % location
    async with proxying(rules_for(host)) as client:
        answer = await client.ask(_bytes(_get("http://api.test:PORT/"), host.port))
    assert answer.startswith(b"HTTP/1.1 302 ")
    assert location.lower() in answer.lower()
    assert len(host.requests) == 1
    assert names.asked == [API]


PRIVATE = (
    "10.0.0.1", "127.0.0.2", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1", "fd00::1",
    "fe80::1", "::ffff:10.0.0.1", "::ffff:127.0.0.2", "64:ff9b::a00:1", "2002:a00:1::", "224.0.0.1",
)  # fmt: skip


async def test_a_name_must_have_public_addresses_only(host: Host, names: Names) -> None:
    async with proxying(rules_for(host)) as client:
        for address in PRIVATE:
            for answer in ([address], ["127.0.0.1", address], [address, "127.0.0.1"]):
                names.answers = {FILES: [answer], API: [answer]}
                for request in (_connect("files.test:PORT"), _get("http://api.test:PORT/")):
                    got = await client.ask(_bytes(request, host.port))
                    assert got.startswith(b"HTTP/1.1 403 "), (answer, got)
    assert host.requests == []


async def test_a_name_is_resolved_once_and_the_checked_address_is_used(
    host: Host, names: Names
) -> None:
    names.answers[API] = [["127.0.0.1"], ["10.0.0.1"]]
    async with proxying(rules_for(host)) as client:
        request = _bytes(_get("http://api.test:PORT/"), host.port)
        assert (await client.ask(request)).endswith(b"hello")
        assert names.asked == [API]
        assert (await client.ask(request)).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("trusted", [True, False])
async def test_the_certificate_is_verified(tmp_path: Path, names: Names, trusted: bool) -> None:
    del names
    async with serving(tmp_path, "other.test" if trusted else API) as host:
        rules = rules_for(host) if trusted else rules_for(host, ca_file=None)
        async with proxying(rules) as client:
            answer = await client.ask(_bytes(_get("http://api.test:PORT/"), host.port))
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert b"certificate" in answer
        assert host.requests == []


def _answer(head: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s" % (len(body), head, body)


async def test_an_answer_that_repeats_the_credential_is_cut(host: Host, names: Names) -> None:
    del names
    secret = SECRET.encode()
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (b"a" + secret[:9], secret[9:]))
    host.answers = {
        "/head": _answer(b"X-Echo: Bearer " + secret + b"\r\n", b"hello"),
        "/body": _answer(b"", b"-" * 100_000 + secret + b"-"),
        "/encoded": _answer(b"", base64.b64encode(secret)),
        "/split": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n",
    }
    async with proxying(rules_for(host)) as client:
        for path in host.answers:
            got = await client.ask(_bytes(_get(f"http://api.test:PORT{path}"), host.port))
            assert secret not in got
            assert secret[:9] not in got, path
            assert not got.endswith(b"0\r\n\r\n"), path
            assert base64.b64encode(secret).rstrip(b"=") not in got
        host.answers["/near"] = _answer(b"", b"x" + secret[:-1])
        got = await client.ask(_bytes(_get("http://api.test:PORT/near"), host.port))
        assert got.endswith(b"x" + secret[:-1])


async def test_an_answer_is_written_anew(host: Host, names: Names) -> None:
    del names
    host.answers = {
        "/both": b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n"
        b"Connection: x-hop\r\nX-Hop: 1\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "/switch": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
        "/early": b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        "/short": b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhello",
        "/garbage": b"hello\r\n\r\n",
        "/nothing": b"",
    }
    got = {}
    async with proxying(rules_for(host)) as client:
        for path in host.answers:
            got[path] = await client.ask(_bytes(_get(f"http://api.test:PORT{path}"), host.port))
    assert b"content-length" not in got["/both"].lower()
    assert b"x-hop" not in got["/both"].lower()
    assert got["/both"].endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    assert got["/early"].startswith(b"HTTP/1.1 204 ")
    assert got["/short"].endswith(b"\r\n\r\nhello")
    for path in ("/switch", "/garbage", "/nothing"):
        assert got[path].startswith(b"HTTP/1.1 502 "), (path, got[path])


def _hello(name: str | None) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    side = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        side.do_handshake()
    return outgoing.read()


async def _tunnel(client: Client, port: int, first: bytes, pieces: int = 1) -> bytes:
    reader, writer = await client.open()
    writer.write(_bytes(_connect("files.test:PORT"), port))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    size = -(-len(first) // pieces) or 1
    for start in range(0, len(first), size):
        writer.write(first[start : start + size])
        await writer.drain()
    writer.write_eof()
    data = await reader.read()
    writer.close()
    return data


async def test_a_tunnel_carries_tls_for_its_host_only(host: Host, names: Names) -> None:
    del names
    async with proxying(rules_for(host)) as client:
        for first in (
            b"GET / HTTP/1.1\r\nHost: files.test\r\n\r\n",
            b"SSH-2.0-x\r\n",
            _hello("api.test"),
            _hello("evil.test"),
            _hello(None),
            _hello("files.test")[:100],
            b"",
        ):
            assert await _tunnel(client, host.port, first) == b"", first
        assert host.requests == []
        for pieces in (1, 20):
            # The server's answer to the greeting: a handshake record.
            answer = await _tunnel(client, host.port, _hello("Files.test"), pieces)
            assert answer.startswith(b"\x16\x03"), pieces


@pytest.mark.parametrize(
    "spec",
    [
        {"egress": ("https://api.test",)},
        {"egress": ("api.test:443",)},
        {"egress": ("api.test.",)},
        {"egress": ("127.0.0.1",)},
        {"egress": ("[::1]",)},
        {"egress": ("2130706433",)},
        {"egress": ("*",)},
        {"egress": ("*.*.test",)},
        {"egress": ("user@api.test",)},
        {"egress": ("\u0430pi.test",)},
        {"egress": ("",)},
        {"secrets": (HOST_SECRET,)},
        {"egress": ("*.test",), "secrets": (HOST_SECRET,)},
        {"egress": (API,), "secrets": (HOST_SECRET, HOST_SECRET)},
        {"egress": (API,), "secrets": (HostSecret("key", API, header="Host"),)},
        {"egress": (API,), "secrets": (HostSecret("key", API, header="a b"),)},
        {"egress": (API,), "secrets": (HostSecret("key", API, prefix="x\r\nY: "),)},
    ],
)
async def test_a_spec_that_is_not_exact_is_refused(host: Host, spec: dict[str, object]) -> None:
    given = SandboxSpec("box", **spec)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentsError):
        EgressPolicy.of(given, rules_for(host), lambda _: SECRET)


async def test_a_secret_that_no_header_may_have_is_not_shown(host: Host) -> None:
    spec = SandboxSpec("box", egress=(API,), secrets=(HOST_SECRET,))
    with pytest.raises(InvalidArgumentsError) as refused:
        EgressPolicy.of(spec, rules_for(host), lambda _: SECRET + "\nX: y")
    assert SECRET not in str(refused.value)
