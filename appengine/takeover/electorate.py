"""Whose votes count, while rosters change. Sans-IO.

A majority of one roster and a majority of another need not have a node in common. So nobody passes from one roster to
another at once: each node goes by a list of rosters, and a lease needs a majority of *each*.

* A node adds a new roster to its list at once, keeps it on disk, and then votes for nobody whose list lacks it.
* The oldest is dropped when a majority of its members have told that they go by all that come after it, and one lease
  later: no lease that reckoned without those can be had, and those that were are over. Others drop what one has. Nodes
  may have leases of different lengths; nobody votes for a longer one than its own, and each tells how long that is.
* A node without a list (new, or its disk is) does not vote. It takes the list of any node that has one. Only if every
  member of the roster has told that it has none, at this very roster, is that roster the first.
* Nobody makes others reckon with rosters that never were: what another goes by counts only as far as this node has seen
  it signed. Signed rosters, also those that were, come over the same links as the letters.

Removing a node from a site is the operator's word that it is off: one lease later it is missed in no majority.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Final

from twisted.logger import Logger

from appengine.takeover.messages import Config, Standing
from appengine.takeover.timing import LONGEST, hold

MAX_CONFIGS: Final = 8
"""More there are only if a site has changed that often while its nodes did not meet. Such a node does not vote."""


CHANGES_BURST: Final = 16
"""How often one member may change this node's list by what it tells; one more in each time that a vote is held. Each is
written to disk. A roster is told of once."""


class Electorate:
    """By whose votes one node goes.

    :param saved: the list that was kept; ``None`` if there is none.
    :param save: keeps a list; may raise ``OSError``: the node is no voter until that works again.
    :param length: of this node's leases, in seconds: it votes for no longer ones.
    :param vouched: whether a roster that is not newer than the one that holds was signed, as far as this node has seen.
    :ivar lease: of the longest that it may have voted for, also before it was started.
    """

    log = Logger()

    def __init__(
        self,
        name: str,
        saved: Standing | None,
        save: Callable[[Standing], None],
        length: float,
        vouched: Callable[[Config], bool],
    ) -> None:
        self.name = name
        self._save, self._length, self._vouched = save, length, vouched
        self.lease = length if saved is None else max(length, saved.lease)
        self._configs: tuple[Config, ...] = () if saved is None else saved.configs
        self._roster: Config | None = None
        self._narrow_at = 0.0
        self._told: dict[str, Standing] = {}
        self._moved_since: float | None = None
        self._unsaved = False
        # By member: how many changes it has left, as of when.
        self._changes: dict[str, tuple[float, float]] = {}
        # By member: since when it goes by what was not shown here; ``None`` once people have been told.
        self._doubted: dict[str, float | None] = {}
        if saved is not None and self.lease > saved.lease:
            # Before it votes for the first of these.
            self._keep()

    # -- What is known

    @property
    def members(self) -> tuple[str, ...]:
        """Of the newest roster; none if this node is not among them."""
        return () if self._roster is None or self.name not in self._roster.members else self._roster.members

    @property
    def established(self) -> bool:
        """Whether this node votes, and may ask."""
        return bool(self._configs) and bool(self.members) and not self._unsaved and self._reckons_with_all()

    @property
    def settled(self) -> bool:
        """Whether nothing need be told for its own sake."""
        return self.established and len(self.standing().configs) == 1

    def standing(self) -> Standing:
        self._extend()
        if self.established:
            return Standing(True, self._configs, self.lease)
        # Who has a list must not be taken for one who never had any.
        return Standing(False, () if self._roster is None or self._configs else (self._roster,), self.lease)

    def missing(self) -> tuple[str, ...]:
        """Who must still be heard of before this node may vote."""
        if self._configs or self._roster is None:
            return ()
        return tuple(name for name in self.members if name != self.name and not self._is_new(name, self._roster))

    def lease_of(self, name: str, unknown: float) -> float:
        """The longest that a member may have voted for, as it has told."""
        told = self._told.get(name)
        return unknown if told is None else told.lease

    def is_quorum(self, names: Collection[str], now: float) -> bool:
        """Whether these are a majority of each roster that counts."""
        self._extend()
        return self.established and all(self._majority(config, names, now) for config in self._configs)

    def accepts(self, standing: Standing) -> bool:
        """Whether this node may vote for one of that standing: it must have reckoned with all that we do."""
        self._extend()
        theirs = {config.members for config in standing.configs}
        return self.established and standing.established and all(c.members in theirs for c in self._configs)

    # -- What happens

    def roster(self, revision: int, members: Collection[str], now: float) -> None:
        """The roster that holds now."""
        config = Config(revision, tuple(sorted(members)))
        before, self._roster = self._roster, config
        removed = None if before is None else set(before.members) - set(members)
        if removed is None or removed:
            # What the removed ones have must be over; of whom nothing was heard, nothing is known.
            leases = [LONGEST] if removed is None else [self.lease_of(name, LONGEST) for name in removed]
            self._narrow_at = max(self._narrow_at, now + hold(max(self.lease, *leases)))
        self._told = {name: told for name, told in self._told.items() if name in config.members}
        self._moved_since = None
        self._changes = {name: left for name, left in self._changes.items() if name in config.members}
        self._doubted = {name: since for name, since in self._doubted.items() if name in config.members}

    def heard(self, peer: str, standing: Standing, now: float) -> None:
        """What another member goes by."""
        if peer not in self.members or peer == self.name:
            return
        if standing.established:
            doubtful = next((each for each in standing.configs if not self._is_believed(each)), None)
            if doubtful is not None:
                self._doubt(peer, doubtful, now)
            if doubtful is not None or not self._merge(peer, standing.configs, now):
                # By what it goes does not count; how long a lease it may have voted for does.
                told = self._told.get(peer)
                if told is not None and standing.lease > told.lease:
                    self._told[peer] = replace(told, lease=standing.lease)
                return
        self._doubted.pop(peer, None)
        self._told[peer] = standing
        self.tick(now)

    def tick(self, now: float) -> None:
        """See whether there is a first roster, or an oldest one to drop."""
        if not self._configs and self._roster is not None and self.members and not self.missing():
            self._take((self._roster,))
        self._extend()
        if self._unsaved:
            self._keep()
        if len(self._configs) < 2 or not self._is_left(now):
            self._moved_since = None
        elif self._moved_since is None:
            self._moved_since = now
        elif now - self._moved_since >= hold(self._longest()):
            self._moved_since = None
            self._take(self._configs[1:])

    def longer_leases_are_over(self) -> None:
        """What this node voted for before it was started is over by now."""
        if self.lease > self._length:
            self.lease = self._length
            if self._configs:
                self._keep()

    # -- Within

    def _longest(self) -> float:
        """No lease that a majority may have voted for, of whom all have told of theirs, is longer."""
        return max([self.lease, *(told.lease for told in self._told.values())])

    def _is_believed(self, config: Config) -> bool:
        """Whether it is this node's word, too, or the authority's.

        A majority of the present members is needed anyhow, whenever they became that.
        """
        roster = self._roster
        if config in self._configs:
            return True
        if roster is None or config.revision > roster.revision:
            return False
        return config.members == roster.members or self._vouched(config)

    def _doubt(self, peer: str, config: Config, now: float) -> None:
        """The signed roster is mostly on its way."""
        since = self._doubted.setdefault(peer, now)
        if since is not None and now - since >= hold(self._length):
            self._doubted[peer] = None
            self.log.warn(
                "Node {peer} says that it goes by a roster {revision} of {count} nodes, and has not shown it here with "
                "its signature: what it goes by does not count",
                peer=peer,
                revision=config.revision,
                count=len(config.members),
            )

    def _is_new(self, name: str, roster: Config) -> bool:
        told = self._told.get(name)
        if told is None or told.established:
            return False
        return len(told.configs) == 1 and told.configs[0].members == roster.members

    def _majority(self, config: Config, names: Collection[str], now: float) -> bool:
        voters = set(config.members)
        roster = self._roster
        # Only a later roster says who was removed: one that this node does not have yet may have added some.
        if roster is not None and config.revision < roster.revision and now >= self._narrow_at:
            voters &= set(roster.members)
        return not voters or 2 * len(voters.intersection(names)) > len(voters)

    def _is_left(self, now: float) -> bool:
        """Whether a majority of the oldest roster goes by all the others."""
        rest = {config.members for config in self._configs[1:]}
        moved = [self.name]
        for name, told in self._told.items():
            if told.established and rest <= {config.members for config in told.configs}:
                moved.append(name)
        return self.established and self._majority(self._configs[0], moved, now)

    def _reckons_with_all(self) -> bool:
        roster = self._roster
        return roster is not None and any(config.members == roster.members for config in self._configs)

    def _extend(self) -> None:
        roster = self._roster
        if roster is None or not self.members or not 0 < len(self._configs) < MAX_CONFIGS:
            return
        if not self._reckons_with_all():
            self._take(_in_order((*self._configs, roster)))

    def _merge(self, peer: str, theirs: Sequence[Config], now: float) -> bool:
        """Reckon with all that another does, and no more with what that has dropped; whether that can be done."""
        if not theirs:
            return False
        floor = max(configs[0].revision for configs in (self._configs, theirs) if configs)
        merged = _in_order(config for config in (*self._configs, *theirs) if config.revision >= floor)
        if len(merged) > MAX_CONFIGS:
            return False
        if merged != self._configs:
            if not self._may_change(peer, now):
                return False
            self._moved_since = None
            self._take(merged)
        return True

    def _may_change(self, peer: str, now: float) -> bool:
        left, since = self._changes.get(peer, (float(CHANGES_BURST), now))
        left = min(CHANGES_BURST, left + (now - since) / hold(self._length))
        may = left >= 1
        self._changes[peer] = left - may, now
        return may

    def _take(self, configs: tuple[Config, ...]) -> None:
        self._configs = configs
        self._keep()

    def _keep(self) -> None:
        try:
            self._save(Standing(True, self._configs, self.lease))
        except OSError as error:
            if not self._unsaved:
                self.log.error("This node does not vote: who belongs to its site cannot be kept: {why}", why=str(error))
            self._unsaved = True
        else:
            self._unsaved = False


def _in_order(configs: Iterable[Config]) -> tuple[Config, ...]:
    """By revision; of those with the same members the first."""
    found: dict[tuple[str, ...], Config] = {}
    for config in sorted(configs, key=lambda config: config.revision):
        found.setdefault(config.members, config)
    return tuple(found.values())
