"""What our processes take when nothing happens: memory, CPU, wake-ups, and bytes on the link."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from benchmarks.catalogue import OURS
from benchmarks.idle import burst_rate
from benchmarks.parts.base import Part
from benchmarks.processes import cpu_seconds, pss, rss, wakeups
from benchmarks.traffic import missing
from benchmarks.tunnels.ours import Kubebus
from benchmarks.world import Hub
from tests.lab.engine import BUSYBOX, Engine
from tests.lab.kubernetes import Kubectl
from tests.lab.waiting import wait_until

_DAY = 86400

_POD = """
---
apiVersion: v1
kind: Pod
metadata: {{name: idle-{number}}}
spec:
  nodeName: e1
  terminationGracePeriodSeconds: 1
  containers: [{{name: main, image: {image}, imagePullPolicy: Never, command: [sleep, "1000000"]}}]
"""


class Footprint(Part):
    """One edge with a container engine and ten pods, another that runs no pods; everything else as users have it."""

    name = "footprint"
    what = "memory, CPU, wake-ups and link traffic of agent and router, idle; dockerd and containerd beside"
    subjects = (OURS,)
    rounds = 1
    seconds = (182, 57)

    def missing(self, subject: str) -> str | None:
        return missing("dockerd", "containerd", "kubectl")

    def measure(self, subject: str, quick: bool) -> Mapping[str, float]:
        with ExitStack() as kept:
            hub = kept.enter_context(Hub(2))
            engine = kept.enter_context(Engine(hub.edges[0]))
            tunnel = kept.enter_context(_WithPods(hub, engine))
            kubectl = Kubectl(tunnel.folder / "kubeconfig", namespace=hub.namespace)
            pods = 2 if quick else 10
            _apply(kubectl, tunnel.folder / "pods.yaml", pods)
            # Start-up is over when nothing was done for a while.
            time.sleep(5 if quick else 30)
            return _idle(tunnel, engine, 45 if quick else 140)


class _WithPods(Kubebus):
    def __init__(self, hub: Hub, engine: Engine) -> None:
        super().__init__(hub)
        kubeconfig = str(self.folder / "kubeconfig")
        self.hub_options = ("--standalone", "--kubeconfig-out", kubeconfig)
        self._engine = engine

    def options_of(self, number: int) -> tuple[str, ...]:
        return ("--docker", self._engine.url) if number == 1 else ("--no-pods",)


def _apply(kubectl: Kubectl, file: Path, count: int) -> None:
    file.write_text("".join(_POD.format(number=number, image=BUSYBOX) for number in range(count)))
    kubectl("apply", "-f", str(file))
    wait_until(lambda: kubectl("get", "pods").count("Running") == count, 120, f"{count} pods run", 0.5)


def _idle(tunnel: Kubebus, engine: Engine, seconds: float) -> Mapping[str, float]:
    assert tunnel.hub_process is not None
    edge, lean = (process.pid for process in tunnel.edge_processes)
    pids = {"edge": edge, "lean": lean, "router": tunnel.hub_process.pid}
    pids |= {"dockerd": engine.dockerd.pid, "containerd": engine.containerd.pid}
    counters = _Counters(tunnel.hub)

    woken = {name: wakeups(pid) for name, pid in pids.items()}
    cpu, began = {name: cpu_seconds(pid) for name, pid in pids.items()}, time.monotonic()
    traffic: list[tuple[float, list[float]]] = []
    while time.monotonic() < began + seconds:
        traffic.append((time.monotonic(), counters.bytes()))
        time.sleep(1)
    elapsed = time.monotonic() - began
    busy = {name: (cpu_seconds(pid) - cpu[name]) / elapsed for name, pid in pids.items()}
    rates = {name: (wakeups(pid) - woken[name]) / elapsed for name, pid in pids.items()}
    values = {
        name: burst_rate([(moment, links[at]) for moment, links in traffic]) * _DAY / 1e6
        for at, name in enumerate(("link_bytes", "lean_link_bytes"))
    }

    values |= {f"{name}_rss": rss(pid) / 1e6 for name, pid in pids.items()}
    values |= {f"{name}_pss": pss(pid) / 1e6 for name, pid in pids.items()}
    values |= {f"{name}_cpu": busy[name] * 100 for name in ("edge", "router")}
    values |= {f"{name}_cpu_day": busy[name] * _DAY for name in ("edge", "lean", "router")}
    values |= {f"{name}_wakeups": rates[name] for name in ("edge", "lean", "router")}
    values["engine_cpu_day"] = (busy["dockerd"] + busy["containerd"]) * _DAY
    return values


class _Counters:
    """Bytes of the IP packets on the cables of a hub, both ways, by the number of the edge; without what the kernels
    say about themselves (neighbours, routers)."""

    def __init__(self, hub: Hub) -> None:
        self._namespace = hub.namespace
        self._edges = range(1, len(hub.edges) + 1)
        names = "".join(f"counter edge{number} {{ }}\n" for number in self._edges)
        ways = (("in", "prerouting", "iifname"), ("out", "postrouting", "oifname"))
        chains = "".join(
            f"chain {way} {{\ntype filter hook {hook} priority 0\n"
            + "".join(f"{match} u{each} meta l4proto != ipv6-icmp counter name edge{each}\n" for each in self._edges)
            + "}\n"
            for way, hook, match in ways
        )
        self._namespace.nft(f"table inet idle {{\n{names}{chains}}}\n")

    def bytes(self) -> list[float]:
        """So far, of each edge in turn."""
        listed = json.loads(self._namespace.run(["nft", "-j", "list", "counters", "table", "inet", "idle"]).stdout)
        counters = {each["counter"]["name"]: each["counter"] for each in listed["nftables"] if "counter" in each}
        return [float(counters[f"edge{number}"]["bytes"]) for number in self._edges]
