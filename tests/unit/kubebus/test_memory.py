"""Memory that is given back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from unittest import mock

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from kubebus import memory
from kubebus.memory import Trimmer, release_code, untouched

CHECKOUT = Path(__file__).parents[3]

SMAPS = """\
00400000-00452000 r-xp 00000000 08:02 173521 /usr/bin/program (deleted)
Rss:                 100 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
00651000-00652000 r--p 00051000 08:02 173521 /usr/bin/program
Rss:                   4 kB
Anonymous:             4 kB
00652000-00655000 rw-p 00052000 08:02 173521 /usr/bin/program
Rss:                   8 kB
Anonymous:             0 kB
00e03000-00e24000 rw-p 00000000 00:00 0 [heap]
Anonymous:             0 kB
7f0000000000-7f0000001000 r--p 00000000 08:02 99 /usr/lib/a name with spaces.so
Anonymous:             0 kB
7f0000002000-7f0000003000 r--s 00000000 08:02 99 /var/shared
Anonymous:             0 kB
7fff0000a000-7fff0000b000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
"""


class MappingTests(SynchronousTestCase):
    def test_only_files_as_they_are_on_disk_can_be_unmapped(self) -> None:
        self.assertEqual(list(untouched(SMAPS.splitlines())), [(0x400000, 0x452000), (0x7F0000000000, 0x7F0000001000)])

    def test_a_system_without_such_a_file_is_left_alone(self) -> None:
        release_code(Path(self.mktemp()))

    def test_what_was_unmapped_works_on_and_takes_less(self) -> None:
        code = (
            "import OpenSSL.SSL, sqlite3, twisted.internet.reactor\n"
            "from pathlib import Path\n"
            "from kubebus.memory import trim\n"
            "def files():\n"
            "    size, resident, shared, *_ = Path('/proc/self/statm').read_text().split()\n"
            "    return int(shared)\n"
            "before = files()\n"
            "trim()\n"
            "after = files()\n"
            "context = OpenSSL.SSL.Context(OpenSSL.SSL.TLS_METHOD)\n"
            "print(before, after, sqlite3.connect(':memory:').execute('select 6 * 7').fetchone()[0])\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60
        )
        before, after, answer = map(int, done.stdout.split())
        self.assertEqual(answer, 42)
        self.assertLess(after, before * 0.5)


class TrimmerTests(SynchronousTestCase):
    def test_trims_after_the_start_and_from_time_to_time_until_it_stops(self) -> None:
        clock = Clock()
        trimmed: list[float] = []
        trimmer = Trimmer(clock, lambda: trimmed.append(clock.seconds()), first=20, again=900)
        with mock.patch.object(memory, "gc") as collector:
            trimmer.startService()
            clock.advance(19)
            self.assertEqual(trimmed, [])
            for _ in range(4):
                clock.advance(1)
                clock.advance(899)
            self.assertEqual(trimmed, [20, 920, 1820, 2720])
            trimmer.stopService()
            clock.advance(10000)
        collector.freeze.assert_called_once()
        self.assertEqual(len(trimmed), 4)
        self.assertEqual(clock.getDelayedCalls(), [])
