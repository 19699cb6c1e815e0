"""Resource statistics as the kubelet's ``/stats/summary`` gives them, for ``kubectl top`` and the like."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults

from appengine.node import Node
from appengine.podspec import Json, Kind
from appengine.runtime import ContainerView, EngineError, Usage
from appengine.status import rfc3339
from appengine.worker import Worker

AT_ONCE = 8
"""Containers measured at the same time: an engine takes a second or two for each, mostly waiting."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a running container used at a time (UNIX seconds)."""

    view: ContainerView
    usage: Usage
    at: float


async def measure(node: Node, workers: Sequence[Worker]) -> list[tuple[Worker, list[Measured]]]:
    """The running containers of each pod, measured now, several at a time."""
    turns = DeferredSemaphore(AT_ONCE)

    def measured(view: ContainerView) -> Deferred[Measured | None]:
        return turns.run(lambda: Deferred.fromCoroutine(_measure(node, view)))

    views = [[view for view in worker.views.values() if view.running] for worker in workers]
    found = iter(await gatherResults([measured(view) for of_pod in views for view in of_pod]))
    return [
        (worker, [one for one in [next(found) for _ in of_pod] if one is not None])
        for worker, of_pod in zip(workers, views, strict=True)
    ]


async def summary(node: Node, workers: Sequence[Worker]) -> Json:
    """The body of ``/stats/summary``."""
    pods = [_pod(node, worker, containers) for worker, containers in await measure(node, workers)]
    return {"node": {"nodeName": node.name, **node_figures(node)}, "pods": pods}


async def _measure(node: Node, view: ContainerView) -> Measured | None:
    """``None`` for a container that has just ended."""
    try:
        return Measured(view, await node.runtime.stats(view.id), node.wall())
    except EngineError:
        return None


def _pod(node: Node, worker: Worker, measured: Sequence[Measured]) -> Json:
    containers = []
    network = Usage()
    for one in measured:
        if one.view.kind is Kind.PAUSE:
            network = one.usage
            continue
        start = rfc3339(one.view.started_at)
        containers.append({"name": one.view.name, "startTime": start, **_figures(one.usage, one.at)})
    return {
        "podRef": {"name": worker.ref.name, "namespace": worker.ref.namespace, "uid": worker.ref.uid},
        "startTime": worker.history.start_time,
        "containers": containers,
        "network": {
            "time": rfc3339(node.wall()),
            "rxBytes": network.received_bytes,
            "txBytes": network.sent_bytes,
        },
    }


def _figures(used: Usage, now: float) -> Json:
    return {
        "cpu": {"time": rfc3339(now), "usageCoreNanoSeconds": used.cpu_nanoseconds},
        "memory": {
            "time": rfc3339(now),
            "usageBytes": used.memory,
            "workingSetBytes": used.memory,
        },
    }


def node_figures(node: Node) -> Json:
    """CPU of the whole machine since its boot, and memory in use."""
    ticks = os.sysconf("SC_CLK_TCK")
    busy = 0
    words = node.host_files("/proc/stat").split("\n", 1)[0].split()
    if len(words) > 8 and words[0] == "cpu":
        # user, nice, system, irq, softirq and steal, of those that proc(5) lists
        busy = sum(int(words[n]) for n in (1, 2, 3, 6, 7, 8))
    available = 0
    for line in node.host_files("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    used = max(0, node.memory - available)
    return {
        "cpu": {"time": rfc3339(node.wall()), "usageCoreNanoSeconds": busy * 1_000_000_000 // ticks},
        "memory": {
            "time": rfc3339(node.wall()),
            "availableBytes": available,
            "usageBytes": used,
            "workingSetBytes": used,
        },
    }
