"""Every step of the demo's story is a test. The world is built once; a step is played after all before it."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path

from twisted.trial import unittest

from examples.demo.story import STEPS
from examples.demo.telling import Telling
from examples.demo.world import CHECKOUT, World
from tests.integration.story_case import StoryCase, add_steps
from tests.lab.daemon import Daemon
from tests.lab.janitor import NETNS
from tests.lab.waiting import wait_until


class StoryTests(StoryCase):
    @classmethod
    def build_world(cls) -> None:
        cls.telling = Telling(STEPS, cls.keep(World()))


add_steps(StoryTests, STEPS)


class InterruptedTests(unittest.SynchronousTestCase):
    """The demo takes everything down whatever happens."""

    def interrupt(self, number: int) -> int:
        """Send a signal to a demo in the middle of its story; its exit status."""
        with tempfile.TemporaryDirectory() as root:
            demo = Daemon("demo", [sys.executable, "-m", "examples.demo"], cwd=CHECKOUT, env={"KUBEBUS_LAB": root})
            self.addCleanup(demo.close)
            demo.start()
            demo.wait_for("has the TUN device", 60)
            (run,) = (path for path in Path(root).iterdir() if (path / "owner").exists())
            self.assertTrue(list(NETNS.glob(f"kb{run.name}-*")))
            demo.signal(number)
            status = demo.wait_end(30)
            wait_until(lambda: not list(NETNS.glob(f"kb{run.name}-*")), 20, "all namespaces of the demo to go")
            wait_until(lambda: not run.exists(), 20, f"{run} to go")
        return status

    def test_by_ctrl_c(self) -> None:
        self.assertEqual(self.interrupt(signal.SIGINT), 130)

    def test_by_sigterm(self) -> None:
        self.assertEqual(self.interrupt(signal.SIGTERM), 143)

    def test_by_sigkill(self) -> None:
        self.assertEqual(self.interrupt(signal.SIGKILL), -signal.SIGKILL)
