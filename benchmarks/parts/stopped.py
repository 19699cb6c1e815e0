"""One receiver stops for three seconds while much is sent to it: what becomes of the router, and of the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from statistics import median

from benchmarks.parts.base import TunnelPart
from benchmarks.processes import rss
from benchmarks.traffic import PATIENCE, IperfServer, Replies, iperf_in_background, middle, ping
from benchmarks.tunnels import Tunnel

_STOPPED = 3.0


class Stopped(TunnelPart):
    """Edge 1 sends to edge 2, which stops. Edge 1's ping to edge 3 is that of an innocent, who shares the sender and
    the router; it is held against the idle one, for what is sent to a stopped receiver soon is very little."""

    name = "stopped"
    what = "a receiver stopped for 3 s: the router's memory, the others' ping, how soon it is back"
    subjects = ("kubebus", "openvpn-udp", "openvpn-tcp", "wireguard-go")
    edges = 3
    seconds = (15, 14)

    def take(self, tunnel: Tunnel, quick: bool) -> Mapping[str, float]:
        hub = tunnel.hub_process
        assert hub is not None
        one, two, three = tunnel.hub.edges
        others = tunnel.address(3)
        before = middle(ping(one, others, 150, 0.02))
        with IperfServer(two), iperf_in_background(one, tunnel.address(2), _STOPPED + 5, "-P", "4") as report:
            time.sleep(2)
            memory = rss(hub.pid)
            with Replies(three, tunnel.address(2)) as replies, _Peak(hub.pid) as peak:
                tunnel.edge_processes[1].suspend()
                try:
                    meanwhile = ping(one, others, int(_STOPPED / 0.02), 0.02)
                finally:
                    tunnel.edge_processes[1].resume()
                resumed = time.time()
                time.sleep(3)
            report()
        return {
            "stopped_growth": max(peak.most - memory, 0) / 1e6,
            # One that was not answered counts as if it had been when it was given up.
            "stopped_ping": median(min(each, PATIENCE * 1e3) for each in meanwhile) / before,
            "stopped_recovery": replies.first_after(resumed) * 1e3,
        }


class _Peak:
    """The most memory that a process has within the ``with`` statement."""

    def __init__(self, pid: int) -> None:
        self.most = 0
        self._pid = pid
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._end.wait(0.05):
            self.most = max(self.most, rss(self._pid))

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join()
