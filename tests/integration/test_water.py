"""The water utility in its short form: every step of its story is a test, played once and in order."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial import unittest

from examples.demo.telling import TellingIn
from examples.water.record import SHORT, Record
from examples.water.story import STEPS, Step
from examples.water.world import WaterWorld
from tests.lab.world import SharedWorld


class WaterTests(SharedWorld, unittest.SynchronousTestCase):
    telling: TellingIn[WaterWorld, Record]

    @classmethod
    def build_world(cls) -> None:
        cls.telling = TellingIn(STEPS, cls.keep(WaterWorld(SHORT.scale)), Record(SHORT))


def _test_of(step: Step) -> Callable[[WaterTests], None]:
    def test(self: WaterTests) -> None:
        self.assertTrue(self.telling.play(step), "a step tells what was observed")

    test.__doc__ = f"{step.chapter}: {step.title}"
    return test


for _number, _step in enumerate(STEPS, 1):
    # Numbered, so that runners that sort by name play them in order.
    setattr(WaterTests, f"test_{_number:02}_{_step.name}", _test_of(_step))
