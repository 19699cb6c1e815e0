"""How a case study ends: what its status is, and that its record is kept."""

from __future__ import annotations

import io
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from examples import running
from examples.demo.telling import ChapterIn, check
from examples.running import Study
from tests.lab.waiting import LabError


class Nowhere(AbstractContextManager["Nowhere"]):
    """A world of nothing."""

    path = Path("/nowhere")
    closed = False

    def logs(self, but: str = "") -> str:
        return "the ends of the logs"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.closed = True


class StatusTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(running, "missing", lambda: None)
        self.patch(signal, "signal", lambda *_: None)
        self.out = io.StringIO()
        self.patch(sys, "stdout", self.out)
        self.patch(sys, "stderr", self.out)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.world = Nowhere()
        self.drawn: list[Path] = []

    def run_story(self, *steps: Callable[[], object], world: Callable[[], Any] | None = None) -> int:
        chapter: ChapterIn[Any, list[str]] = ChapterIn("A chapter")
        for number, step in enumerate(steps):

            def play(world: Any, memory: list[str], step: Callable[[], object] = step) -> str:
                step()
                return "seen"

            play.__name__ = f"step_{number}"
            chapter.step(f"step {number}")(play)
        study: Study[Any, list[str], str] = Study(
            name="nothing",
            about="",
            building="nothing",
            plan="long",
            short="short",
            short_help="",
            steps=chapter.steps,
            world=lambda plan: world() if world else self.world,
            memory=lambda plan: [plan],
            keep=self.keep,
            draw=self.draw,
        )
        return study.main(["--short", "--record", str(self.folder / "run.json"), "--pictures", str(self.folder)])

    def keep(self, world: Any, memory: list[str], where: Path, seconds: float) -> None:
        where.write_text(memory[0])

    def draw(self, record: Path, pictures: Path) -> list[Path]:
        self.drawn.append(record)
        return [pictures / "a.svg"]

    def test_all_as_told(self) -> None:
        self.assertEqual(self.run_story(lambda: None, lambda: check(True, "nothing")), 0)
        self.assertIn("All as told", self.out.getvalue())
        self.assertEqual((self.folder / "run.json").read_text(), "short")
        self.assertEqual(self.drawn, [self.folder / "run.json"])
        self.assertTrue(self.world.closed)

    def test_a_failed_check_is_a_status(self) -> None:
        later: list[str] = []
        status = self.run_story(
            lambda: None, lambda: check([], "something", "nothing at all"), lambda: later.append("played")
        )
        self.assertEqual((status, later, self.drawn), (1, [], []))
        for each in ("NOT as told", "expected something; seen: nothing at all", "the ends of the logs"):
            self.assertIn(each, self.out.getvalue())
        self.assertTrue((self.folder / "run.json").exists())
        self.assertTrue(self.world.closed)

    def test_so_is_any_other_error_of_a_step(self) -> None:
        nothing: dict[str, str] = {}
        self.assertEqual(self.run_story(lambda: nothing["missing"]), 1)
        self.assertIn("KeyError: 'missing'", self.out.getvalue())

    def test_a_world_that_cannot_be_built(self) -> None:
        def build() -> None:
            raise LabError("no switch")

        self.assertEqual(self.run_story(lambda: None, world=build), 1)
        self.assertIn("no switch", self.out.getvalue())

    def test_interrupted(self) -> None:
        def interrupt() -> None:
            raise KeyboardInterrupt

        self.assertEqual(self.run_story(interrupt), 130)
        self.assertTrue(self.world.closed)

    def test_a_machine_that_cannot(self) -> None:
        self.patch(running, "missing", lambda: "no Docker")
        self.assertEqual(self.run_story(lambda: None), 1)
        self.assertIn("this machine cannot run it: no Docker", self.out.getvalue())
