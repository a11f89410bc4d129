"""The egress policy of one sandbox: hosts, ports, addresses, and the credentials of hosts."""

import asyncio
import base64
import ipaddress
import re
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, Self

from skillfleet.errors import InvalidArgumentsError
from skillfleet.ports.sandbox import HostSecret, SandboxSpec
from skillfleet_adapters.addresses import Network, is_in, is_public

HTTP_PORT: Final = 80
HTTPS_PORT: Final = 443
_LONGEST_NAME: Final = 253
_LABEL: Final = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
_NUMBER: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
"""What resolvers read as an address, in any notation: the last label is a number."""
_AUTHORITY: Final = re.compile(r"([a-z0-9._-]+)(?::([0-9]{1,5}))?")
_HEADER: Final = re.compile(r"[a-z0-9-]+")
_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_FRAMING: Final = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "upgrade"}
)


class Refused(Exception):  # noqa: N818 - a verdict
    """A request that the proxy refuses. The reason goes to the client and the log: no secrets."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True)
class Credential:
    """The header that the proxy adds to the requests for one host."""

    header: bytes
    value: bytes = field(repr=False)
    secret: bytes = field(repr=False)

    @classmethod
    def of(cls, wanted: HostSecret, secret: str) -> Self:
        """Return the header with a secret; raises InvalidArgumentsError, without the value."""
        header = wanted.header.lower()
        if not _HEADER.fullmatch(header) or header in _FRAMING:
            raise InvalidArgumentsError(f"{wanted.header!r} cannot be the header of a secret")
        if wanted.user is None:
            value = wanted.prefix + secret
        else:
            value = "Basic " + base64.b64encode(f"{wanted.user}:{secret}".encode()).decode()
        if not _VALUE.fullmatch(value):
            raise InvalidArgumentsError(
                f"the secret {wanted.secret!r} has characters that no HTTP header may have"
            )
        return cls(header.encode(), value.encode(), secret.encode())


@dataclass(frozen=True)
class Target:
    """The host and port of a request, allowed by the policy."""

    host: str
    port: int
    credential: Credential | None = None


@dataclass(frozen=True)
class EgressRules:
    """The operator's rules for the egress of all sandboxes."""

    ports: frozenset[int]
    networks: tuple[Network, ...]
    """The addresses that may be reached although they are not public."""
    max_bytes: int
    max_connections: int
    seconds: float
    ca_file: Path | None
    """Certificate authorities beside those of the system."""

    @classmethod
    def read(
        cls,
        ports: str,
        networks: str,
        ca_file: Path | None,
        *,
        max_bytes: int,
        max_connections: int,
        seconds: float,
    ) -> Self:
        """Read lists separated by commas; raises ValueError, and OSError for an unreadable file."""
        numbers = frozenset(int(each) for each in ports.split(","))
        if not all(0 < number < 1 << 16 for number in numbers):
            raise ValueError(f"{ports!r} are not ports")
        found = tuple(
            ipaddress.ip_network(each.strip()) for each in networks.split(",") if each.strip()
        )
        if ca_file is not None:
            ssl.create_default_context(cafile=str(ca_file))
        return cls(numbers, found, max_bytes, max_connections, seconds, ca_file)

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """The verification of the certificates of hosts with a credential."""
        context = ssl.create_default_context()
        if self.ca_file is not None:
            context.load_verify_locations(self.ca_file)
        context.set_alpn_protocols(["http/1.1"])
        return context


@dataclass(frozen=True)
class EgressPolicy:
    """The rules and the hosts of one sandbox."""

    rules: EgressRules
    names: frozenset[str]
    suffixes: tuple[str, ...]
    credentials: Mapping[str, Credential]

    @classmethod
    def of(cls, spec: SandboxSpec, rules: EgressRules, secret: Callable[[str], str]) -> Self:
        """Read a spec; raises InvalidArgumentsError, and UnknownSecretError of `secret`."""
        names, suffixes = set(), []
        for entry in spec.egress:
            host = entry.lower()
            _check_name(host.removeprefix("*."), entry)
            if host.startswith("*."):
                suffixes.append(host[1:])
            else:
                names.add(host)
        credentials: dict[str, Credential] = {}
        for wanted in spec.secrets:
            host = wanted.host.lower()
            if host not in names or host in credentials:
                raise InvalidArgumentsError(
                    f"the secret {wanted.secret!r} is for the host {wanted.host!r}, which must be"
                    " in egress by its full name, and have one secret"
                )
            credentials[host] = Credential.of(wanted, secret(wanted.secret))
        return cls(rules, frozenset(names), tuple(suffixes), credentials)

    def target(self, host: str, port: int, *, tunnel: bool) -> Target:
        """Return the target of a request for a host and port; raises Refused."""
        if not (host in self.names or (self.suffixes and host.endswith(self.suffixes))):
            raise Refused(403, f"the host {host} is not in the sandbox's egress list")
        credential = self.credentials.get(host)
        if credential is not None:
            if tunnel:
                raise Refused(403, f"the proxy adds a credential: use http://{host}, not https")
            port = HTTPS_PORT if port == HTTP_PORT else port
        if port not in self.rules.ports:
            raise Refused(403, f"port {port} is not allowed")
        return Target(host, port, credential)

    async def resolve(self, target: Target) -> Sequence[str]:
        """Return the addresses of a target, each of them allowed; raises Refused.

        Resolves once: connect to these and to no other, as the name may resolve differently then.
        """
        try:
            found = await lookup(target.host, target.port)
        except (OSError, UnicodeError):
            raise Refused(502, f"the host {target.host} is not known") from None
        for text in found:
            address = ipaddress.ip_address(text)
            if not is_public(address) and not is_in(address, self.rules.networks):
                raise Refused(403, f"the host {target.host} has an address that is not public")
        return found


async def lookup(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host; raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A link-local address may carry its interface after a %.
    return [str(each[4][0]).partition("%")[0] for each in found]


def host_and_port(authority: bytes, default: int | None) -> tuple[str, int]:
    """Split an authority; raises Refused for anything but a host name and a port.

    An absent port is `default`; None refuses its absence.
    """
    match = _AUTHORITY.fullmatch(authority.decode("latin-1").lower())
    if match is None or (match[2] is None and default is None):
        raise Refused(400, "the authority is not a host name with a port")
    host = match[1]
    if _NUMBER.fullmatch(host):
        raise Refused(403, "an address is not a host name")
    if not _NAME.fullmatch(host) or len(host) > _LONGEST_NAME:
        raise Refused(400, "the host name is not valid")
    return host, int(match[2] or default or 0)


def _check_name(host: str, entry: str) -> None:
    if len(host) > _LONGEST_NAME or not _NAME.fullmatch(host) or _NUMBER.fullmatch(host):
        raise InvalidArgumentsError(
            f"{entry!r} is not a host name: egress lists names such as api.example.com and"
            " *.example.com, without scheme, port or address"
        )
