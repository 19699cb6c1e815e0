"""The water utility in its short form: every step of its story is a test, played once and in order."""

from __future__ import annotations

from examples.demo.telling import TellingIn
from examples.water.record import SHORT, Record
from examples.water.story import STEPS
from examples.water.world import WaterWorld
from tests.integration.story_case import StoryCase, add_steps


class WaterTests(StoryCase):
    @classmethod
    def build_world(cls) -> None:
        cls.telling = TellingIn(STEPS, cls.keep(WaterWorld(SHORT.scale, "--redial", "4s")), Record(SHORT))


add_steps(WaterTests, STEPS)
