"""Takeover within the site, composed of the roster, the links of the site, the store and the engine."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from appengine.takeover.deadman import SwitchClient
from appengine.takeover.interfaces import Leases
from appengine.takeover.records import IPAddress, Membership, Records
from appengine.takeover.service import Takeover
from kubebus.rosterkeeper import RosterKeeper
from metasync.interfaces import Store
from metasync.keys import NodeKeys


class SiteMembership:
    """A :class:`appengine.takeover.records.Membership` by the signed roster."""

    def __init__(self, keeper: RosterKeeper) -> None:
        self._keeper = keeper

    @property
    def site(self) -> str | None:
        return self._keeper.site

    def members(self) -> Collection[str]:
        roster = self._keeper.roster
        # A node that was struck off does not count the others any more, either.
        if roster is None or self._keeper.me() is None:
            return ()
        return frozenset(member.name for member in roster.members)

    def owns(self, node: str, address: IPAddress) -> bool:
        roster = self._keeper.roster
        member = None if roster is None else roster.member(node)
        return member is not None and any(address in subnet for subnet in member.subnets)

    def watch(self, changed: Callable[[], None]) -> None:
        self._keeper.watch(changed)


def takeover(
    reactor: Any, store: Store, keys: NodeKeys, leases: Leases, membership: Membership, records: Records, state: Path
) -> Takeover:
    """For the engine, which starts and stops it.

    :param state: the engine's own directory; the dead man's switch has its socket there.
    """
    switch = SwitchClient(reactor, state / "takeover" / "switch.sock")
    return Takeover(reactor, store, keys, leases, membership, records, switch)
