"""The hosts that may be called, their addresses, and the credentials for them."""

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from skillfleet.errors import SettingsError, TargetRefusedError
from skillfleet_adapters.a2a.ca_bundles import CABundles
from skillfleet_adapters.a2a.credentials import bearer_tokens
from skillfleet_adapters.a2a.host_allowlist import HostAllowlist
from skillfleet_adapters.a2a.transport import GuardedTransport
from skillfleet_adapters.secrets.environment import EnvironmentSecrets
from tests.support.tls import write_certificate


async def test_a_listed_name_that_resolves_to_loopback_is_refused() -> None:
    with pytest.raises(TargetRefusedError, match="not public and not listed"):
        await HostAllowlist.parse("localhost").resolve("localhost", 80)


async def test_a_credential_goes_to_its_host_alone_over_tls_to_the_address_that_was_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, stream=httpx.ByteStream(b"ok"))

    hosts = HostAllowlist.parse("localhost, 127.0.0.0/8, ::1")
    guarded = GuardedTransport(hosts, 1000, {"localhost": lambda: "Bearer t0ken"})
    monkeypatch.setattr(guarded, "_inner_for", lambda _: httpx.MockTransport(answer))
    async with httpx.AsyncClient(transport=guarded) as client:
        for url in ("https://localhost/a", "http://localhost/b", "https://127.0.0.1/c"):
            await client.get(url, headers={"authorization": "of the caller", "cookie": "a=b"})
    tls, plain, other = sent
    assert tls.headers["authorization"] == "Bearer t0ken"
    assert "authorization" not in plain.headers
    assert "authorization" not in other.headers
    assert all("cookie" not in request.headers for request in sent)
    assert tls.url.host in {"127.0.0.1", "::1"}
    assert tls.headers["host"] == tls.extensions["sni_hostname"] == "localhost"


async def test_a_listed_name_may_resolve_to_a_listed_address() -> None:
    hosts = HostAllowlist.parse("localhost, 127.0.0.0/8, ::1")
    assert await hosts.resolve("localhost", 80) in {"127.0.0.1", "::1"}


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "192.168.1.1", "172.16.0.1", "169.254.169.254", "0.0.0.0"),
        *("100.64.0.1", "224.0.0.1", "::1", "fe80::1", "fc00::1", "::ffff:127.0.0.1"),
        *("64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1", "::ffff:0:127.0.0.1"),
        *("64:ff9b:1::7f00:1", "fec0::1", "2001::1", "3fff::1", "5f00::1", "192.0.0.8"),
        *("192.88.99.1", "198.18.0.1", "240.0.0.1", "255.255.255.255", "::", "ff02::1"),
    ],
)
async def test_an_address_that_is_not_public_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    async def answers(*_: Any, **__: Any) -> list[Any]:
        return [(0, 0, 0, "", ("93.184.216.34", 80)), (0, 0, 0, "", (address, 80))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", answers)
    with pytest.raises(TargetRefusedError, match="not public"):
        await HostAllowlist.parse("partner.test").resolve("partner.test", 80)


@pytest.mark.parametrize(
    ("listed", "host", "allowed"),
    [
        ("partner.test", "PARTNER.test.", True),
        ("partner.test", "evil-partner.test", False),
        ("*.partner.test", "a.partner.test", True),
        ("*.partner.test", "partner.test", False),
        ("*.partner.test", "apartner.test", False),
        ("", "partner.test", False),
    ],
)
def test_names_are_compared_whole(listed: str, host: str, allowed: bool) -> None:
    hosts = HostAllowlist.parse(listed)
    if allowed:
        hosts.check_name(host)
    else:
        with pytest.raises(TargetRefusedError):
            hosts.check_name(host)


@pytest.mark.parametrize("text", ["http://x", "a b", "*", "10.0.0.0/33"])
def test_a_list_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="SKILLFLEET_A2A_HOSTS"):
        HostAllowlist.parse(text)


def test_a_credential_needs_a_host_and_a_secret_that_exists() -> None:
    secret = EnvironmentSecrets({"S_TOKEN": "t0ken"}, "S_").get
    assert bearer_tokens("Partner.test=token", secret)["partner.test"]() == "Bearer t0ken"
    for text in ("partner.test", "=token", "partner.test=nothing"):
        with pytest.raises(SettingsError, match="SKILLFLEET_A2A_CREDENTIALS"):
            bearer_tokens(text, secret)


def resolving(monkeypatch: pytest.MonkeyPatch, answers: Mapping[str, list[str]]) -> None:
    """Let each name resolve to its addresses, one after the other; the last one stays."""
    left = {name: list(addresses) for name, addresses in answers.items()}

    async def resolve(host: str, port: int, **_: Any) -> list[Any]:
        addresses = left[host]
        address = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        return [(0, 0, 0, "", (address, port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)


async def test_a_name_that_resolves_anew_is_checked_anew_and_never_asked_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DNS rebinding: a public address for the check, loopback for the connection."""
    resolving(monkeypatch, {"partner.test": ["93.184.216.34", "127.0.0.1"]})
    sent: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.url.host)
        return httpx.Response(200, stream=httpx.ByteStream(b"ok"))

    guarded = GuardedTransport(HostAllowlist.parse("partner.test"), 1000)
    monkeypatch.setattr(guarded, "_inner_for", lambda _: httpx.MockTransport(answer))
    async with httpx.AsyncClient(transport=guarded) as client:
        await client.get("https://partner.test/")
        with pytest.raises(TargetRefusedError, match=r"127\.0\.0\.1"):
            await client.get("https://partner.test/")
    assert sent == ["93.184.216.34"]


async def test_a_connection_to_one_host_is_not_used_for_another_at_the_same_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its certificate was checked for the one only, and the other's credential would go there."""
    certificate, key = write_certificate(tmp_path, "mean.test")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            received.append(head)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    resolving(monkeypatch, {"mean.test": ["127.0.0.1"], "kind.test": ["127.0.0.1"]})
    guarded = GuardedTransport(
        HostAllowlist.parse("mean.test, kind.test, 127.0.0.1"),
        1000,
        {"kind.test": lambda: "Bearer t0ken"},
        CABundles.parse(f"*.test={certificate}"),
    )
    async with server, httpx.AsyncClient(transport=guarded) as client:
        assert (await client.get(f"https://mean.test:{port}/")).text == "ok"
        with pytest.raises(httpx.ConnectError, match=r"(?i)certificate"):
            await client.get(f"https://kind.test:{port}/")
    assert not any(b"t0ken" in head for head in received)


def test_an_authority_vouches_for_its_own_hosts_only(tmp_path: Path) -> None:
    certificate, _ = write_certificate(tmp_path)
    known = CABundles.parse(f"agents.corp={certificate}, *.test.corp={certificate}")
    for host in ("agents.corp", "AGENTS.corp.", "a.test.corp", "a.b.test.corp"):
        assert known.for_host(host) is not known.public
    for host in ("corp", "test.corp", "b.agents.corp", "agents.corp.evil.test"):
        assert known.for_host(host) is known.public


@pytest.mark.parametrize("text", ["agents.corp", "=x.pem", "a=", "a=/nowhere.pem", "a={empty}"])
def test_an_unusable_authority_is_reported_at_the_start(text: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    with pytest.raises(SettingsError, match="SKILLFLEET_A2A_CA_FILES"):
        CABundles.parse(text.format(empty=empty))


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:5db8:d822"])
async def test_a_public_address_is_taken(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, {"partner.test": [address]})
    assert await HostAllowlist.parse("partner.test").resolve("partner.test", 443) == address
