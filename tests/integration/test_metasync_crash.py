"""SIGKILL to either end of the sync, hundreds of times: nothing is lost, doubled or halved."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from unittest import TestCase

from tests.lab.etcd import Etcd

KILLS = (270, 230)
"""Of two pairs, which run side by side: one on two files, one with an etcd as the cloud's store."""


class CrashTests(TestCase):
    def test_fiveHundredKills(self) -> None:
        with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second, Etcd() as etcd:
            pairs = [self.start(first, KILLS[0]), self.start(second, KILLS[1], f"etcd://127.0.0.1:{etcd.port}")]
            done = [pair.communicate(timeout=400) for pair in pairs]
        for kills, pair, (output, errors) in zip(KILLS, pairs, done, strict=True):
            self.assertEqual(pair.returncode, 0, output + errors)
            print(output.strip())
            applied = [int(number) for number in re.findall(r"(\d+) applied", output)]
            self.assertGreater(min(applied), kills // 20, "too little was going on to prove anything")

    def start(self, folder: str, kills: int, *cloud: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.unit.metasync.crashing", folder, str(kills), "1", *cloud]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
