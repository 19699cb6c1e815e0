"""Resource use as the kubelet's ``/metrics/resource`` gives it: what metrics-server reads since its version 0.6.

Names, labels and units: https://kubernetes.io/docs/reference/instrumentation/metrics/ (``/metrics/resource``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from appengine.node import Node
from appengine.podspec import Kind
from appengine.summary import Measured, measure, node_figures
from appengine.worker import Worker

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text format."""

_Samples = list[tuple[str, float, float]]
"""Labels, value and time (UNIX seconds)."""

_CPU = "Cumulative cpu time consumed by the {} in core-seconds"
_MEMORY = "Current working set of the {} in bytes"


async def resource_metrics(node: Node, workers: Sequence[Worker]) -> str:
    """The text, measured now.

    A container of which no CPU time or no memory is known is left out: metrics-server would drop its whole pod.
    """
    measured = await measure(node, workers)
    now, figures = node.wall(), node_figures(node)
    containers = [
        (worker, one)
        for worker, of_pod in measured
        for one in of_pod
        if one.view.kind is not Kind.PAUSE and one.usage.cpu_nanoseconds and one.usage.memory
    ]
    pods = [(worker, of_pod) for worker, of_pod in measured if of_pod]
    cpu, memory = figures["cpu"]["usageCoreNanoSeconds"] / 1e9, figures["memory"]["workingSetBytes"]
    return "".join(
        [
            _family(
                "container_cpu_usage_seconds_total",
                ("counter", _CPU.format("container")),
                [(_labels(w, one), one.usage.cpu_nanoseconds / 1e9, one.at) for w, one in containers],
            ),
            _family(
                "container_memory_working_set_bytes",
                ("gauge", _MEMORY.format("container")),
                [(_labels(w, one), one.usage.memory, one.at) for w, one in containers],
            ),
            _family(
                "container_start_time_seconds",
                ("gauge", "Start time of the container since unix epoch in seconds"),
                [(_labels(w, one), one.view.started_at, one.at) for w, one in containers],
            ),
            _family("node_cpu_usage_seconds_total", ("counter", _CPU.format("node")), [("", cpu, now)]),
            _family("node_memory_working_set_bytes", ("gauge", _MEMORY.format("node")), [("", memory, now)]),
            _family(
                "pod_cpu_usage_seconds_total",
                ("counter", _CPU.format("pod")),
                [
                    (_labels(w), sum(one.usage.cpu_nanoseconds for one in of_pod) / 1e9, _time(of_pod))
                    for w, of_pod in pods
                ],
            ),
            _family(
                "pod_memory_working_set_bytes",
                ("gauge", _MEMORY.format("pod")),
                [(_labels(w), sum(one.usage.memory for one in of_pod), _time(of_pod)) for w, of_pod in pods],
            ),
            "# HELP scrape_error 1 if there was an error while getting container metrics, 0 otherwise\n"
            "# TYPE scrape_error gauge\nscrape_error 0\n",
        ]
    )


def _time(measured: Iterable[Measured]) -> float:
    return max(one.at for one in measured)


def _labels(worker: Worker, one: Measured | None = None) -> str:
    """None of the values can hold what would have to be escaped: they are names of Kubernetes."""
    container = "" if one is None else f'container="{one.view.name}",'
    return f'{{{container}namespace="{worker.ref.namespace}",pod="{worker.ref.name}"}}'


def _family(name: str, about: tuple[str, str], samples: _Samples) -> str:
    kind, text = about
    lines = [f"{name}{labels} {_number(value)} {int(at * 1000)}\n" for labels, value, at in samples]
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n" + "".join(lines) if lines else ""


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.9f}".rstrip("0").rstrip(".")
