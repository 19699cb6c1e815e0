"""Brings connections to the kubelet ports of the edge nodes here: nftables rules, and where a connection was headed."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from twisted.application.service import Service
from twisted.internet import utils
from twisted.internet.defer import Deferred
from twisted.logger import Logger

KUBELET_PORT = 10250
"""The kubelet's own port."""

REDIRECT_TABLE = "kubebus-kubelet"

_SO_ORIGINAL_DST = 80
"""From linux/netfilter_ipv4.h; ``IP6T_SO_ORIGINAL_DST`` has the same number."""

IPAddress = IPv4Address | IPv6Address


def redirect_rules(subnets: Sequence[IPv4Network | IPv6Network], port: int, kubelet_port: int = KUBELET_PORT) -> str:
    """nftables rules (for ``nft -f -``) that end connections to the nodes' kubelet ports at the local ``port``.

    They catch what other machines send through this one, and what this one sends itself.
    """
    lines = []
    for subnet in subnets:
        family = "ip" if subnet.version == 4 else "ip6"
        lines.append(f"    {family} daddr {subnet} tcp dport {kubelet_port} redirect to :{port}")
    rules = "\n".join(lines)
    return f"""table inet {REDIRECT_TABLE} {{}}
delete table inet {REDIRECT_TABLE}
table inet {REDIRECT_TABLE} {{
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
{rules}
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
{rules}
  }}
}}
"""


class RedirectService(Service):
    """Keeps the rules of :func:`redirect_rules` in place while it runs, by the program ``nft``."""

    _log = Logger()

    def __init__(self, reactor: Any, subnets: Sequence[IPv4Network | IPv6Network], port: int) -> None:
        self._reactor = reactor
        self._rules = redirect_rules(subnets, port)
        self._loading: Deferred[None] | None = None

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._loading = Deferred.fromCoroutine(self._nft(self._rules))

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._remove())

    async def _remove(self) -> None:
        if self._loading is not None:
            await self._loading
        await self._nft(f"table inet {REDIRECT_TABLE} {{}}\ndelete table inet {REDIRECT_TABLE}\n")

    async def _nft(self, rules: str) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".nft") as file:
            file.write(rules)
            file.flush()
            run: Any = utils.getProcessOutputAndValue
            try:
                _, err, code = await run("nft", ["-f", file.name], os.environ, reactor=self._reactor)
            except Exception as error:  # no such program, or it was killed
                code, err = -1, str(error).encode()
        if code:
            self._log.error(
                "the kubelet ports of the edge nodes are not redirected; logs and exec will fail: {error}",
                error=err.decode("utf-8", "replace").strip(),
            )


def original_destination(connection: socket.socket) -> IPAddress | None:
    """The address a connection was made to, before a redirection; its local address where there was none."""
    try:
        if connection.family == socket.AF_INET6:
            raw = connection.getsockopt(socket.IPPROTO_IPV6, _SO_ORIGINAL_DST, 28)
            return _plain(IPv6Address(raw[8:24]))
        raw = connection.getsockopt(socket.IPPROTO_IP, _SO_ORIGINAL_DST, 16)
        return IPv4Address(struct.unpack_from("!I", raw, 4)[0])
    except OSError:
        pass
    try:
        return _plain(ip_address(connection.getsockname()[0].partition("%")[0]))
    except (OSError, ValueError):
        return None


def _plain(address: IPAddress) -> IPAddress:
    """An IPv4 address that came through a socket for both families."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
