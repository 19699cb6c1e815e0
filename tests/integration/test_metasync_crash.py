"""SIGKILL to either end of the sync, hundreds of times: nothing is lost, doubled or halved."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from unittest import TestCase

KILLS = 250
"""Of each of two pairs, which run side by side."""


class CrashTests(TestCase):
    def test_fiveHundredKills(self) -> None:
        with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
            pairs = [self.start(folder, seed) for seed, folder in enumerate((first, second))]
            done = [pair.communicate(timeout=400) for pair in pairs]
        for pair, (output, errors) in zip(pairs, done, strict=True):
            self.assertEqual(pair.returncode, 0, output + errors)
            print(output.strip())
            applied = [int(number) for number in re.findall(r"(\d+) applied", output)]
            self.assertGreater(min(applied), KILLS // 5, "too little was going on to prove anything")

    def start(self, folder: str, seed: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.unit.metasync.crashing", folder, str(KILLS), str(seed)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
