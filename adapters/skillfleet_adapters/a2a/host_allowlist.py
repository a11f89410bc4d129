"""The allow-list of hosts that skills may call over HTTP, and of addresses they may resolve to."""

import asyncio
import ipaddress
import socket
from dataclasses import dataclass

from skillfleet.errors import SettingsError, TargetRefusedError
from skillfleet_adapters.addresses import Address, Network, is_in, is_public


@dataclass(frozen=True)
class HostAllowlist:
    """Names (`*.example.com` for all below it), addresses and networks.

    A name may resolve to public addresses; to a private, loopback or link-local one only when
    that address, or its network, is listed itself.
    """

    names: frozenset[str]
    suffixes: tuple[str, ...]
    networks: tuple[Network, ...]

    @classmethod
    def parse(cls, text: str) -> "HostAllowlist":
        """Read the entries, separated by commas; raises SettingsError."""
        names: set[str] = set()
        suffixes: list[str] = []
        networks: list[Network] = []
        for entry in filter(None, (part.strip().lower().rstrip(".") for part in text.split(","))):
            try:
                networks.append(ipaddress.ip_network(entry))
            except ValueError:
                bare = entry.removeprefix("*.")
                if not bare or not all(c.isalnum() or c in "-._" for c in bare):
                    raise SettingsError(
                        f"SKILLFLEET_A2A_HOSTS: {entry!r} is not a host name, address or network"
                    ) from None
                if entry.startswith("*."):
                    suffixes.append("." + bare)
                else:
                    names.add(entry)
        return cls(frozenset(names), tuple(suffixes), tuple(networks))

    def check_name(self, host: str) -> None:
        """Raise TargetRefusedError for a host that is not listed."""
        name = host.lower().rstrip(".")
        address = _address(name)
        if address is not None:
            listed = is_in(address, self.networks)
        else:
            listed = name in self.names or name.endswith(self.suffixes)
        if not listed:
            raise TargetRefusedError(
                f"the host {host!r} is not on the list of hosts that may be called"
                " (SKILLFLEET_A2A_HOSTS)"
            )

    async def resolve(self, host: str, port: int) -> str:
        """Return the address to connect to, checked; raises TargetRefusedError and OSError.

        Connect to it and to no other: the name may resolve differently the next time.
        """
        self.check_name(host)
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # A link-local address may carry its interface after a %.
        addresses = [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]
        for address in addresses:
            if not is_public(address) and not is_in(address, self.networks):
                raise TargetRefusedError(
                    f"the host {host!r} resolves to the address {address}, which is not public"
                    " and not listed itself (SKILLFLEET_A2A_HOSTS)"
                )
        return str(addresses[0])


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
