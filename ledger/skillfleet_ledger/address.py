"""Where a Redis is and how to get in, read from a URL in redis-py's form.

redis-py reads such URLs itself; importing it takes 9 MiB and 0.07 s, which every producer, command
and exporter would pay for this and nothing else.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

SCHEMES = ("redis", "rediss", "unix")


@dataclass(frozen=True, slots=True)
class Address:
    """A server, one of its databases, and the credentials for it."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    """The unix socket; host and port say nothing then."""
    database: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    tls: Mapping[str, str] | None = None
    """redis-py's `ssl_...` options; None for a connection without TLS."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read redis://, rediss:// or unix://; raises ValueError.

        `redis://[[user]:password@]host[:port][/database][?option=value...]`. The database may
        be the option `db`, credentials may be the options `username` and `password`. Options
        of redis-py's own connections have no meaning here and are passed over.
        """
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES:
            raise ValueError(f"a Redis URL starts with one of {', '.join(SCHEMES)}, then ://")
        options = dict(parse_qsl(parts.query))
        given: dict[str, Any] = {
            "username": unquote(parts.username or "") or options.get("username", ""),
            "password": unquote(parts.password or "") or options.get("password", ""),
        }
        if parts.scheme == "unix":
            given |= {"path": unquote(parts.path), "database": _number(options.get("db", ""))}
            return cls(**given)
        if parts.hostname:
            given["host"] = unquote(parts.hostname)
        if parts.port:
            given["port"] = parts.port
        given["database"] = _number(options.get("db", unquote(parts.path).strip("/")))
        if parts.scheme == "rediss":
            given["tls"] = {name: text for name, text in options.items() if name[:4] == "ssl_"}
        return cls(**given)

    def __str__(self) -> str:
        """The server, without credentials."""
        return self.path or f"{self.host}:{self.port}"

    def tls_context(self) -> ssl.SSLContext | None:
        """A TLS context as the options want it; None without TLS. Raises OSError for bad files."""
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


def _number(text: str) -> int:
    """A database's number; whatever is none means the first, as with redis-py."""
    return int(text) if text.isascii() and text.isdigit() else 0
