"""Whether a second router process would pay: two routers with two edges each, beside one with four."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

from benchmarks.catalogue import OURS
from benchmarks.parts.base import Part
from benchmarks.processes import cpu_seconds
from benchmarks.traffic import IperfServer, iperf, iperf_in_background, missing, received_mbit
from benchmarks.tunnels import TUNNELS, Tunnel
from benchmarks.world import Hub


class Processes(Part):
    """Two streams, each between two edges of its own. That the two routers share neither routes nor a port makes them
    a little better than processes of one router would be."""

    name = "processes"
    what = "2 streams through one router, and through two processes with one each: throughput and CPU of all"
    subjects = (OURS,)
    rounds = 1
    seconds = (31, 22)

    def missing(self, subject: str) -> str | None:
        return super().missing(subject) or missing("iperf3")

    def measure(self, subject: str, quick: bool) -> Mapping[str, float]:
        seconds = 3.0 if quick else 5.0
        with ExitStack() as kept:

            def tunnel(edges: int) -> Tunnel:
                hub = kept.enter_context(Hub(edges))
                return kept.enter_context(TUNNELS[subject](hub))

            one, two = [tunnel(4)], [tunnel(2), tunnel(2)]
            samples = [(label, _pair(tunnels, seconds)) for label, tunnels in _turns(one, two)]
        values = {}
        for label in ("one", "two"):
            speeds, costs = zip(*(sample for which, sample in samples if which == label), strict=True)
            values[f"pair_{label}"] = sum(speeds) / len(speeds)
            values[f"pair_cpu_{label}"] = sum(costs) / len(costs)
        values["pair_gain"] = values["pair_two"] / values["pair_one"]
        return values


def _turns(one: Sequence[Tunnel], two: Sequence[Tunnel]) -> Iterator[tuple[str, Sequence[Tunnel]]]:
    yield from (("one", one), ("two", two), ("two", two), ("one", one))


def _pair(tunnels: Sequence[Tunnel], seconds: float) -> tuple[float, float]:
    """Mbit/s of both streams together, and CPU seconds per GB of all processes of the tunnels."""
    # Which edges send and receive, by tunnel.
    ways = [(tunnels[0], 1, 2), (tunnels[-1], 3, 4) if len(tunnels) == 1 else (tunnels[-1], 1, 2)]
    pids = [each.pid for tunnel in tunnels for each in tunnel.processes()]
    with ExitStack() as kept:
        for tunnel, _, target in ways:
            kept.enter_context(IperfServer(tunnel.hub.edges[target - 1]))
        addresses = [tunnel.address(target) for tunnel, _, target in ways]
        sources = [tunnel.hub.edges[source - 1] for tunnel, source, _ in ways]
        before = sum(cpu_seconds(pid) for pid in pids)
        with iperf_in_background(sources[0], addresses[0], seconds) as first:
            reports = [iperf(sources[1], addresses[1], seconds), first()]
        used = sum(cpu_seconds(pid) for pid in pids) - before
    gigabytes = sum(report["end"]["sum_received"]["bytes"] for report in reports) / 1e9
    return sum(received_mbit(report) for report in reports), used / gigabytes
