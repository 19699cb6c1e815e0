"""The tests run in two processes (``scripts/test``). A class with ``alone = True`` has the machine to itself meanwhile:
what it checks is how soon something happens, or who has time for what, on processors that are few.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


class Machine:
    """Who may use it: many classes at once, or one alone.

    :param name: what the processes of one run have in common.
    """

    def __init__(self, name: str) -> None:
        folder = Path(tempfile.gettempdir())
        # Who wants it alone waits behind the door, so that nobody else comes in meanwhile.
        self._door = (folder / f"{name}.door").open("w")
        self._room = (folder / f"{name}.room").open("w")

    def enter(self, alone: bool) -> None:
        fcntl.flock(self._door, fcntl.LOCK_EX)
        fcntl.flock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(self._door, fcntl.LOCK_UN)

    def leave(self) -> None:
        fcntl.flock(self._room, fcntl.LOCK_UN)

    def close(self) -> None:
        for each in (self._door, self._room):
            each.close()
            Path(each.name).unlink(missing_ok=True)


class OneAlone:
    """A class enters with its first test and leaves with its last, the end of its world included."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._inside = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
        # Outside of the time that a test may take.
        if not self._inside:
            self._machine.enter(getattr(_class_of(item), "alone", False))
            self._inside = True
        try:
            return (yield)
        finally:
            if nextitem is None or _class_of(nextitem) is not _class_of(item):
                self._machine.leave()
                self._inside = False

    def pytest_unconfigure(self) -> None:
        self._machine.close()


def pytest_configure(config: pytest.Config) -> None:
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is not None:
        config.pluginmanager.register(OneAlone(Machine(f"kubebus-tests-{run}")))


def _class_of(item: pytest.Item) -> object:
    return getattr(item, "cls", None) or item.parent
