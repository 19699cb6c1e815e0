"""IPv6 beside IPv4, TCP beside UDP, by turns through one tunnel."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.catalogue import NEBULA, OPENVPN, OURS, RAW, WIREGUARD
from benchmarks.parts.base import TunnelPart
from benchmarks.traffic import IperfServer, iperf, received_mbit, received_udp_mbit
from benchmarks.tunnels import Tunnel
from tests.lab.waiting import LabError, wait_until

# Headers of IPv4 and IPv6, each with that of UDP.
_HEADERS = {4: 28, 6: 48}
_TURNS = (4, 6, 6, 4)


class Families(TunnelPart):
    name = "families"
    what = "1 TCP stream, and as many UDP packets of 1350 bytes as go, over IPv4 and over IPv6"
    subjects = (OURS, OPENVPN, WIREGUARD, NEBULA, RAW)
    rounds = 2
    seconds = (19, 10)

    def missing(self, subject: str) -> str | None:
        return "it carries IPv4 only" if subject == NEBULA else super().missing(subject)

    def take(self, tunnel: Tunnel, quick: bool) -> Mapping[str, float]:
        seconds = 1 if quick else 2
        one, two = tunnel.hub.edges[:2]
        six = tunnel.address6(2)
        if six is None:
            raise LabError(f"{tunnel.name} has no IPv6 address")
        addresses = {4: tunnel.address(2), 6: six}
        wait_until(lambda: one.ping(six), 10, f"{tunnel.name}: {six} answers")
        tcp: dict[int, float] = dict.fromkeys(addresses, 0.0)
        udp: dict[int, float] = dict.fromkeys(addresses, 0.0)
        with IperfServer(two):
            for version in _TURNS:
                tcp[version] += received_mbit(iperf(one, addresses[version], seconds)) / 2
            for version in _TURNS:
                # The sizes are those of IP packets.
                size = str(1350 - _HEADERS[version])
                report = iperf(one, addresses[version], seconds, "-u", "-b", "0", "-l", size)
                udp[version] += received_udp_mbit(report) / 2
        return {
            **{f"tcp_{version}": value for version, value in tcp.items()},
            **{f"udp_{version}": value for version, value in udp.items()},
            "tcp_ratio": tcp[6] / tcp[4],
            # Of packets, for an IPv6 packet of the same size has less payload.
            "udp_ratio": udp[6] / (1350 - _HEADERS[6]) / (udp[4] / (1350 - _HEADERS[4])),
        }
