"""Bulk TCP through the tunnel, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.parts.base import TunnelPart
from benchmarks.processes import cpu_seconds
from benchmarks.traffic import IperfServer, iperf, iperf_in_background, middle, ping, received_mbit
from benchmarks.tunnels import Tunnel


class Throughput(TunnelPart):
    name = "throughput"
    what = "1 and 8 streams, both directions, CPU per GB, ping idle and under load"
    seconds = (20, 14)

    def take(self, tunnel: Tunnel, quick: bool) -> Mapping[str, float]:
        seconds = 2 if quick else 4
        one, two = tunnel.hub.edges[:2]
        address = tunnel.address(2)
        values = {"ping_idle": middle(ping(one, address, 100 if quick else 300))}
        with IperfServer(two):
            before = _cpu(tunnel)
            report = iperf(one, address, seconds)
            values["stream_1"] = received_mbit(report)
            gigabytes = report["end"]["sum_received"]["bytes"] / 1e9
            for label, used in _cpu(tunnel).items():
                values[label] = (used - before[label]) / gigabytes
            values["both_ways"] = received_mbit(iperf(one, address, seconds, "--bidir"))
            values["stream_8"], values["ping_loaded"] = loaded(tunnel, seconds)
        return values


def loaded(
    tunnel: Tunnel, seconds: float, streams: int = 8, *arguments: str, settle: float = 0.25, interval: float = 0.05
) -> tuple[float, float]:
    """Mbit/s of several streams to edge 2, where an iperf3 server runs, and the median ping in ms meanwhile.

    :param settle: seconds at the start in which pings do not count: before all streams are up there is no load.
    """
    one, address = tunnel.hub.edges[0], tunnel.address(2)
    with iperf_in_background(one, address, seconds, "-P", str(streams), *arguments) as result:
        pings = ping(one, address, int(seconds / interval), interval)[round(settle / interval) :]
        report = result()
    return received_mbit(report), middle(pings)


def _cpu(tunnel: Tunnel) -> dict[str, float]:
    hub, edges = tunnel.hub_process, tunnel.edge_processes
    if hub is None:
        return {}
    processes = {"cpu_hub": hub, "cpu_edge": edges[0], "cpu_receiver": edges[1]}
    return {label: cpu_seconds(process.pid) for label, process in processes.items()}
