"""Whatever happens to a site: a pod never has two nodes at one true time, and has one soon after the worst is over."""

from __future__ import annotations

import os
from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from appengine.takeover.messages import Config, Standing
from appengine.takeover.timing import LeaseTiming
from tests.unit.appengine.takeover.model import ModelSite

EXAMPLES = int(os.environ.get("TAKEOVER_EXAMPLES", "30"))
RATES = st.floats(0.99, 1.01)
PICK = st.integers(0, 99)
LEASES = st.sampled_from([6.0, 9.0, 15.0, 40.0, 60.0])


class Site(RuleBasedStateMachine):
    SIZE = 3
    REST = 140.0

    def __init__(self) -> None:
        super().__init__()
        self.names = "abcdefghij"[: self.SIZE]
        self.site = ModelSite(self.names, {"one": "a", "two": self.names[-1]})
        self.spare = list("klmnop")
        self.random = Random(0)
        self.slow, self.loss = 0.001, 0.0
        self.site.delay = self.delay

    def delay(self) -> float | None:
        """Of one letter: uniform up to the slowest, so that they pass each other."""
        return None if self.random.random() < self.loss else self.random.random() * self.slow

    @initialize(
        seed=st.integers(0, 1000),
        rates=st.lists(RATES, min_size=5, max_size=5),
        met=st.booleans(),
        rude=st.booleans(),
        on=st.booleans(),
    )
    def begin(self, seed: int, rates: list[float], met: bool, rude: bool, on: bool) -> None:
        self.random.seed(seed)
        self.site.rude = rude
        self.site.gives_back = not rude
        first = Standing(True, (Config(1, tuple(sorted(self.names))),))
        for name, rate in zip(self.names, rates, strict=False):
            node = self.site.nodes[name]
            node.rate, node.offset = rate, self.random.uniform(0, 1e6)
            node.saved = first if met else None
            self.site.start(name)
        if on:
            self.site.advance(20)

    def pick(self, number: int) -> str:
        names = sorted(self.site.nodes)
        return names[number % len(names)]

    @rule(seconds=st.sampled_from([0.01, 0.5, 1.0, 4.0, 5.0, 9.9, 14.5, 15.1, 20.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.site.advance(seconds)

    @rule(slow=st.sampled_from([0.0, 0.01, 0.5, 3.0, 12.0]), loss=st.sampled_from([0.0, 0.0, 0.1, 0.5]))
    def weather(self, slow: float, loss: float) -> None:
        self.slow, self.loss = slow, loss

    @rule(which=PICK)
    def old_letter(self, which: int) -> None:
        self.site.replay(which)
        self.site.check()

    @rule(which=PICK, again=st.booleans(), after=st.sampled_from([0.0, 0.5, 3.0]))
    def kill(self, which: int, again: bool, after: float) -> None:
        name = self.pick(which)
        self.site.kill(name)
        if again:
            self.site.advance(after)
            self.site.start(name)

    @rule(which=PICK)
    def start(self, which: int) -> None:
        self.site.start(self.pick(which))

    @rule(one=PICK, other=PICK, cut=st.booleans())
    def cut(self, one: int, other: int, cut: bool) -> None:
        a, b = self.pick(one), self.pick(other)
        if a != b:
            self.site.set_cut(a, b, cut)

    @rule(number=PICK)
    def split(self, number: int) -> None:
        groups: list[list[str]] = [[], []]
        for index, name in enumerate(sorted(self.site.nodes)):
            groups[number >> index & 1].append(name)
        self.site.split(*groups)

    @rule(which=PICK)
    def alone(self, which: int) -> None:
        """One is cut off from all others, which reach each other."""
        name = self.pick(which)
        self.site.split([name], [other for other in self.site.nodes if other != name])

    @rule()
    def together(self) -> None:
        self.site.split(self.site.nodes)

    @rule(gives_back=st.booleans())
    def engines(self, gives_back: bool) -> None:
        self.site.gives_back = gives_back

    @rule(which=PICK, uid=st.sampled_from(["one", "two"]))
    def release(self, which: int, uid: str) -> None:
        node = self.site.nodes[self.pick(which)]
        if node.core is not None:
            node.core.release(uid, node.clock(self.site.time))
            self.site.act(node)

    @precondition(lambda self: len(self.site.roster.members) < 9 and len(self.spare) > 1)
    @rule(count=st.integers(1, 2), rate=RATES)
    def grow(self, count: int, rate: float) -> None:
        """New nodes, that nobody else has heard of yet."""
        new, self.spare = self.spare[:count], self.spare[count:]
        self.site.add(new)
        for name in new:
            self.site.nodes[name].rate = rate
            self.site.tell_roster(name)
            self.site.start(name)

    @precondition(lambda self: len(self.site.roster.members) > 2)
    @rule(which=PICK)
    def shrink(self, which: int) -> None:
        """A node that is off for good is removed."""
        members = self.site.roster.members
        self.site.remove(members[which % len(members)])

    @rule(which=PICK)
    def roster_spreads(self, which: int) -> None:
        self.site.tell_roster(self.pick(which))

    def teardown(self) -> None:
        """The worst is over: all that are left are up, reach each other, and know of each other."""
        site = self.site
        self.slow, self.loss, site.gives_back = 0.001, 0.0, not site.rude
        site.split(site.nodes)
        for name in sorted(site.nodes):
            site.tell_roster(name)
            site.start(name)
        # What removed nodes have runs out; rosters pass one by one, a lease each; then 2 s to ask.
        site.advance(self.REST)
        for uid, owner in site.owners.items():
            holders = site.holders(uid)
            states = {name: node.core and node.core.electorate.standing() for name, node in site.nodes.items()}
            if site.rude:
                assert holders, f"nobody has {uid}: {states}"
            elif owner not in site.dead_for_good:
                assert holders == {owner}, f"{uid} of {owner} is with {holders}: {states}"


class LargerSite(Site):
    SIZE = 5


class MixedSite(Site):
    """An operator changes the length of the leases, at one node after another, while all that happens."""

    REST = 240.0

    @rule(which=PICK, lease=LEASES, down=st.sampled_from([0.0, 3.0, 20.0]))
    def lease(self, which: int, lease: float, down: float) -> None:
        name = self.pick(which)
        self.site.kill(name)
        self.site.nodes[name].timing = LeaseTiming.of(lease)
        self.site.advance(down)
        self.site.start(name)

    @rule(which=PICK, lease=LEASES)
    def lease_at_the_next_start(self, which: int, lease: float) -> None:
        self.site.nodes[self.pick(which)].timing = LeaseTiming.of(lease)

    def teardown(self) -> None:
        """In the end all are given the same."""
        for name in sorted(self.site.nodes):
            self.site.kill(name)
            self.site.nodes[name].timing = LeaseTiming()
        super().teardown()


class LargerMixedSite(MixedSite):
    SIZE = 5


def run(machine: type[Site], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


class LeaseMachineTests(SynchronousTestCase):
    def test_three(self) -> None:
        run(Site, EXAMPLES)

    def test_five(self) -> None:
        run(LargerSite, max(1, EXAMPLES // 3))

    def test_leases_of_different_lengths(self) -> None:
        run(MixedSite, max(1, EXAMPLES // 3))
        run(LargerMixedSite, max(1, EXAMPLES // 10))
