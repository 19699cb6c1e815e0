"""How much may wait in the kernel on either side of a connection: as little as keeps the path busy. Pure.

What waits in a socket can no longer be overtaken by a heartbeat or a small packet, nor dropped. So the limit for unsent
data (``TCP_NOTSENT_LOWAT``) follows the rate at which the path really takes it: 128 KiB at 64 kbit/s would be 16
seconds. And where this process is slower than the path, what it lets the kernel receive ahead (``SO_RCVBUF``) shrinks
to what it can use: Linux lets it grow to many megabytes, in which a ping would wait its turn.
"""

from __future__ import annotations

LOWEST = 1 << 13
"""Bytes. Less than this and each wake-up moves a packet or two only."""
HIGHEST = 1 << 17
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


AHEAD_TIME = 0.006
"""Seconds of data that may wait to be read here: two turns of a busy processor's scheduler. With less, busy processes
in a row wait for each other: 6 ms carried 15 to 30 % more than 2 ms, for 4 ms more under load."""
LEAST_AHEAD = 1 << 17
"""Bytes of it at least, and :data:`MOST_AHEAD` at most."""
MOST_AHEAD = 1 << 21
MOST = 1 << 26
"""Bytes, whatever the peer makes the path look like: it need only be late with its acknowledgements."""
LOOK_EVERY = 0.01
"""Seconds between looks at how much that is."""
RELEASE = 1.0
"""Seconds without falling behind, after which the kernel may do as it likes again."""


class ReceiveLimit:
    """How much the kernel may receive ahead of us; ``None``: as much as it sees fit.

    Time is passed in, in seconds, and with it the bytes received since the connection was made.
    """

    __slots__ = ("_ahead", "_behind_at", "_bytes", "_since", "limit")

    def __init__(self) -> None:
        self.limit: int | None = None
        self._since = self._behind_at = float("-inf")
        self._bytes = 0
        self._ahead = LEAST_AHEAD

    def behind(self, now: float, total: int, unread: int, round_trip: float) -> bool:
        """More was here than is read in one turn; ``True`` if :attr:`limit` has changed.

        :param unread: bytes that still wait in the socket.
        :param round_trip: seconds, of the path without queues.
        """
        if unread <= self._ahead:
            return False
        self._behind_at = now
        elapsed = now - self._since
        if elapsed < WINDOW:
            return False
        rate = (total - self._bytes) / elapsed
        self._since, self._bytes = now, total
        if elapsed >= RELEASE:
            # It tells nothing of how fast we are when we have something to do.
            return False
        self._ahead = min(max(int(rate * AHEAD_TIME), LEAST_AHEAD), MOST_AHEAD)
        # Twice what the path needs to stay busy, and what is to lie ready here.
        wanted = min(self._ahead + int(2 * rate * round_trip), MOST)
        if self.limit is None or not wanted / 2 <= self.limit <= wanted * 2:
            self.limit = wanted
            return True
        return False

    def caught_up(self, now: float) -> bool:
        """Everything was read in one turn; ``True`` if that has been so for long, and the limit has gone."""
        if self.limit is None or now - self._behind_at < RELEASE:
            return False
        self.limit = None
        return True


SHORT = 0.005
"""Seconds. On a path with a round trip below this, losses are rare and soon made good, and the queues are those of busy
processes. BBR takes waiting for a processor for the path's delay and sends less: 1.6 Gbit/s where CUBIC had 2.3."""
LONG_PATH = "bbr"
"""It keeps going on paths that lose packets, and keeps their queues short. Linux has it, where a module is loaded."""
SHORT_PATH = "cubic"
LOSSY = 0.01
"""Segments sent again, of all, from which even a short path counts as one that loses."""
ENOUGH = 1000
"""Segments that tell."""
JUDGE_EVERY = 1.0
"""Seconds between looks at the path of a connection on which something waits."""


class CongestionChoice:
    """The congestion control that suits a path, from what the kernel tells of it."""

    __slots__ = ("_lossy", "_resent", "_sent", "name")

    def __init__(self) -> None:
        self.name: str | None = None
        self._sent = self._resent = 0
        self._lossy = False

    def judge(self, round_trip: float | None, sent: int, resent: int) -> bool:
        """``True`` if :attr:`name` has changed.

        :param round_trip: seconds, the shortest seen; ``None``, if nobody knows it yet, counts as long.
        :param sent: segments since the connection was made, and ``resent`` those of them that were sent again.
        """
        if sent - self._sent >= ENOUGH:
            # A path that loses packets goes on doing so, whatever it is used for at times.
            self._lossy = self._lossy or resent - self._resent > LOSSY * (sent - self._sent)
            self._sent, self._resent = sent, resent
        name = LONG_PATH if self._lossy or round_trip is None or round_trip >= SHORT else SHORT_PATH
        if name == self.name:
            return False
        self.name = name
        return True
