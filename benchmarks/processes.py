"""What a process uses, from /proc and its clock."""

from __future__ import annotations

import time
from pathlib import Path

# linux/posix-timers.h: the clock of a whole process counts its CPU time as the scheduler does (CPUCLOCK_SCHED), in
# nanoseconds. An idle agent takes less in two minutes than a few of the ticks in which /proc/PID/stat counts.
_CPUCLOCK_SCHED = 2


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and all threads it ever had, to the nanosecond.

    :raises OSError: if there is no such process.
    """
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def user_and_system(pid: int) -> tuple[int, int]:
    """Clock ticks in user mode and in the kernel: what the kernel makes of CPU seconds, for their ratio."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return int(fields[11]), int(fields[12])


def rss(pid: int) -> int:
    """Bytes of resident memory."""
    return _rollup(pid)["Rss"]


def pss(pid: int) -> int:
    """Bytes of resident memory, shared pages by their share."""
    return _rollup(pid)["Pss"]


def wakeups(pid: int) -> int:
    """How often its threads began to wait, which is how often they were woken."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                total += int(line.split()[1])
    return total


def _rollup(pid: int) -> dict[str, int]:
    values = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        values[name.rstrip(":")] = int(value) * 1024
    return values
