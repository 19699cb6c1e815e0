"""The statistics of many containers come in the time of few."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from appengine.node import Node
from appengine.podspec import Json, Kind
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
