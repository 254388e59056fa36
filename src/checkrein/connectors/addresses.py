"""Which addresses an upstream's name may lead to.

A name in `base_url` must not lead into a network that is not public (loopback, private, link-local, shared), unless the
configuration lists that network: whoever controls a name server could else have our credential sent to a neighbour of
ours. An address that is written out is listed by that, but for link-local ones, where clouds keep their secrets.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LOCAL = "localhost"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class ForbiddenAddress(OSError):
    """The name leads into a network that is not listed."""


def networks(listed: Collection[str]) -> tuple[Network, ...]:
    """Networks in CIDR form; raises `ValueError`."""
    return tuple(ipaddress.ip_network(text) for text in listed)


def written_out(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None


def admits(host: str, address: str, listed: Collection[Network]) -> bool:
    """Whether a connection to `address` may be made for `host`."""
    found = written_out(address)
    if found is None:
        return False
    meant = _meant(found)
    if any(one in network for network in listed for one in (found, meant) if one.version == network.version):
        return True
    if written_out(host) is not None:
        return not (found.is_link_local or meant.is_link_local)
    if host == _LOCAL or host.endswith("." + _LOCAL):
        return meant.is_loopback
    return found.is_global and meant.is_global and not meant.is_multicast


def _meant(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one, where there is one that routers go by."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else address)


class Resolver(AbstractResolver):
    """Resolves names, and leaves out where they may not lead; raises `ForbiddenAddress` if nothing is left."""

    def __init__(self, listed: Collection[Network]) -> None:
        self._listed = listed
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        left = [one for one in found if admits(host, one["host"], self._listed)]
        if not left:
            raise ForbiddenAddress("no address that may be used")
        return left

    async def close(self) -> None:
        await self._inner.close()
