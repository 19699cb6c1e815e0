"""Leases of a site of three, over its real links, without any cloud: an agent killed, the LAN split, and healed."""

from __future__ import annotations

import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from kubebus.adminclient import AdminClient
from tests.integration.test_identity_daemons import CHECKOUT, twistd
from tests.lab.daemon import Daemon
from tests.lab.internet import SITE_LAN4, Internet
from tests.lab.namespace import Namespace
from tests.lab.state import Run
from tests.lab.waiting import wait_until
from tests.lab.world import SharedWorld

LEASE = "8s"
OWNERS = {"pod-of-a": "a", "pod-of-b": "b"}


class LeaseTests(SharedWorld, SynchronousTestCase):
    """Only ``b`` and ``c`` listen. The router enrols them, and is killed."""

    folder: Path
    router: Daemon
    edges: dict[str, Daemon]
    namespaces: dict[str, Namespace]

    @classmethod
    def build_world(cls) -> None:
        net = cls.keep(Internet(sites=1, nodes_per_site=3, cloud=False))
        cls.folder = Run.current().directory("leases")
        cls.router = cls.keep(
            twistd(
                "router",
                "kubebus",
                *("--state-dir", str(cls.folder / "router"), "--socket", str(cls.folder / "router.sock")),
                *("--public-address", net.eip_address, "--router-name", "r1"),
                namespace=net.eip,
            )
        )
        client = AdminClient(str(cls.folder / "router.sock"))
        cls.router.wait_for("Listening on", 60)
        cls.namespaces = dict(zip("abc", net.sites[0].nodes, strict=True))
        cls.edges = {
            name: cls.start_edge(name, client.post("/v1/tokens", {"site": "hall"})["joinString"]) for name in "abc"
        }

    @classmethod
    def start_edge(cls, name: str, token: str) -> Daemon:
        command = [
            *(sys.executable, "-m", "tests.integration.lease_process", str(cls.folder / f"{name}.notes")),
            ",".join(f"{uid}={owner}" for uid, owner in OWNERS.items()),
            *("--state-dir", str(cls.folder / name), "--socket", str(cls.folder / f"{name}.sock"), "--no-pods"),
            *("--takeover-lease", LEASE),
            *("--node-name", name, "--join", token),
            *([] if name == "a" else ["--site-listen", "7443"]),
        ]
        env = {"PYTHONPATH": str(CHECKOUT)}
        return cls.keep(Daemon(name, command, namespace=cls.namespaces[name], cwd=CHECKOUT, env=env))

    def notes(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / f"{name}.notes"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def spans(self, name: str, uid: str) -> list[tuple[float, float]]:
        """From when until when the node could count on the lease, by all that it noted."""
        found: list[tuple[float, float]] = []
        for note in self.notes(name):
            if note["uid"] != uid:
                continue
            if note["what"] == "gained":
                found.append((note["at"], note["until"]))
            elif note["what"] == "released":
                found[-1] = (found[-1][0], note["at"])
            elif note["until"] is not None:
                found[-1] = (found[-1][0], note["until"])
        return found

    def holders(self, uid: str) -> set[str]:
        """Whose newest word is that it has the lease."""
        last = {name: [note["what"] for note in self.notes(name) if note["uid"] == uid][-1:] for name in "abc"}
        return {name for name, what in last.items() if what in (["gained"], ["renewed"]) and self.edges[name].alive}

    def gained(self, uid: str) -> dict[str, int]:
        return {
            name: sum(1 for note in self.notes(name) if note["what"] == "gained" and note["uid"] == uid)
            for name in "abc"
        }

    def await_holder(self, uid: str, names: str, seconds: float, gained: int) -> None:
        """One of those gains it: all together that often by then."""

        def is_so() -> bool:
            return sum(self.gained(uid).values()) == gained and len(self.holders(uid) & set(names)) == 1

        wait_until(is_so, seconds, f"one of {names} has {uid}")

    def tearDown(self) -> None:
        """Never two at a time, whatever the test was."""
        for uid in OWNERS:
            for one, other in combinations("abc", 2):
                for start, end in self.spans(one, uid):
                    for begin, stop in self.spans(other, uid):
                        self.assertFalse(start < stop and begin < end, (uid, one, (start, end), other, (begin, stop)))

    def test_1_the_owners_have_theirs(self) -> None:
        """The cloud is not asked: it is gone by then."""
        for uid, owner in OWNERS.items():
            self.await_holder(uid, owner, 90, 1)
        self.router.kill9()

    def test_2_an_agent_is_killed(self) -> None:
        """Another has its pod a lease later, and gives it back as soon as it is there again."""
        self.edges["a"].kill9()
        self.await_holder("pod-of-a", "bc", 30, 2)
        self.edges["a"].start()
        self.await_holder("pod-of-a", "a", 40, 3)
        self.assertEqual(self.gained("pod-of-b"), {"a": 0, "b": 1, "c": 0})

    def test_3_the_lan_is_split(self) -> None:
        """The owner sees no majority: it gives up in time. When the LAN is whole it has its pod again."""
        node = self.namespaces["a"]
        drop = " ".join(f"ip saddr {SITE_LAN4}.{host} drop;" for host in (12, 13))
        drop6 = "ip6 saddr { fd00:1::12, fd00:1::13 } drop;"
        node.nft(f"table inet split {{\nchain in {{ type filter hook input priority 0; {drop} {drop6} }}\n}}")
        self.addCleanup(node.run, ["nft", "delete", "table", "inet", "split"], check=False)
        self.await_holder("pod-of-a", "bc", 40, 4)
        ends = [note for note in self.notes("a") if note["what"] == "ending"]
        self.assertEqual([note["uid"] for note in ends], ["pod-of-a"])
        # There was time to stop it.
        self.assertGreater(ends[0]["until"] - ends[0]["at"], 1.5)
        node.run(["nft", "delete", "table", "inet", "split"])
        self.await_holder("pod-of-a", "a", 40, 5)
        self.assertEqual(self.gained("pod-of-b"), {"a": 0, "b": 1, "c": 0})
