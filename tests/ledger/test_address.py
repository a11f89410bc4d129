"""Redis URLs are parsed as redis-py parses them."""

import ssl

import pytest
from redis.connection import SSLConnection, parse_url

from skillfleet_ledger.redis_client.address import Address

URLS = [
    "redis://",
    "redis://:6380",
    "redis://redis.example",
    "redis://redis.example:6380/3",
    "redis://[::1]:6380/3",
    "redis://:p%40ss%2Fword@redis.example/0",
    "redis://user%3Aname:word@redis.example/12/",
    "redis://user@redis.example",
    "redis://redis.example/no-number",
    "redis://redis.example/3?db=4",
    "redis://redis.example?username=alice&password=a%2520b",
    "redis://bob:word@redis.example?username=alice&password=other",
    "redis://redis.example/1?socket_timeout=3&health_check_interval=10",
    "unix:///run/redis.sock",
    "unix://alice:word@/run/my%20redis.sock?db=2",
    "rediss://redis.example",
    "rediss://redis.example/1?ssl_cert_reqs=none&ssl_ca_certs=/a/ca.pem",
]


@pytest.mark.parametrize("url", URLS)
def test_a_url_means_what_it_means_to_redis_py(url: str) -> None:
    address = Address.parse(url)
    theirs = dict(parse_url(url))  # type: ignore[no-untyped-call]
    assert (address.host, address.port) == (
        theirs.get("host", "localhost"),
        theirs.get("port", 6379),
    )
    assert address.path == theirs.get("path")
    assert address.database == theirs.get("db", 0)
    assert address.username == theirs.get("username", "")
    assert address.password == theirs.get("password", "")
    assert (address.tls is not None) == (theirs.get("connection_class") is SSLConnection)
    tls = {name: text for name, text in theirs.items() if name.startswith("ssl_")}
    assert dict(address.tls or {}) == tls


@pytest.mark.parametrize("url", ["", "redis.example", "http://redis.example", "redis://h:port"])
def test_an_invalid_redis_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"redis|port"):
        Address.parse(url)


def test_an_address_never_shows_its_password() -> None:
    address = Address.parse("redis://alice:very-secret@redis.example:6380/1")
    assert "very-secret" not in f"{address} {address!r}"
    assert str(address) == "redis.example:6380"


@pytest.mark.parametrize(
    ("option", "checks_name", "mode"),
    [
        ("", True, ssl.CERT_REQUIRED),
        ("?ssl_check_hostname=False", False, ssl.CERT_REQUIRED),
        ("?ssl_check_hostname=true", True, ssl.CERT_REQUIRED),
        ("?ssl_cert_reqs=required", True, ssl.CERT_REQUIRED),
        ("?ssl_cert_reqs=none", False, ssl.CERT_NONE),
    ],
)
def test_certificates_are_checked_unless_the_url_says_not_to(
    option: str, checks_name: bool, mode: ssl.VerifyMode
) -> None:
    context = Address.parse(f"rediss://redis.example{option}").tls_context()
    assert context is not None
    assert (context.check_hostname, context.verify_mode) == (checks_name, mode)
    assert Address.parse("redis://redis.example").tls_context() is None
