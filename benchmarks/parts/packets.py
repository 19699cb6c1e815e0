"""Small and full UDP packets, as many as go."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.parts.base import TunnelPart
from benchmarks.traffic import IperfServer, iperf, received_kpps
from benchmarks.tunnels import Tunnel


class Packets(TunnelPart):
    name = "packets"
    what = "64- and 1350-byte packets a second"
    seconds = (10, 8)

    def take(self, tunnel: Tunnel, quick: bool) -> Mapping[str, float]:
        seconds = 2 if quick else 3
        one, two = tunnel.hub.edges[:2]
        values = {}
        with IperfServer(two):
            for size in (64, 1350):
                # The sizes are those of IP packets: 28 bytes are headers.
                report = iperf(one, tunnel.address(2), seconds, "-u", "-b", "0", "-l", str(size - 28))
                values[f"pps_{size}"] = received_kpps(report)
        return values
