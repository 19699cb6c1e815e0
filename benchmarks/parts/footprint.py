"""What our processes take when nothing happens: memory, CPU, wake-ups, and bytes on the link."""

from __future__ import annotations

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
_ETHERNET = 14

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
    seconds = (190, 60)

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
    links = {"link_bytes": edge, "lean_link_bytes": lean}

    woken = {name: wakeups(pid) for name, pid in pids.items()}
    cpu, began = {name: cpu_seconds(pid) for name, pid in pids.items()}, time.monotonic()
    traffic: dict[str, list[tuple[float, float]]] = {name: [] for name in links}
    while time.monotonic() < began + seconds:
        for name, pid in links.items():
            traffic[name].append((time.monotonic(), _ip_bytes(pid)))
        time.sleep(0.5)
    elapsed = time.monotonic() - began
    busy = {name: (cpu_seconds(pid) - cpu[name]) / elapsed for name, pid in pids.items()}
    rates = {name: (wakeups(pid) - woken[name]) / elapsed for name, pid in pids.items()}
    values = {name: burst_rate(samples) * _DAY / 1e6 for name, samples in traffic.items()}

    values |= {f"{name}_rss": rss(pid) / 1e6 for name, pid in pids.items()}
    values |= {f"{name}_pss": pss(pid) / 1e6 for name, pid in pids.items()}
    values |= {f"{name}_cpu": busy[name] * 100 for name in ("edge", "router")}
    values |= {f"{name}_cpu_day": busy[name] * _DAY for name in ("edge", "lean", "router")}
    values |= {f"{name}_wakeups": rates[name] for name in ("edge", "lean", "router")}
    values["engine_cpu_day"] = (busy["dockerd"] + busy["containerd"]) * _DAY
    return values


def _ip_bytes(pid: int) -> int:
    """Bytes of IP packets that crossed the cable of a process's namespace so far, both ways."""
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()
    (line,) = [line for line in lines if line.split(":")[0].strip() == "up0"]
    fields = line.partition(":")[2].split()
    received, received_packets, sent, sent_packets = (int(fields[at]) for at in (0, 1, 8, 9))
    return received + sent - _ETHERNET * (received_packets + sent_packets)
