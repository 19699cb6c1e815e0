"""How much may wait unsent in the kernel: as little as keeps the path busy.

What waits in the socket can no longer be overtaken by a heartbeat or a small packet, nor dropped. So the limit
(``TCP_NOTSENT_LOWAT``) follows the rate at which the path really takes data: 128 KiB at 64 kbit/s would be 16 seconds.
"""

from __future__ import annotations

LOWEST = 1 << 13
"""Bytes. Less than this and each wake-up moves a packet or two only."""
HIGHEST = 1 << 18
FIRST = 1 << 14
"""Bytes, until the rate is known. On a fast path one window corrects it; on a slow one it is not yet too much."""
TARGET = 0.02
"""Seconds of data to have at hand for the path: more than an epoll round trip of a busy process takes."""
WINDOW = 0.05
"""Seconds over which a rate is measured."""


IDLE = 0.01
"""Seconds without anything waiting, after which what was sent before says nothing of the path any more."""


class UnsentLimit:
    """The limit, from how much the kernel takes while data waits for it.

    Time is passed in, in seconds, and with it the bytes that the kernel took since the connection was made.
    """

    __slots__ = ("_bytes", "_drained_at", "_since", "limit")

    def __init__(self) -> None:
        self.limit = FIRST
        self._since: float | None = None
        self._bytes = 0
        self._drained_at: float | None = None

    def blocked(self, now: float, total: int) -> None:
        """The kernel took less than it was offered: from now on it is the path that sets the pace."""
        if self._since is None or (self._drained_at is not None and now - self._drained_at > IDLE):
            self._since, self._bytes = now, total
        self._drained_at = None

    def taken(self, now: float, total: int, *, drained: bool) -> bool:
        """The kernel took some of what waited, or all of it; ``True`` if :attr:`limit` has changed."""
        if drained:
            self._drained_at = now
        if self._since is None or (elapsed := now - self._since) < WINDOW:
            return False
        wanted = min(max(int((total - self._bytes) / elapsed * TARGET), LOWEST), HIGHEST)
        self._since, self._bytes = now, total
        # A system call for each small change would cost more than it brings; growing is what throughput needs at once.
        if wanted > self.limit or wanted * 2 <= self.limit:
            self.limit = min(wanted, self.limit * 4)
            return True
        return False
