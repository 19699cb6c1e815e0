# mypy: disallow-untyped-calls=False
"""Identity with real processes: crashes at random points, and two routers over one etcd."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from kubebus.adminclient import AdminClient, AdminError
from kubebus.ca import key_hash
from kubebus.credentials import Keyring
from kubebus.joinstring import JoinString
from tests.lab.daemon import Daemon
from tests.lab.etcd import Etcd, free_ports
from tests.lab.state import Run

NODES = 8


class IdentityCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Run.current().directory("identity")
        self.ports = free_ports(2)
        self.edges = self.folder / "edges"
        # A failure names the points of the crashes by this.
        self.seed = random.randrange(1 << 32)
        self.random = random.Random(self.seed)

    def process(self, label: str, **config: Any) -> Daemon:
        path = self.folder / f"{label}.json"
        path.write_text(json.dumps(config))
        daemon = Daemon(label, [sys.executable, "-m", "tests.integration.identity_process", str(path)])
        self.addCleanup(daemon.close)
        return daemon

    def router(self, name: str = "r1", store: str | None = None, index: int = 0) -> tuple[Daemon, AdminClient]:
        state = self.folder / name
        state.mkdir(exist_ok=True)
        daemon = self.process(
            name,
            side="router",
            name=name,
            state=str(state),
            store=store or f"sqlite:{state}/store.db",
            port=self.ports[index],
            socket=f"{state}/admin.sock",
        )
        daemon.start()
        daemon.wait_for("serving", 30)
        return daemon, AdminClient(f"{state}/admin.sock")

    def edge(self, joins: Sequence[tuple[str, str]], name: str = "edge", **config: Any) -> Daemon:
        daemon = self.process(name, side="edge", state=str(self.edges), joins=joins, **config)
        daemon.start()
        daemon.wait_for("ready", 30)
        return daemon

    def joins(self, client: AdminClient, count: int = NODES) -> list[tuple[str, str]]:
        return [(f"edge-{n}", client.post("/v1/tokens")["joinString"]) for n in range(count)]

    def check(self, client: AdminClient, joins: Sequence[tuple[str, str]]) -> None:
        """Every node is enrolled once, with the key that it has, and nothing was given twice."""
        nodes = {node["name"]: node for node in client.get("/v1/nodes")["nodes"]}
        self.assertEqual(sorted(nodes), sorted(name for name, _ in joins), f"seed {self.seed}")
        given = [value for node in nodes.values() for value in (*node["addresses"], *node["podSubnets"])]
        self.assertEqual(len(given), len(set(given)), f"given twice with seed {self.seed}: {sorted(given)}")
        self.assertEqual(len(given), 4 * len(nodes))
        used = {token["id"]: token["usedBy"] for token in client.get("/v1/tokens")["tokens"]}
        for name, join_string in joins:
            token = JoinString.decode(join_string).token
            self.assertEqual(used[token], name)
            mine = Keyring(self.edges / name).present
            self.assertEqual(mine.token, token)
            self.assertEqual(key_hash(mine.certificate.public_key()), key_hash(mine.key.public_key()))


class CrashTests(IdentityCase):
    """SIGKILL at random points of enrolment, renewal and address assignment."""

    def test_edges_are_killed(self) -> None:
        _, client = self.router()
        joins = self.joins(client)
        rounds = 0
        while True:
            rounds += 1
            edge = self.edge(joins, f"edge-{rounds}", renewals=3)
            if rounds <= 8:
                time.sleep(self.random.uniform(0.0, 0.12))
                edge.kill9()
                # Whatever was on the disk then can be loaded.
                for name, _ in joins:
                    Keyring(self.edges / name)
                continue
            edge.wait_for("done", 30)
            break
        self.assertNotIn("\nrefused ", edge.text())
        self.check(client, joins)

    def test_the_router_is_killed(self) -> None:
        daemon, client = self.router()
        joins = self.joins(client, 3 * NODES)
        edge = self.edge(joins, renewals=4)
        for _ in range(4):
            time.sleep(self.random.uniform(0.0, 0.15))
            daemon.kill9()
            daemon.start()
            daemon.wait_for("serving", 30)
        edge.wait_for("done", 60)
        self.assertNotIn("\nrefused ", edge.text())
        self.assertEqual(edge.text().count("enrolled "), 3 * NODES)
        self.check(client, joins)
        # Nobody lost his membership to the crashes.
        last = self.edge(joins, "edge-last", renewals=1, dial=[self.ports[0]])
        last.wait_for("done", 30)
        self.assertEqual(last.text().count("renewed "), 3 * NODES)
        self.assertEqual(last.text().count("admitted "), 3 * NODES)

    def test_the_router_is_killed_while_the_authority_is_replaced(self) -> None:
        daemon, client = self.router()
        joins = self.joins(client, 2)
        self.edge(joins).wait_for("done", 30)
        for _ in range(5):
            rotation = Thread(target=self.try_to_rotate, args=(client,))
            rotation.start()
            time.sleep(self.random.uniform(0.0, 0.03))
            daemon.kill9()
            rotation.join()
            daemon.start()
            daemon.wait_for("serving", 30)
        authorities = client.get("/v1/ca")["authorities"]
        self.assertTrue(1 <= len(authorities) <= 6)
        self.assertEqual([each["issues"] for each in authorities], [True] + [False] * (len(authorities) - 1))
        # Whoever trusts only the first one still gets in, and learns of all.
        last = self.edge(joins, "edge-last", renewals=1, dial=[self.ports[0]])
        last.wait_for("done", 30)
        self.assertEqual(last.text().count("admitted "), 2, f"seed {self.seed}: {last.text()}")
        self.assertEqual(len(Keyring(self.edges / "edge-0").present.bundle), len(authorities))
        self.check(client, joins)

    def try_to_rotate(self, client: AdminClient) -> None:
        try:
            client.post("/v1/ca/rotate")
        except AdminError:
            pass


class ManyNodesTests(IdentityCase):
    """Two hundred devices come at the same moment, as after a delivery."""

    def test_all_join(self) -> None:
        _, client = self.router()
        joins = self.joins(client, 200)
        started = time.monotonic()
        edge = self.edge(joins, dial=[self.ports[0]])
        edge.wait_for("done", 60)
        print(f"200 nodes enrolled and admitted in {time.monotonic() - started:.1f} s")
        self.assertEqual(edge.text().count("admitted "), 200)
        self.check(client, joins)


class TwoRouterTests(IdentityCase):
    """Two routers, one registry."""

    def test_races_and_revocation(self) -> None:
        etcd = Etcd()
        self.addCleanup(etcd.close)
        etcd.start()
        store = f"etcd://{etcd.host}:{etcd.port}"
        _, one = self.router("r1", store)
        (self.folder / "r2").mkdir()
        (self.folder / "r2" / "ca.pem").write_bytes((self.folder / "r1" / "ca.pem").read_bytes())
        _, two = self.router("r2", store, 1)

        joins = self.joins(one)
        # The same tokens under other names, by the other router, at the same time.
        rivals = [(f"rival-{n}", self.by_the_other_router(join)) for n, (_, join) in enumerate(joins)]
        mixed = [pair for both in zip(joins, rivals, strict=True) for pair in both]
        racing = self.edge(mixed, dial=self.ports)
        racing.wait_for("done", 60)
        lines = racing.text().split("\n")
        self.assertEqual(sum(line.startswith("enrolled ") for line in lines), NODES, racing.text())
        self.assertEqual(sum(line.endswith("used-token") for line in lines), NODES, racing.text())
        # Both routers admit whoever was enrolled by either.
        self.assertEqual(sum(line.startswith("admitted ") for line in lines), 2 * NODES, racing.text())
        self.assertEqual(one.get("/v1/nodes"), two.get("/v1/nodes"))
        winners = [line.split()[1] for line in lines if line.startswith("enrolled ")]
        self.check(two, [pair for pair in mixed if pair[0] in winners])

        revoked = winners[0]
        one.post(f"/v1/nodes/{revoked}/revoke")
        again = self.edge([pair for pair in mixed if pair[0] in winners[:2]], "edge-again", dial=self.ports)
        again.wait_for("done", 30)
        text = again.text()
        for port in self.ports:
            self.assertIn(f"turned-away {revoked} {port}", text)
            self.assertIn(f"admitted {winners[1]} {port}", text)

    def by_the_other_router(self, join_string: str) -> str:
        join = JoinString.decode(join_string)
        return replace(join, routers=(replace(join.routers[0], port=self.ports[1]),)).encode()


class CommandTests(IdentityCase):
    """The command that people use, against a router that runs."""

    def kubebus(self, *args: str) -> str:
        command = [sys.executable, "-m", "kubebus.cli", "--socket", f"{self.folder}/r1/admin.sock", *args]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout

    def test_from_token_to_revocation(self) -> None:
        self.router()
        word = self.kubebus("token", "create", "--node", "cam-1").strip()
        edge = self.edge([("cam-1", word)], dial=self.ports[:1])
        edge.wait_for("done", 30)
        self.assertIn("admitted cam-1", edge.text())
        self.assertIn("used by cam-1", self.kubebus("token", "list"))
        self.assertIn("cam-1  enrolled  10.250.0.2,fd", self.kubebus("node", "list"))
        self.kubebus("node", "revoke", "cam-1")
        again = self.edge([("cam-1", word)], "again", renewals=1, dial=self.ports[:1])
        again.wait_for("done", 30)
        self.assertIn("unrenewed cam-1 node 'cam-1' was revoked", again.text())
        self.assertIn("turned-away cam-1", again.text())

    def test_files_are_private(self) -> None:
        self.router()
        edge = self.edge([("cam-1", self.kubebus("token", "create").strip())])
        edge.wait_for("done", 30)
        for path in (self.folder / "r1" / "ca.pem", self.edges / "cam-1" / "credentials.json"):
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(_private_keys(self.folder), {"ca.pem", "credentials.json"})


def _private_keys(folder: Path) -> set[str]:
    """The names of all files below ``folder`` that hold a private key."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.name for path in files if b"PRIVATE KEY" in path.read_bytes()}
