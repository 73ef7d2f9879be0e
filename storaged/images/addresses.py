"""Which addresses an image may be fetched from: none that lead back to this host, its neighbours or its cloud.

Whoever may import from a URL makes this host ask for them, so that what only it can reach must stay out: itself, its
link, and the services by which clouds hand credentials to their machines. A private network is where mirrors live,
and is open. An address that holds another one (IPv4 in IPv6, in any of its forms) is judged by both.
Pure.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

METADATA = tuple(
    ip_network(text)
    for text in (
        "169.254.0.0/16",  # link-local, and with it most clouds
        "100.100.100.200/32",  # Alibaba
        "168.63.129.16/32",  # Azure
        "192.0.0.192/32",  # Oracle
        "fd00:ec2::/32",  # AWS
        "fd20:ce::/32",  # Google
        "fd00:c1::/32",  # Oracle
        "fd00:42::/32",  # Scaleway
    )
)
_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_MAPPED = IPv6Network("::ffff:0:0/96")
_UNICAST = (IPv6Network("2000::/3"), IPv6Network("fc00::/7"), _MAPPED, *_NAT64)  # all that one machine may have
_NO_MACHINE = (IPv4Network("0.0.0.0/8"), IPv4Network("224.0.0.0/3"))


def forbidden(address: Address) -> str | None:
    """Why nothing is fetched from there, whatever the host; `None` where it may be."""
    return next((why for inner in (address, *_within(address)) if (why := _why(inner)) is not None), None)


def parse_address(text: str) -> Address:
    """As `getaddrinfo` gives it, a zone included. Raises `ValueError`."""
    return ip_address(text.partition("%")[0])


def _why(address: Address) -> str | None:
    if address.is_loopback or address.is_unspecified:
        return "it is the host itself"
    if address.is_link_local or any(address in network for network in METADATA):
        return "it is on the host's own link, or a cloud's metadata service"
    if isinstance(address, IPv4Address):
        machine = not any(address in network for network in _NO_MACHINE)
    else:
        machine = any(address in network for network in _UNICAST)
    return None if machine else "it is no address of one machine"


def _within(address: Address) -> Iterator[IPv4Address]:
    if isinstance(address, IPv4Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if any(address in network for network in _NAT64):
        yield IPv4Address(int(address) & 0xFFFFFFFF)
