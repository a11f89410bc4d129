"""The inside of a sandbox with egress: sockets of the proxy, variables, certificates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from skillfleet.errors import SandboxUnavailable

CERTIFICATES: Final = (
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust",
)
"""The places of the system's certificate authorities."""
_PORT: Final = 3128
_LONGEST_PATH: Final = 107
_LOCAL: Final = "127.0.0.1,localhost"


@dataclass(frozen=True)
class Inside:
    """The addresses at which the supervisor listens, and the variables that name them."""

    listen: Sequence[str | tuple[str, int]] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


def of_socket(path: str) -> Inside:
    """Return what a sandbox without a network of its own finds: a Unix socket."""
    if len(path.encode()) > _LONGEST_PATH:
        raise SandboxUnavailable(
            f"the path of the egress socket, {path}, is too long: choose a shorter"
            " SKILLFLEET_SANDBOX_DIRECTORY"
        )
    return Inside([path], {"SKILLFLEET_EGRESS_SOCKET": path})


def of_network(path: str) -> Inside:
    """Return what a sandbox with its own loopback interface finds: a proxy for any client too."""
    variables = {"SKILLFLEET_EGRESS_SOCKET": path}
    for name in ("http_proxy", "https_proxy"):
        # curl reads only the first of these in small letters, some clients only large ones.
        variables[name] = variables[name.upper()] = f"http://127.0.0.1:{_PORT}"
    variables["no_proxy"] = variables["NO_PROXY"] = _LOCAL
    return Inside([path, ("127.0.0.1", _PORT)], variables)
