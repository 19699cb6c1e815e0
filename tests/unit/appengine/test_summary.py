"""The statistics of many containers come in the time of few."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from appengine.node import Node
from appengine.podspec import Json, Kind
from appengine.resourcemetrics import resource_metrics
from appengine.runtime import EngineError, Usage
from appengine.summary import AT_ONCE, summary
from appengine.worker import Worker


class SlowEngine:
    """Answers each question when the test says so."""

    def __init__(self) -> None:
        self.asked: dict[str, Deferred[Usage]] = {}

    async def stats(self, container_id: str) -> Usage:
        self.asked[container_id] = Deferred()
        return await self.asked[container_id]


def worker(name: str) -> Worker:
    """A pod with its pause container, one that runs and one that has ended."""
    views = {
        kind: SimpleNamespace(
            id=f"{name}-{kind}",
            name=kind,
            kind=Kind.PAUSE if kind == "pause" else Kind.APP,
            running=kind != "ended",
            started_at=0.0,
        )
        for kind in ("pause", "main", "ended")
    }
    ref = SimpleNamespace(name=name, namespace="default", uid=f"uid-{name}")
    history = SimpleNamespace(start_time="1970-01-01T00:00:00Z")
    return cast(Worker, SimpleNamespace(views=views, ref=ref, history=history))


class SummaryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.engine = SlowEngine()
        node: Any = SimpleNamespace(
            name="edge", runtime=self.engine, memory=2**30, wall=lambda: 0.0, host_files=lambda _: ""
        )
        self.node = cast(Node, node)

    def test_several_are_measured_at_a_time_but_not_all(self) -> None:
        names = [f"p{number}" for number in range(AT_ONCE)]
        told = Deferred.fromCoroutine(summary(self.node, [worker(name) for name in names]))
        self.assertEqual(AT_ONCE, len(self.engine.asked))
        answered = 0
        while answered < 2 * AT_ONCE:
            waiting = [name for name in self.engine.asked if not self.engine.asked[name].called]
            self.assertLessEqual(len(waiting), AT_ONCE)
            for name in reversed(waiting):
                number = int(name.partition("-")[0].removeprefix("p"))
                used = Usage(received_bytes=number) if "pause" in name else Usage(memory=number)
                self.engine.asked[name].callback(used)
                answered += 1
        pods: list[Json] = self.successResultOf(told)["pods"]
        self.assertEqual(names, [pod["podRef"]["name"] for pod in pods])
        for number, pod in enumerate(pods):
            (container,) = pod["containers"]
            self.assertEqual(
                ("main", number, number),
                (container["name"], container["memory"]["usageBytes"], pod["network"]["rxBytes"]),
            )

    def test_a_container_that_ends_meanwhile_is_left_out(self) -> None:
        told = Deferred.fromCoroutine(summary(self.node, [worker("p")]))
        self.engine.asked["p-main"].errback(EngineError("no such container"))
        self.engine.asked["p-pause"].callback(Usage(received_bytes=5))
        (pod,) = self.successResultOf(told)["pods"]
        self.assertEqual(([], 5), (pod["containers"], pod["network"]["rxBytes"]))

    def test_what_metrics_server_reads(self) -> None:
        """The exposition as its decoder takes it: names, labels, and times in milliseconds."""
        self.node.wall = lambda: 1633253812.125
        stat, meminfo = "cpu 100 0 100 7 0 0 0 0 0", "MemAvailable: 524288 kB"
        self.node.host_files = lambda path: stat if path == "/proc/stat" else meminfo
        told = Deferred.fromCoroutine(resource_metrics(self.node, [worker("p"), worker("idle"), worker("ended")]))
        self.engine.asked["p-main"].callback(Usage(cpu_nanoseconds=4_710_169_000, memory=12_533_760))
        self.engine.asked["p-pause"].callback(Usage(cpu_nanoseconds=1_000_000, memory=1000))
        self.engine.asked["idle-main"].callback(Usage(memory=5))
        self.engine.asked["idle-pause"].callback(Usage())
        for each in ("ended-main", "ended-pause"):
            self.engine.asked[each].errback(EngineError("no such container"))
        text = self.successResultOf(told)
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        labels = '{container="main",namespace="default",pod="p"}'
        self.assertEqual(
            [
                f"container_cpu_usage_seconds_total{labels} 4.710169 1633253812125",
                f"container_memory_working_set_bytes{labels} 12533760 1633253812125",
                f"container_start_time_seconds{labels} 0 1633253812125",
                f"node_cpu_usage_seconds_total {200 / os.sysconf('SC_CLK_TCK'):g} 1633253812125",
                "node_memory_working_set_bytes 536870912 1633253812125",
                'pod_cpu_usage_seconds_total{namespace="default",pod="p"} 4.711169 1633253812125',
                'pod_cpu_usage_seconds_total{namespace="default",pod="idle"} 0 1633253812125',
                'pod_memory_working_set_bytes{namespace="default",pod="p"} 12534760 1633253812125',
                'pod_memory_working_set_bytes{namespace="default",pod="idle"} 5 1633253812125',
                "scrape_error 0",
            ],
            lines,
        )
        for name in {line.partition("{")[0].partition(" ")[0] for line in lines}:
            self.assertEqual(1, text.count(f"# TYPE {name} "))
        self.assertTrue(text.endswith("\n"))
