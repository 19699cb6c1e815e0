"""The rosters of a site that were: signed, so that its nodes can show each other by which they still go. Pure.

Of each run of rosters with the same names only the first counts: in most rosters but endpoints have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final

from kubebus.roster import InvalidRoster, SignedRoster

MAX_HISTORY: Final = 8
"""Rosters that are kept: no node goes by more (``appengine.takeover.electorate.MAX_CONFIGS``)."""


class RosterHistory:
    """:ivar entries: by revision, the newest last. All of one site, and verified."""

    def __init__(self) -> None:
        self.entries: tuple[SignedRoster, ...] = ()

    def add(self, signed: SignedRoster) -> bool:
        """Whether there is something new in it."""
        return self._set((*self.entries, signed))

    def clear(self) -> None:
        self.entries = ()

    def knows(self, revision: int, names: Collection[str]) -> bool:
        """Whether these were the members at that revision, as far as what was signed and seen here says."""
        before = [signed for signed in self.entries if signed.roster.revision <= revision]
        return bool(before) and _names(before[-1]) == frozenset(names)

    def encode(self) -> bytes:
        """For the disk: a line for each."""
        return b"".join(signed.encoded + b"\n" for signed in self.entries)

    def read(self, content: bytes, verified: Callable[[bytes], SignedRoster]) -> None:
        """Add what :meth:`encode` made.

        :param verified: raises :class:`InvalidRoster` for what does not count (any more); that is left out.
        """
        for line in content.split(b"\n")[:MAX_HISTORY]:
            try:
                self.add(verified(line))
            except InvalidRoster:
                continue

    def _set(self, signed: Iterable[SignedRoster]) -> bool:
        kept: list[SignedRoster] = []
        for each in sorted(signed, key=lambda each: each.roster.revision):
            if not kept or _names(kept[-1]) != _names(each):
                kept.append(each)
        before, self.entries = self.entries, tuple(kept[-MAX_HISTORY:])
        return self.entries != before


def _names(signed: SignedRoster) -> frozenset[str]:
    return frozenset(member.name for member in signed.roster.members)
