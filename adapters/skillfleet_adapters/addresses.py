"""Public addresses, and networks of addresses."""

import ipaddress
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_UNICAST: Final = ipaddress.ip_network("2000::/3")
"""The allocated IPv6 addresses; outside of them are several notations of IPv4 addresses."""
_RESERVED: Final = tuple(
    ipaddress.ip_network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "2002::/16", "3fff::/20")
)
"""Networks that are not public, although `is_global` of some Python versions says so."""


def is_public(address: Address) -> bool:
    """Return whether an address is public; of IPv6 forms of IPv4, only mapped ones can be."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address not in _UNICAST:
            return False
    if any(address in network for network in _RESERVED):
        return False
    return address.is_global and not address.is_multicast


def is_in(address: Address, networks: tuple[Network, ...]) -> bool:
    """Return whether an address, or the IPv4 one that it maps, is in one of the networks."""
    plain = getattr(address, "ipv4_mapped", None) or address
    return any(plain in network for network in networks)
