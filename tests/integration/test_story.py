"""Every step of the demo's story is a test. The world is built once; a step is played after all before it."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial import unittest

from examples.demo.story import STEPS, Step, Telling
from examples.demo.world import World
from tests.lab.world import SharedWorld


class StoryTests(SharedWorld, unittest.SynchronousTestCase):
    telling: Telling

    @classmethod
    def build_world(cls) -> None:
        cls.telling = Telling(cls.keep(World()))


def _test_of(step: Step) -> Callable[[StoryTests], None]:
    def test(self: StoryTests) -> None:
        self.assertTrue(self.telling.play(step), "a step tells what was observed")

    test.__doc__ = f"{step.chapter}: {step.title}"
    return test


for _number, _step in enumerate(STEPS, 1):
    # Numbered, so that runners that sort by name play them in order.
    _name = f"test_{_number:02}_{_step.name}"
    setattr(StoryTests, _name, _test_of(_step))
