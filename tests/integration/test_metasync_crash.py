"""SIGKILL to either end of the sync, hundreds of times: nothing is lost, doubled or halved."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from unittest import TestCase

KILLS = 500


class CrashTests(TestCase):
    def test_fiveHundredKills(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "tests.unit.metasync.crashing", folder, str(KILLS), "1"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=400)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        print(done.stdout.strip())
