"""Test classes that have the machine to themselves."""

from __future__ import annotations

from threading import Event, Thread
from uuid import uuid4

from twisted.trial.unittest import SynchronousTestCase

from tests.conftest import Machine


class Visitor(Thread):
    def __init__(self, name: str, alone: bool) -> None:
        super().__init__(daemon=True)
        self.machine, self.alone = Machine(name), alone
        self.inside, self.go = Event(), Event()
        self.start()

    def run(self) -> None:
        self.machine.enter(self.alone)
        self.inside.set()
        self.go.wait(10)
        self.machine.leave()

    def leave(self) -> None:
        self.go.set()
        self.join(10)


class MachineTests(SynchronousTestCase):
    def visitor(self, alone: bool) -> Visitor:
        made = Visitor(self.name, alone)
        self.addCleanup(made.machine.close)
        self.addCleanup(made.leave)
        return made

    def test_one_alone_or_many(self) -> None:
        self.name = f"kubebus-tests-{uuid4()}"
        first, second = self.visitor(False), self.visitor(False)
        self.assertTrue(first.inside.wait(10))
        self.assertTrue(second.inside.wait(10))
        alone = self.visitor(True)
        first.leave()
        self.assertFalse(alone.inside.wait(0.2), "there is still one inside")
        late = self.visitor(False)
        self.assertFalse(late.inside.wait(0.2), "it stands behind who wants to be alone")
        second.leave()
        self.assertTrue(alone.inside.wait(10))
        self.assertFalse(late.inside.wait(0.2))
        alone.leave()
        self.assertTrue(late.inside.wait(10))
