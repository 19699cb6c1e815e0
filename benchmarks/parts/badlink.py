"""Bad links: late, lossy, slow and stalled. Every tunnel's own congestion control goes over the same packet relay."""

from __future__ import annotations

import time
from collections.abc import Mapping

from benchmarks.catalogue import OPENVPN, OPENVPN_TCP, OURS, RAW, WIREGUARD
from benchmarks.parts.base import TunnelPart
from benchmarks.parts.throughput import loaded
from benchmarks.path import PathSpec
from benchmarks.traffic import IperfServer
from benchmarks.tunnels import Tunnel
from tests.lab.waiting import wait_until

# Each tunnel crosses two relayed paths, edge to hub and hub to edge, and both ways of each: so each takes a quarter of
# the round-trip time, and half of the loss.


class BadLink(TunnelPart):
    name = "bad-link"
    what = "goodput and ping under load at 200 ms, 2 % loss, 10 Mbit/s; recovery from a stall of 5 s"
    subjects = (OURS, OPENVPN, OPENVPN_TCP, WIREGUARD, RAW)
    path = PathSpec(delay=0.05, loss=0.01, rate=10e6)

    def take(self, tunnel: Tunnel, quick: bool) -> Mapping[str, float]:
        with IperfServer(tunnel.hub.edges[1]):
            goodput, delay = loaded(tunnel, 8 if quick else 12, streams=4)
        return {"bad_goodput": goodput, "bad_ping": delay, "stall_recovery": self._stall(tunnel, 5)}

    @staticmethod
    def _stall(tunnel: Tunnel, seconds: float) -> float:
        """Seconds after the end of a stall until the other edge answers again."""
        end = time.monotonic() + seconds
        tunnel.hub.stall(seconds)
        one, address = tunnel.hub.edges[0], tunnel.address(2)
        wait_until(lambda: one.ping(address, timeout=1), seconds + 60, "an answer after the stall")
        return max(time.monotonic() - end, 0.0)


class SlowLink(TunnelPart):
    name = "slow-link"
    what = "goodput and ping under load at 300 ms, 1 % loss, 256 kbit/s"
    subjects = (OURS, OPENVPN, OPENVPN_TCP, WIREGUARD, RAW)
    path = PathSpec(delay=0.075, loss=0.005, rate=256e3)

    def take(self, tunnel: Tunnel, quick: bool) -> Mapping[str, float]:
        with IperfServer(tunnel.hub.edges[1]):
            goodput, delay = loaded(tunnel, 8 if quick else 12, streams=1)
        return {"slow_goodput": goodput, "slow_ping": delay}
