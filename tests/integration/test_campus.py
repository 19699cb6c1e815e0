"""The campus surveillance in its short form: every step of its story is a test, played once and in order."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial import unittest

from examples.campus.record import SHORT, Record
from examples.campus.story import STEPS, Step
from examples.campus.world import CampusWorld
from examples.demo.telling import TellingIn
from tests.lab.world import SharedWorld


class CampusTests(SharedWorld, unittest.SynchronousTestCase):
    telling: TellingIn[CampusWorld, Record]

    @classmethod
    def build_world(cls) -> None:
        cls.telling = TellingIn(STEPS, cls.keep(CampusWorld()), Record(SHORT))


def _test_of(step: Step) -> Callable[[CampusTests], None]:
    def test(self: CampusTests) -> None:
        self.assertTrue(self.telling.play(step), "a step tells what was observed")

    test.__doc__ = f"{step.chapter}: {step.title}"
    return test


for _number, _step in enumerate(STEPS, 1):
    # Numbered, so that runners that sort by name play them in order.
    setattr(CampusTests, f"test_{_number:02}_{_step.name}", _test_of(_step))
