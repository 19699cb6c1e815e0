"""A site in a test's own time: nodes with clocks of their own, links, letters that are late, lost or disordered.

Who truly has a pod is read from outside: whoever counts on a lease by its own clock, and whoever did when it was killed
(its containers live on until then).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count

from appengine.takeover.electorate import Electorate
from appengine.takeover.lease import Ending, Gained, LeaseCore, Renewed, Send, WantedBack
from appengine.takeover.messages import Config, Letter, Standing
from appengine.takeover.timing import LeaseTiming


@dataclass(slots=True)
class ModelNode:
    """:ivar rate: how fast its clock goes. :ivar offset: what that showed at the true time 0.

    :ivar timing: what it goes by when it is started next.
    """

    name: str
    timing: LeaseTiming
    rate: float = 1.0
    offset: float = 0.0
    saved: Standing | None = None
    roster: Config | None = None
    seen: set[Config] = field(default_factory=set)
    core: LeaseCore | None = None
    ghosts: dict[str, float] = field(default_factory=dict)
    told: list[object] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    readonly: bool = False

    def clock(self, time: float) -> float:
        return self.offset + self.rate * time

    def true(self, clock: float) -> float:
        return (clock - self.offset) / self.rate

    def save(self, standing: Standing) -> None:
        if self.readonly:
            raise OSError("read-only")
        self.saved = standing


class ModelSite:
    """:param owners: each pod's owner, by UID.

    :ivar gives_back: whether a taker stops and releases when it is asked.
    :ivar rude: whether each node takes itself for the owner of everything, and asks whenever it may.
    """

    def __init__(self, names: Iterable[str], owners: dict[str, str], timing: LeaseTiming | None = None) -> None:
        self.timing = timing or LeaseTiming()
        self.owners = owners
        self.time = 0.0
        self.nodes: dict[str, ModelNode] = {}
        self.roster = Config(0, ())
        self.cut: set[frozenset[str]] = set()
        self.dead_for_good: set[str] = set()
        self.post: list[tuple[float, int, str, str, Letter]] = []
        self.old_post: list[tuple[str, str, Letter]] = []
        self.delay: Callable[[], float | None] = lambda: 0.001
        self.gives_back, self.rude = True, False
        self.sent = 0
        self._number, self._runs = count(), count()
        self.add(names)

    # -- What may happen

    def add(self, names: Iterable[str]) -> None:
        """New members, in a new roster that nobody has been told of."""
        for name in names:
            self.nodes[name] = ModelNode(name, self.timing)
        members = tuple(sorted({*self.nodes} - self.dead_for_good))
        self.roster = Config(self.roster.revision + 1, members)

    def remove(self, name: str) -> None:
        """A node that is dead for good leaves the roster, of which nobody has been told."""
        self.kill(name)
        self.dead_for_good.add(name)
        self.roster = Config(self.roster.revision + 1, tuple(m for m in self.roster.members if m != name))

    def tell_roster(self, name: str) -> None:
        """A node hears of the newest roster; its links follow."""
        node = self.nodes[name]
        if name in self.dead_for_good or node.roster == self.roster:
            return
        before = self.linked(name)
        node.roster = self.roster
        node.seen.add(self.roster)
        if node.core is not None:
            node.core.roster(self.roster.revision, self.roster.members, node.clock(self.time))
            self.act(node)
        self._links_changed(name, before)

    def start(self, name: str) -> None:
        node = self.nodes[name]
        if node.core is not None or name in self.dead_for_good:
            return
        if node.roster is None:
            node.roster = self.roster
            node.seen.add(self.roster)
        now = node.clock(self.time)
        electorate = Electorate(name, node.saved, node.save, node.timing.length, node.seen.__contains__)
        node.core = core = LeaseCore(name, f"{next(self._runs):x}", node.timing, electorate, now)
        core.roster(node.roster.revision, node.roster.members, now)
        for uid, owner in self.owners.items():
            core.claim(uid, name if self.rude else owner, now)
        for other in self.linked(name):
            core.link(other, True, now)
            self._tell_link(other, name, True)
        self.act(node)

    def kill(self, name: str) -> None:
        node = self.nodes[name]
        if node.core is None:
            return
        now, before = node.clock(self.time), self.linked(name)
        for uid in self.owners:
            until = node.core.held_until(uid, now)
            if until is not None:
                node.ghosts[uid] = max(until, node.ghosts.get(uid, 0.0))
        node.core = None
        node.running.clear()
        for other in before:
            self._tell_link(other, name, False)

    def set_cut(self, one: str, other: str, cut: bool) -> None:
        pair = frozenset((one, other))
        was = other in self.linked(one)
        (self.cut.add if cut else self.cut.discard)(pair)
        for a, b in ((one, other), (other, one)):
            if (b in self.linked(a)) != was:
                self._tell_link(a, b, not was)

    def split(self, *groups: Iterable[str]) -> None:
        """Only nodes of one group reach each other."""
        where = {name: index for index, group in enumerate(groups) for name in group}
        for one in self.nodes:
            for other in self.nodes:
                if one < other:
                    self.set_cut(one, other, where.get(one) != where.get(other))

    def advance(self, seconds: float) -> None:
        """Let time pass: letters arrive, timers fire."""
        end = self.time + seconds
        for _ in range(200_000):
            at = min([end, *(each[0] for each in self.post), *self._timers()])
            self.time = max(self.time, at)
            due = sorted(each for each in self.post if each[0] <= self.time)
            if due:
                self.post = [each for each in self.post if each[0] > self.time]
                for _, _, source, target, letter in due:
                    self.deliver(source, target, letter)
            for node in self.nodes.values():
                self._timer_fires(node)
            self.check()
            if at >= end:
                return
        raise AssertionError("there is no end to it")

    def deliver(self, source: str, target: str, letter: Letter) -> None:
        """Signed rosters that were come over the same link, but a little later."""
        node = self.nodes[target]
        if node.core is not None:
            node.core.received(source, letter, node.clock(self.time))
            node.core.tick(node.clock(self.time))
            self.act(node)
        if node.roster is not None:
            newest = node.roster.revision
            node.seen |= {each for each in self.nodes[source].seen if each.revision < newest}

    def replay(self, pick: int) -> None:
        """A letter of any time comes once more."""
        if self.old_post:
            self.deliver(*self.old_post[pick % len(self.old_post)])

    # -- What is so

    def linked(self, name: str) -> list[str]:
        """Both are alive, in each other's roster, and not cut off."""
        return [other for other in self.nodes if self._is_linked(name, other)]

    def _is_linked(self, one: str, other: str) -> bool:
        a, b = self.nodes[one], self.nodes[other]
        if one == other or a.core is None or b.core is None or a.roster is None or b.roster is None:
            return False
        return frozenset((one, other)) not in self.cut and other in a.roster.members and one in b.roster.members

    def holders(self, uid: str) -> set[str]:
        """Where the pod may be running, at this true time."""
        found = set()
        for node in self.nodes.values():
            now = node.clock(self.time)
            if node.core is not None and node.core.held_until(uid, now) is not None:
                found.add(node.name)
            if now < node.ghosts.get(uid, now):
                found.add(node.name)
        return found

    def check(self) -> None:
        """What must always be so."""
        for uid in self.owners:
            holders = self.holders(uid)
            assert len(holders) < 2, f"{uid} runs on {sorted(holders)} at {self.time}"

    # -- Within

    def act(self, node: ModelNode) -> None:
        core = node.core
        while core is not None and (effects := core.take_effects()):
            for effect in effects:
                if isinstance(effect, Send):
                    self._send(node.name, effect.peer, effect.letter)
                elif not isinstance(effect, Renewed):
                    node.told.append(effect)
                    self._engine(node, core, effect)

    def _engine(self, node: ModelNode, core: LeaseCore, effect: object) -> None:
        if isinstance(effect, Gained):
            node.running.add(effect.uid)
        elif isinstance(effect, Ending):
            node.running.discard(effect.uid)
        elif isinstance(effect, WantedBack) and self.gives_back:
            node.running.discard(effect.uid)
            core.release(effect.uid, node.clock(self.time))

    def _send(self, source: str, target: str, letter: Letter) -> None:
        self.sent += 1
        if target not in self.linked(source):
            return
        self.old_post = [*self.old_post[-300:], (source, target, letter)]
        delay = self.delay()
        if delay is not None:
            self.post.append((self.time + delay, next(self._number), source, target, letter))

    def _timer_fires(self, node: ModelNode) -> None:
        """Only when it was set: what nobody waits for does not happen."""
        if node.core is not None:
            now = node.clock(self.time)
            at = node.core.next_tick(now)
            if at is not None and now >= at:
                node.core.tick(now)
                self.act(node)

    def _timers(self) -> list[float]:
        found = []
        for node in self.nodes.values():
            if node.core is not None:
                at = node.core.next_tick(node.clock(self.time))
                if at is not None:
                    # A little late, as timers are: and never stuck at a time that rounds down.
                    found.append(max(self.time, node.true(at)) + 1e-6)
        return found

    def _links_changed(self, name: str, before: list[str]) -> None:
        after = self.linked(name)
        for other in {*before, *after}:
            if (other in before) != (other in after):
                self._tell_link(name, other, other in after)
                self._tell_link(other, name, other in after)

    def _tell_link(self, name: str, other: str, up: bool) -> None:
        node = self.nodes[name]
        if node.core is not None:
            node.core.link(other, up, node.clock(self.time))
            self.act(node)
