"""Address and credentials of a Redis server, parsed from a URL in redis-py's form.

redis-py parses such URLs as well, but importing it takes 9 MiB and 0.07 s, which every producer,
command and exporter would pay for that alone.
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

SCHEMES = ("redis", "rediss", "unix")
_QUOTED = (
    "special characters in a user or password are percent-encoded: # as %23, / as %2F, ? as %3F"
)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NOT_PRINTED = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Address:
    """A server, one of its databases, and the credentials for it."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    """The path of the unix socket; host and port are unused then."""
    database: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    tls: Mapping[str, str] | None = None
    """redis-py's `ssl_...` options; None for a connection without TLS."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse redis://, rediss:// or unix://; raises ValueError, whose message hides the URL.

        `redis://[[user]:password@]host[:port][/database][?option=value...]`. The database may
        be the option `db`, credentials may be the options `username` and `password`. Options
        of redis-py's own connections have no meaning here and are ignored.
        """
        parts = split_url(url, SCHEMES)
        options = _options(parts)
        given: dict[str, Any] = {
            "username": _plain(parts.username) or options.get("username", ""),
            "password": _plain(parts.password) or options.get("password", ""),
        }
        if parts.scheme == "unix":
            if parts.hostname or not parts.path:
                raise ValueError("a unix:// URL has three slashes before the socket's path")
            given |= {"path": _plain(parts.path), "database": _number(options.get("db", ""))}
            return cls(**given)
        if parts.hostname:
            given["host"] = _plain(parts.hostname)
        if parts.port:
            given["port"] = parts.port
        given["database"] = _number(options.get("db", unquote(parts.path).strip("/")))
        if parts.scheme == "rediss":
            given["tls"] = {name: text for name, text in options.items() if name[:4] == "ssl_"}
        return cls(**given)

    def __str__(self) -> str:
        """Return the server, without credentials."""
        return self.path or f"{self.host}:{self.port}"

    def tls_context(self) -> ssl.SSLContext | None:
        """Return the TLS context of the options; None without TLS. Raises OSError for bad files."""
        options = self.tls
        if options is None:
            return None
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if options.get("ssl_cert_reqs") in ("none", "CERT_NONE"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif options.get("ssl_check_hostname", "true").lower() in ("false", "f", "no", "n", "0"):
            context.check_hostname = False
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
        return context


def split_url(url: str, schemes: tuple[str, ...]) -> SplitResult:
    """Return the parts of a server's URL; raises ValueError, whose message shows no part of it.

    urllib accepts some URLs that are refused here, and reads another server or password from them.
    """
    if "://" not in url or url.partition("://")[0].lower() not in schemes:
        raise ValueError(f"it must start with one of {', '.join(f'{s}://' for s in schemes)}")
    if _NOT_PRINTED.search(url):
        raise ValueError("it holds a space, a line's end or another character that is not printed")
    if _BAD_ESCAPE.search(url):
        raise ValueError("a % in it is not followed by two hexadecimal digits: write %25 for a %")
    if "#" in url:
        raise ValueError(f"it holds a #; {_QUOTED}")
    try:
        parts = urlsplit(url)
        _ = parts.hostname
    except ValueError:
        # urllib's own message may contain the password.
        raise ValueError(
            "its host cannot be read: an IPv6 address is written in brackets, as in redis://[::1]:6379,"
            " and in a password [ is written %5B and ] %5D"
        ) from None
    try:
        port = parts.port
    except ValueError:
        port = 0
    if "@" in parts.path and parts.netloc and "@" not in parts.netloc:
        raise ValueError(f"an @ comes after the host; {_QUOTED}")
    if port == 0:
        raise ValueError(f"its port is not a number from 1 to 65535; {_QUOTED}")
    return parts


def _options(parts: SplitResult) -> dict[str, str]:
    try:
        return dict(parse_qsl(parts.query, strict_parsing=bool(parts.query), errors="strict"))
    except ValueError:
        raise ValueError(f"its options after ? must be name=value; {_QUOTED}") from None


def _plain(text: str | None) -> str:
    try:
        return unquote(text or "", errors="strict")
    except UnicodeDecodeError:
        raise ValueError("an escape with % in it is not UTF-8") from None


def _number(text: str) -> int:
    """Return a database's number; as in redis-py, anything but digits means the first."""
    return int(text) if text.isascii() and text.isdigit() else 0
