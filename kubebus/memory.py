# mypy: disallow-untyped-calls=False
"""Memory that a long-running process has no use for any more goes back to the system.

Starting, and a crowd of peers that comes at once, leave two things behind. The heap keeps free pieces between those in
use, and the process keeps every page of program code mapped that ran only once: for an agent, a fifth of what it seems
to take. What is unmapped here stays in the system's page cache for as long as there is room; a page that is used again
is mapped again by the next touch, without reading a disk, in about a microsecond.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime

FIRST: Final = 20.0
"""Seconds after the start: what starting needs is over, and the link is up."""

AGAIN: Final = 900.0
"""Seconds between later times. Each costs some milliseconds, and as many page faults as there are pages in use."""

AFTER_CROWD: Final = 30.0
"""The same for a server, to whose heap alone that happens, and whenever many peers come or go at once."""

_SMAPS: Final = Path("/proc/self/smaps")
_DONTNEED: Final = 4
"""``MADV_DONTNEED`` (asm-generic/mman-common.h; the same on every Linux but Alpha's)."""


def trim() -> None:
    """Give back what can be had without a collection of garbage. On other systems than Linux this does nothing."""
    release_code()
    release_heap()


class Trimmer(Service):
    """Gives back what is not needed a while after the start, and from time to time.

    :param give: what does it.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        give: Callable[[], object] = trim,
        *,
        first: float = FIRST,
        again: float = AGAIN,
    ) -> None:
        self._reactor, self._give, self._first, self._again = reactor, give, first, again
        self._call: IDelayedCall | None = None

    def startService(self) -> None:
        super().startService()
        self._call = self._reactor.callLater(self._first, self._settle)

    def stopService(self) -> None:
        super().stopService()
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _settle(self) -> None:
        # What was imported lives as long as the process: later collections need not look at it.
        gc.collect()
        gc.freeze()
        self._trim()

    def _trim(self) -> None:
        self._call = self._reactor.callLater(self._again, self._trim)
        self._give()


def release_heap() -> None:
    """Let glibc give every free page of the heap back; other C libraries do as they like."""
    malloc_trim: Any = getattr(_libc(), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def release_code(smaps: Path = _SMAPS) -> None:
    """Unmap the pages of files that this process never wrote to: programs, libraries, their constants."""
    madvise: Any = getattr(_libc(), "madvise", None)
    if madvise is None:
        return
    try:
        with smaps.open() as lines:
            # Not before all was read: the file tells of mappings as they are.
            mappings = list(untouched(lines))
    except OSError:
        return
    for start, end in mappings:
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONTNEED)


def untouched(lines: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Start and end of each mapping in ``/proc/self/smaps`` (proc_pid_smaps(5)) that is a file, and as the file is.

    A mapping that can be written, or that has pages of its own (those that the linker filled in, and protected after
    that), would lose them: it is left out.
    """
    start = end = 0
    for line in lines:
        name, *fields = line.split()
        if not name.endswith(":"):
            permissions, inode = fields[0], fields[3]
            is_file = inode != "0" and "w" not in permissions and permissions.endswith("p")
            start, end = (int(part, 16) for part in name.split("-")) if is_file else (0, 0)
        elif name == "Anonymous:" and end:
            if fields[0] == "0":
                yield start, end
            end = 0


def _libc() -> Any:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
