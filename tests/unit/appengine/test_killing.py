"""Stopping one container, with the engine's answers and its events in any order."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from appengine.killing import Killer
from appengine.podspec import Kind, PodRef
from appengine.runtime import ContainerState, ContainerView, RuntimeUnavailable

VIEW = ContainerView("c1", PodRef("default", "web", "u"), "main", Kind.APP, 0, "", "", ContainerState.RUNNING, 0.0)


class KillerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.running = True
        self.signals: list[str] = []
        self.killer = Killer(self.clock, self, lambda _: self.running, self.no_hook)  # type: ignore[arg-type]

    async def no_hook(self, view: ContainerView, marked: Any) -> None:
        raise AssertionError("there is no hook")

    async def signal(self, container_id: str, signal: str) -> None:
        self.signals.append(signal)
        if signal == "SIGKILL":
            # The event is there before the answer.
            self.running = False
            self.killer.changed(container_id)

    def test_an_end_that_is_seen_before_the_answer(self) -> None:
        over = self.killer.kill(VIEW, 1, "test")
        self.assertNoResult(over)
        self.clock.advance(1)
        self.successResultOf(over)
        self.assertEqual(self.signals, ["SIGTERM", "SIGKILL"])

    def test_an_engine_that_refuses_at_once(self) -> None:
        async def refuse(container_id: str, signal: str) -> None:
            raise RuntimeUnavailable("it does not answer")

        self.patch(self, "signal", refuse)
        over: Deferred[None] = self.killer.kill(VIEW, 1, "test")
        self.successResultOf(over)
        self.assertFalse(self.killer.busy(VIEW.id))
