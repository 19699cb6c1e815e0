"""Where the packets of one read go: neighbours with one way out are sent as one, from where they lie. Pure, and hot."""

from __future__ import annotations

from typing import Protocol

from kubebus.frames import PacketFrames


class Outlet(Protocol):
    """A way out: a live link."""

    def send_packet(self, payload: bytes) -> bool:
        """Queue it until the next :meth:`flush`."""

    def send_frames(self, frames: PacketFrames, first: int, last: int) -> None:
        """Queue or send the frames from ``first`` up to ``last``, and flush."""

    def flush(self) -> None: ...


class Runs:
    """Which of the frames go where.

    :ivar flush: ways out to flush at the end: somebody has queued a packet for them.
    """

    __slots__ = ("_begin", "_done", "_end", "_frames", "_outlet", "flush")

    def __init__(self, frames: PacketFrames) -> None:
        self._frames = frames
        self._done: dict[Outlet, list[tuple[int, int]]] = {}
        self.flush: set[Outlet] = set()
        self._outlet: Outlet | None = None
        self._begin = self._end = 0

    def add(self, outlet: Outlet, index: int) -> None:
        """Frame ``index`` goes there; no one was added that comes after it. Hot."""
        if outlet is self._outlet and self._end == index:
            self._end = index + 1
            return
        self._close()
        self._outlet, self._begin, self._end = outlet, index, index + 1

    def send(self) -> None:
        self._close()
        for outlet, runs in self._done.items():
            if len(runs) == 1 and outlet not in self.flush:
                outlet.send_frames(self._frames, *runs[0])
                continue
            # One write for all of them costs more copying, and fewer system calls and wake-ups.
            for run in runs:
                for payload in self._frames.payloads(*run):
                    outlet.send_packet(payload)
            self.flush.add(outlet)
        for outlet in self.flush:
            outlet.flush()

    def _close(self) -> None:
        if self._outlet is not None:
            self._done.setdefault(self._outlet, []).append((self._begin, self._end))
