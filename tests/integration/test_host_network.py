"""The real TUN device and the real host's network, in a namespace of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from twisted.trial import unittest

from tests.integration import inside_network
from tests.lab.namespace import Namespace
from tests.lab.state import Run


class HostNetworkTests(unittest.SynchronousTestCase):
    def test_inside_a_namespace(self) -> None:
        with Namespace("host-network") as namespace:
            folder = Run.current().directory("inside")
            command = [sys.executable, "-m", "twisted.trial", f"--temp-directory={folder}/trial", "--reporter=verbose"]
            # Trial runs tests elsewhere than where they are.
            env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
            done = namespace.run([*command, inside_network.__name__], check=False, timeout=60, env=env)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertNotIn("skip", done.stdout.lower())
