# mypy: disallow-untyped-calls=False
"""Any order of enrolments, revocations and removals by two routers keeps the promises of the registry."""

from __future__ import annotations

from collections.abc import Coroutine
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from kubebus.addresses import AddressPlan
from kubebus.identity import PeerIdentity, Role
from kubebus.interfaces import NodeRecord
from kubebus.members import Members, NotFound, NotRevoked
from kubebus.testing import MemoryRegistry
from kubebus.tokens import Refusal, Refused

NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
KEYS = st.sampled_from([letter * 64 for letter in "1234567"])
ROUTERS = st.integers(0, 1)

# Room for four nodes only, so that it is exhausted now and then.
PLAN = AddressPlan(IPv6Network("fd00:1:2::/48"), pod_pool=IPv4Network("10.192.0.0/22"))


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits, as those over the memory registry."""
    results: list[Any] = []
    failures: list[BaseException] = []
    Deferred.fromCoroutine(work).addCallbacks(results.append, lambda failure: failures.append(failure.value))
    if failures:
        raise failures[0]
    return results[0]


class Network(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.registry = MemoryRegistry()
        self.routers = [Members("default", self.registry, PLAN, lambda: self.now) for _ in range(2)]
        self.nodes: dict[str, NodeRecord] = {}
        self.revoked: dict[str, set[str]] = {}
        self.live: set[str] = set()
        self.tokens: list[tuple[str, str]] = []
        self.used: dict[str, tuple[str, str]] = {}

    @rule(router=ROUTERS)
    def make_token(self, router: int) -> None:
        token, secret = run(self.routers[router].create_token())
        self.tokens.append((token.id, secret))

    @rule(router=ROUTERS, name=NAMES, key=KEYS, pick=st.integers(0, 100))
    def enrol(self, router: int, name: str, key: str, pick: int) -> None:
        if not self.tokens:
            return
        token, secret = self.tokens[pick % len(self.tokens)]
        before = self.nodes.get(name)
        try:
            node = run(self.routers[router].enrol(token, secret, name, key, self.live.__contains__))
        except Refused as refused:
            self.check_refusal(refused.refusal, token, name, key)
            return
        assert self.used.setdefault(token, (name, key)) == (name, key), "a token was used twice"
        assert key not in self.revoked.get(name, ()), "a revoked key came back"
        if before is not None:
            assert (node.addresses, node.pod_subnets) == (before.addresses, before.pod_subnets), "addresses changed"
            assert name not in self.live or key == before.public_key, "a live name was claimed"
        assert node.revoked_at is None
        self.nodes[name] = node

    def check_refusal(self, refusal: Refusal, token: str, name: str, key: str) -> None:
        """Nothing is refused without a reason."""
        node = self.nodes.get(name)
        if refusal is Refusal.USED_TOKEN:
            assert self.used[token] != (name, key)
        elif refusal is Refusal.REVOKED:
            assert key in self.revoked[name]
        elif refusal is Refusal.NAME_TAKEN:
            assert node is not None and name in self.live and node.public_key != key
        elif refusal is Refusal.EXHAUSTED:
            assert node is None and len(self.nodes) == 4
        else:
            raise AssertionError(f"refused for {refusal}")

    @rule(name=NAMES)
    def connect_or_leave(self, name: str) -> None:
        node = self.nodes.get(name)
        if node is not None and node.revoked_at is None:
            self.live ^= {name}

    @rule(router=ROUTERS, name=NAMES)
    def revoke(self, router: int, name: str) -> None:
        try:
            node = run(self.routers[router].revoke(name))
        except NotFound:
            assert name not in self.nodes
            return
        self.nodes[name] = node
        self.revoked.setdefault(name, set()).add(node.public_key)
        self.live.discard(name)

    @rule(router=ROUTERS, name=NAMES)
    def remove(self, router: int, name: str) -> None:
        try:
            run(self.routers[router].remove(name))
        except NotFound:
            assert name not in self.nodes
        except NotRevoked:
            assert self.nodes[name].revoked_at is None
        else:
            assert self.nodes.pop(name).revoked_at is not None
            # Who is forgotten is forgotten with his past; his certificate was for a node that is unknown now.
            self.revoked.pop(name)

    @rule(seconds=st.sampled_from([1, 3600]))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds
        self.tokens = self.tokens if self.now < 80_000 else []

    @invariant()
    def both_routers_agree(self) -> None:
        for members in self.routers:
            assert {node.name: node for node in run(members.nodes())} == self.nodes

    @invariant()
    def nothing_is_given_twice(self) -> None:
        given = [claim for node in self.nodes.values() for claim in (*node.addresses, *node.pod_subnets)]
        assert len(given) == len(set(given))
        assert len(run(self.registry.list("addresses"))) == len(given), "claims and nodes differ"

    @invariant()
    def only_present_keys_are_admitted(self) -> None:
        for name, node in self.nodes.items():
            for key in (letter * 64 for letter in "1234567"):
                identity = PeerIdentity("default", Role.NODE, name)
                try:
                    run(self.routers[0].check(identity, key))
                    admitted = True
                except Refused:
                    admitted = False
                assert admitted == (key == node.public_key and node.revoked_at is None)


class MembersStatefulTests(SynchronousTestCase):
    def test_any_order(self) -> None:
        options = settings(max_examples=40, stateful_step_count=40, deadline=None)
        run_state_machine_as_test(Network, settings=options)
