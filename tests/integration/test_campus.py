"""The campus surveillance in its short form: every step of its story is a test, played once and in order."""

from __future__ import annotations

from examples.campus.record import SHORT, Record
from examples.campus.story import STEPS
from examples.campus.world import CampusWorld
from examples.demo.telling import TellingIn
from tests.integration.story_case import StoryCase, add_steps


class CampusTests(StoryCase):
    alone = True  # Who has time for a frame, edge or cloud, is what it is about.

    @classmethod
    def build_world(cls) -> None:
        cls.telling = TellingIn(STEPS, cls.keep(CampusWorld("--redial", "4s")), Record(SHORT))


add_steps(CampusTests, STEPS)
