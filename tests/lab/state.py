"""What one run of the lab has made, on disk, so that it can be removed even if the run is killed.

A run is one Python process that uses the lab. Its folder ``/var/tmp/kubebus-lab/<id>`` holds:

* ``owner``: boot ID, process ID and start time of that process. While it lives, nobody touches the run;
* ``processes``: a line for each process started, in the same form;
* everything else that the run writes: logs, stores, engine data.

Namespaces carry the run's ID in their names (``kb<id>-…``), control groups in their paths.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(os.environ.get("KUBEBUS_LAB", "/var/tmp/kubebus-lab"))


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, told apart from a later one of the same number by its start time (clock ticks since boot)."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """:raises ProcessLookupError: if there is no such process."""
        started = _start_time(pid)
        if started is None:
            raise ProcessLookupError(pid)
        return cls(pid, started, boot_id())

    @classmethod
    def parse(cls, line: str) -> ProcessId:
        boot, pid, started = line.split()
        return cls(int(pid), int(started), boot)

    def __str__(self) -> str:
        return f"{self.boot} {self.pid} {self.started}"

    @property
    def alive(self) -> bool:
        """Whether it runs. A zombie does not."""
        return self.boot == boot_id() and _start_time(self.pid) == self.started

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.alive:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass


def _start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (proc(5)), or ``None`` if the process is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


class Run:
    """This process's run. Use :meth:`current`."""

    _current: Run | None = None

    def __init__(self, root: Path = ROOT) -> None:
        self.id = secrets.token_hex(3)
        self.path = root / self.id
        root.mkdir(parents=True, exist_ok=True)
        # The owner is written before the folder gets its name: a sweep never sees a run without one.
        fresh = root / f".{self.id}.new"
        fresh.mkdir(mode=0o700)
        (fresh / "owner").write_text(str(ProcessId.of(os.getpid())))
        fresh.rename(self.path)
        self._counts: dict[str, int] = {}
        self._watch()

    @classmethod
    def current(cls) -> Run:
        """The run of this process. The first call sweeps away what dead runs left behind."""
        if cls._current is None:
            from tests.lab.janitor import sweep

            sweep()
            cls._current = cls()
        return cls._current

    def _watch(self) -> None:
        """Start a janitor that waits for this process to end, however it ends, and cleans up after it."""
        read_end, self._lifeline = os.pipe()
        with open(self.path / "janitor.log", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.lab.janitor", str(self.path), str(read_end)],
                cwd=Path(__file__).parents[2],
                pass_fds=[read_end],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        os.close(read_end)
        # It outlives this process on purpose; Popen would warn about that.
        process.returncode = 0

    def unique(self, name: str) -> str:
        """``name``, or ``name-2``, ``name-3``… where it was given before in this run."""
        count = self._counts[name] = self._counts.get(name, 0) + 1
        return name if count == 1 else f"{name}-{count}"

    def directory(self, name: str) -> Path:
        """A fresh folder of the run."""
        path = self.path / self.unique(name)
        path.mkdir(mode=0o700)
        return path

    def record(self, pid: int) -> None:
        """Note a started process, so that the janitor can end it."""
        try:
            line = f"{ProcessId.of(pid)}\n"
        except ProcessLookupError:
            return
        with open(self.path / "processes", "a") as processes:
            processes.write(line)
