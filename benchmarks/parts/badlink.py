"""Bad links: late, lossy, slow and stalled. Every tunnel's own congestion control goes over the same packet relay."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import ClassVar

from benchmarks.catalogue import OPENVPN, OPENVPN_TCP, OURS, RAW
from benchmarks.congestion import offered
from benchmarks.parts.base import TunnelPart
from benchmarks.parts.throughput import loaded
from benchmarks.path import PathSpec
from benchmarks.traffic import IperfServer, Replies, device_bytes, iperf, iperf_in_background, middle, ping
from benchmarks.tunnels import Tunnel
from benchmarks.world import Hub
from tests.lab.waiting import LabError

# Each tunnel crosses two relayed paths, edge to hub and hub to edge, and both ways of each: so each takes a quarter of
# the round-trip time, and half of the loss.


class _RelayedPart(TunnelPart):
    """Figures over a bad path. Of plain forwarding it takes what the relay itself does to packets as well.

    :cvar prefix: of the metrics of the relay.
    """

    prefix: ClassVar[str]

    def __init__(self) -> None:
        self._relay_known = False

    def expected(self, subject: str, quick: bool) -> float:
        return self.seconds[quick] + (20 if subject == RAW else 0)

    def relay(self, tunnel: Tunnel, quick: bool) -> Mapping[str, float]:
        """The path as packets find it: round trip, what one direction loses, and what comes through at most; once, and
        of plain forwarding only."""
        if tunnel.name != RAW or self._relay_known:
            return {}
        # iperf3 greets with one packet, which may be lost as any other, and gives up without an answer.
        for _ in range(2):
            with suppress(LabError):
                return self._relay(tunnel, quick)
        return self._relay(tunnel, quick)

    def _relay(self, tunnel: Tunnel, quick: bool) -> Mapping[str, float]:
        assert self.path is not None and self.path.rate is not None
        (one, two), address = tunnel.hub.edges[:2], tunnel.address(2)
        # The header of an IPv4 packet with UDP takes 28 bytes.
        size, rate = 200, self.path.rate
        udp = ("-u", "-l", str(size - 28), "-b")
        seconds = 4.0 if quick else 10.0
        # At half of the rate what is lost is lost by chance.
        with IperfServer(two, 5211):
            half = iperf(one, address, seconds, *udp, f"{rate / 2 * (size - 28) / size:.0f}", port=5211)
        # A server of its own: one that was sent too much does not know for some seconds that it is over.
        much = f"{rate * 1.5 * (size - 28) / size:.0f}"
        with IperfServer(two, 5212), iperf_in_background(one, address, seconds + 6, *udp, much, port=5212) as report:
            # First the path has to fill.
            time.sleep(4)
            before, began = device_bytes(two, "up0"), time.monotonic()
            time.sleep(seconds)
            came = (device_bytes(two, "up0") - before) / (time.monotonic() - began)
            report()
        self._relay_known = True
        return {
            f"{self.prefix}_relay_rtt": middle(ping(one, address, 20, 0.1)),
            f"{self.prefix}_relay_loss": half["end"]["sum"]["lost_percent"],
            f"{self.prefix}_relay_rate": came * 8 / 1e6,
        }


class BadLink(_RelayedPart):
    name = "bad-link"
    what = "goodput and ping under load at 200 ms, 2 % loss, 10 Mbit/s; recovery from a stall of 5 s"
    subjects: ClassVar[tuple[str, ...]] = (OURS, OPENVPN, OPENVPN_TCP, RAW)
    seconds = (32, 24)
    path = PathSpec(delay=0.05, loss=0.01, rate=10e6)
    prefix = "bad"

    def take(self, tunnel: Tunnel, quick: bool) -> Mapping[str, float]:
        values = self.relay(tunnel, quick)
        with IperfServer(tunnel.hub.edges[1]):
            goodput, delay = loaded(tunnel, 8 if quick else 11, streams=4, settle=3)
        return {f"{self.prefix}_goodput": goodput, f"{self.prefix}_ping": delay, **values, **self.more(tunnel)}

    def more(self, tunnel: Tunnel) -> Mapping[str, float]:
        return {"stall_recovery": self._stall(tunnel, 5)}

    @staticmethod
    def _stall(tunnel: Tunnel, seconds: float) -> float:
        """Seconds after the end of a stall until the other edge answers again."""
        with Replies(tunnel.hub.edges[0], tunnel.address(2), 0.05) as replies:
            tunnel.hub.stall(seconds)
            end = time.time() + seconds
            time.sleep(seconds + 3)
        return replies.first_after(end)


class BadLinkCubic(BadLink):
    """The same where kernels have their own default. OpenVPN over TCP lives by the kernel's congestion control, as do
    the streams inside all tunnels; a tunnel that chooses for itself does not."""

    name = "bad-link-cubic"
    what = "the bad link where the kernels' congestion control is CUBIC, Linux's default"
    subjects = (OURS, OPENVPN_TCP)
    seconds = (25, 17)
    congestion = "cubic"
    prefix = "bad_cubic"

    def missing(self, subject: str) -> str | None:
        if Hub.congestion == self.congestion:
            return "bad-link measures it already"
        if self.congestion not in offered():
            return f"this kernel has no {self.congestion}"
        return super().missing(subject)

    def more(self, tunnel: Tunnel) -> Mapping[str, float]:
        return {}


class SlowLink(_RelayedPart):
    name = "slow-link"
    what = "goodput and ping under load at 600 ms, 1 % loss, 64 kbit/s"
    subjects = (OURS, OPENVPN, OPENVPN_TCP, RAW)
    rounds = 1
    seconds = (48, 35)
    # What so slow a line holds is much for its rate: eight packets.
    path = PathSpec(delay=0.15, loss=0.005, rate=64e3, buffer=1.5)
    prefix = "slow"

    def take(self, tunnel: Tunnel, quick: bool) -> Mapping[str, float]:
        values = self.relay(tunnel, quick)
        with IperfServer(tunnel.hub.edges[1]):
            # Small writes: iperf3 counts whole ones. Few pings: twenty a second would take a quarter of the line.
            goodput, delay = loaded(tunnel, 15 if quick else 25, 1, "-l", "1K", settle=5, interval=0.5)
        return {"slow_goodput": goodput * 1e3, "slow_ping": delay, **values}
