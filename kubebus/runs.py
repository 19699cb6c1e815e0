"""Where the packets of one read go: neighbours with one way out are sent as one, from where they lie. Pure, and hot."""

from __future__ import annotations

from typing import Protocol

from kubebus.frames import HEADER_SIZE, PacketFrames


class Outlet(Protocol):
    """A way out: a live link."""

    def send_packet(self, payload: bytes) -> bool:
        """Queue it until the next :meth:`flush`."""

    def send_frames(self, frames: PacketFrames, first: int, last: int) -> None:
        """Queue or send the frames from ``first`` up to ``last``, and flush."""

    def flush(self) -> None: ...


class Runs:
    """Which of the frames go where.

    :ivar outlet: of the last run, which ends before the frame ``end``.
    """

    __slots__ = ("_begin", "_done", "_frames", "end", "flush", "outlet")

    def __init__(self, frames: PacketFrames) -> None:
        self._frames = frames
        self._done: dict[Outlet, list[tuple[int, int]]] = {}
        self.flush: set[Outlet] = set()
        self.outlet: Outlet | None = None
        self._begin = self.end = 0

    def add(self, outlet: Outlet, index: int) -> None:
        """Frame ``index`` goes there; no one was added that comes after it."""
        if outlet is self.outlet and self.end == index:
            self.end = index + 1
            return
        if self.outlet is not None:
            self._done.setdefault(self.outlet, []).append((self._begin, self.end))
        self.outlet, self._begin, self.end = outlet, index, index + 1

    def send(self) -> None:
        outlet, done = self.outlet, self._done
        if outlet is None and not self.flush:
            return
        if outlet is not None and not done and not self.flush:
            outlet.send_frames(self._frames, self._begin, self.end)
            return
        if outlet is not None:
            done.setdefault(outlet, []).append((self._begin, self.end))
        buffer, bounds = self._frames
        for outlet, runs in done.items():
            if len(runs) == 1:
                outlet.send_frames(self._frames, *runs[0])
                continue
            # One write for all of them costs more copying, and fewer system calls and wake-ups.
            for begin, end in runs:
                for index in range(begin, end):
                    outlet.send_packet(bytes(buffer[bounds[index] + HEADER_SIZE : bounds[index + 1]]))
            outlet.flush()
        for outlet in self.flush:
            outlet.flush()
