"""One receiver stops for three seconds while much is sent to it: what becomes of the router, and of the others."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Mapping

from benchmarks.parts.base import TunnelPart
from benchmarks.processes import rss
from benchmarks.traffic import IperfServer, iperf_in_background, middle, ping
from benchmarks.tunnels import Tunnel
from tests.lab.namespace import Namespace
from tests.lab.waiting import LabError

_STOPPED = 3.0


class Stopped(TunnelPart):
    name = "stopped"
    what = "a receiver stopped for 3 s: the router's memory, the others' ping, how soon it is back"
    subjects = ("kubebus", "openvpn-udp", "openvpn-tcp", "wireguard-go")
    edges = 3

    def take(self, tunnel: Tunnel, quick: bool) -> Mapping[str, float]:
        hub = tunnel.hub_process
        assert hub is not None
        one, two, three = tunnel.hub.edges
        before = middle(ping(one, tunnel.address(3), 100, 0.02))
        with IperfServer(two), iperf_in_background(one, tunnel.address(2), _STOPPED + 5, "-P", "4") as report:
            time.sleep(2)
            memory = rss(hub.pid)
            with _Replies(three, tunnel.address(2)) as replies, _Peak(hub.pid) as peak:
                tunnel.edge_processes[1].suspend()
                meanwhile = middle(ping(one, tunnel.address(3), int(_STOPPED / 0.02), 0.02))
                tunnel.edge_processes[1].resume()
                resumed = time.time()
                time.sleep(2)
            report()
        return {
            "stopped_growth": max(peak.most - memory, 0) / 1e6,
            "stopped_ping": meanwhile / before,
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


class _Replies:
    """Pings an address all the time within the ``with`` statement, and knows when which answer came."""

    def __init__(self, source: Namespace, address: str) -> None:
        self._process = source.popen(
            ["ping", "-n", "-D", "-i", "0.01", address], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._output = b""

    def __enter__(self) -> _Replies:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        self._output, _ = self._process.communicate()

    def first_after(self, moment: float) -> float:
        """Seconds from ``moment`` (UNIX time) to the first answer to a ping that was sent after it."""
        for at, rtt in re.findall(rb"\[([\d.]+)\] .* time=([\d.]+) ms", self._output):
            received = float(at)
            if received - float(rtt) / 1e3 >= moment:
                return received - moment
        raise LabError("the stopped receiver never answered again")
