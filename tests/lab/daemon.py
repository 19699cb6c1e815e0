"""A long-running process of the lab: started in a namespace, its output in a file, killable in every way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.lab.lifetime import Starting
from tests.lab.namespace import Namespace
from tests.lab.state import Run
from tests.lab.waiting import LabError, wait_until


class Daemon(Starting):
    """A process that is made to stay. Made stopped; :meth:`start` and the ``with`` statement start it.

    :param name: for people and for the log's name; need not be unique.
    :param namespace: where it runs; ``None`` for the host itself.
    :param env: added to this process's environment.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        namespace: Namespace | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        run: Run | None = None,
    ) -> None:
        self.run_of = run or Run.current()
        self.name = self.run_of.unique(name)
        self.command = list(command)
        self.namespace = namespace
        self.env = dict(env or {})
        self.cwd = cwd
        self.log = self.run_of.path / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def __repr__(self) -> str:
        return f"<Daemon {self.name}>"

    @property
    def pid(self) -> int:
        """:raises LabError: if it was never started."""
        if self._process is None:
            raise LabError(f"{self.name} was not started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_status(self) -> int | None:
        """As Popen has it: negative for a signal; ``None`` while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start it (again). The log goes on in the same file.

        :raises LabError: if it is running.
        """
        if self.alive:
            raise LabError(f"{self.name} is running already (process {self.pid})")
        command = self.namespace.command(self.command) if self.namespace else self.command
        with open(self.log, "ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.env},
                cwd=self.cwd,
                start_new_session=True,
            )
        self.run_of.record(self._process.pid)

    def text(self) -> str:
        """What it has written since its last start."""
        if not self.log.exists():
            return ""
        with open(self.log, "rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.text().splitlines()[-lines:])

    def wait_for(self, condition: str | Callable[[], object], timeout: float = 15) -> None:
        """Wait until a line of its output matches (a regular expression), or a condition is true.

        :raises LabError: if it ends first or ``timeout`` seconds pass; with the tail of its log.
        """

        what = f"{condition!r} in its output" if isinstance(condition, str) else "its condition"

        def outcome() -> str:
            alive = self.alive  # asked first: its last words count
            try:
                met = re.search(condition, self.text(), re.MULTILINE) if isinstance(condition, str) else condition()
            except Exception:
                if alive:
                    raise
                met = False
            return "met" if met else "" if alive else "ended"

        try:
            result = wait_until(outcome, timeout, f"{self.name}: {what}")
        except LabError as error:
            raise LabError(f"{error}\n--- {self.log}\n{self.tail()}") from error.__cause__
        if result == "ended":
            raise LabError(
                f"{self.name} ended (status {self.exit_status}) while {what} was awaited\n--- {self.log}\n{self.tail()}"
            )

    def signal(self, number: int) -> None:
        if self.alive:
            assert self._process is not None
            self._process.send_signal(number)

    def kill9(self) -> None:
        """SIGKILL to the process itself, as a crash would be, and wait for its end."""
        self.signal(signal.SIGKILL)
        self.wait_end()

    def suspend(self) -> None:
        """SIGSTOP: it stays, and does nothing."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def wait_end(self, timeout: float = 15) -> int:
        """Wait until it has ended; its exit status.

        :raises LabError: if it goes on.
        """
        if self._process is None:
            return 0
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name} goes on after {timeout:g} s\n--- {self.log}\n{self.tail()}") from None

    def stop(self, timeout: float = 15) -> int:
        """SIGTERM, and wait for the end; its exit status.

        :raises LabError: if it goes on.
        """
        self.signal(signal.SIGTERM)
        return self.wait_end(timeout)

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self, grace: float = 3) -> None:
        """End it, with SIGKILL after ``grace`` seconds, and whatever it left in its session. May be repeated."""
        if self._process is None:
            return
        self.resume()
        try:
            self.stop(grace)
        except LabError:
            self.kill9()
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
