# mypy: disallow-untyped-calls=False
"""Identity with the real daemons behind a real NAT: what wrong credentials are told, revocation, old age, a new CA."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from kubebus.adminclient import AdminClient
from kubebus.ca import Authority, issue_node, new_key
from kubebus.credentials import Credentials, Keyring
from kubebus.joinstring import JoinString
from tests.lab.daemon import Daemon
from tests.lab.etcd import Etcd
from tests.lab.internet import Internet
from tests.lab.state import Run
from tests.lab.waiting import wait_until
from tests.lab.world import SharedWorld

CHECKOUT = Path(__file__).parents[2]
DAY = 86400.0


def twistd(name: str, plugin: str, *options: str, namespace: Any) -> Daemon:
    command = [str(Path(sys.executable).parent / "twistd"), "--nodaemon", "--pidfile=", plugin, *options]
    return Daemon(name, command, namespace=namespace, cwd=CHECKOUT, env={"PYTHONPATH": str(CHECKOUT)})


class DaemonTests(SharedWorld, SynchronousTestCase):
    net: Internet
    folder: Path
    router: Daemon
    client: AdminClient

    @classmethod
    def build_world(cls) -> None:
        cls.net = cls.keep(Internet(sites=1))
        cls.folder = Run.current().directory("identity-daemons")
        cls.router = cls.keep(cls.router_daemon())
        cls.client = AdminClient(str(cls.folder / "router.sock"))
        cls.router.wait_for("Listening on", 60)

    @classmethod
    def router_daemon(cls) -> Daemon:
        return twistd(
            "router",
            "kubebus",
            *("--state-dir", str(cls.folder / "router"), "--socket", str(cls.folder / "router.sock")),
            *("--public-address", cls.net.eip_address, "--router-name", "r1"),
            namespace=cls.net.eip,
        )

    def edge(self, name: str, *options: str) -> Daemon:
        daemon = twistd(
            name,
            "edgenode",
            *("--state-dir", str(self.folder / name), "--socket", str(self.folder / f"{name}.sock"), "--no-pods"),
            *options,
            namespace=self.net.sites[0].node,
        )
        self.addCleanup(daemon.close)
        daemon.start()
        return daemon

    def token(self, **options: object) -> str:
        return str(self.client.post("/v1/tokens", options)["joinString"])

    def node(self, name: str) -> dict[str, Any]:
        """The node as the router's status has it."""
        nodes = {node["name"]: node for node in self.client.get("/v1/status")["nodes"]}
        return dict(nodes.get(name, {}))

    def await_link(self, name: str, *, up: bool = True, seconds: float = 30) -> float:
        """Wait until the router has a link of the node (or none); how long it took."""
        started = time.monotonic()
        wait_until(lambda: bool(self.node(name).get("connected")) is up, seconds, f"{name} up: {up}", 0.02)
        return time.monotonic() - started

    def enrolled(self, name: str) -> Daemon:
        daemon = self.edge(name, "--node-name", name, "--join", self.token())
        self.await_link(name)
        return daemon

    def change_credentials(self, name: str, change: Callable[[Credentials], Credentials]) -> None:
        """Alter what a stopped node has on its disk."""
        keyring = Keyring(self.folder / name / "identity")
        keyring.install(change(keyring.present))

    def assertCannotJoin(self, name: str, join_string: str, why: str) -> None:
        daemon = self.edge(name, "--node-name", name, "--join", join_string)
        daemon.wait_for(why, 30)
        self.assertEqual(daemon.wait_end(), 1)
        self.assertFalse((self.folder / name / "identity" / "credentials.json").exists())
        self.assertEqual(self.node(name), {})

    def test_join_strings_that_do_not_work(self) -> None:
        expired = self.token(lifetime=0.1)
        used = self.token()
        first = self.edge("joiner", "--join", used, "--node-name", "joiner")
        self.await_link("joiner")
        first.close()
        self.assertCannotJoin("wrong-1", used, "was used already, by node 'joiner'")
        self.assertCannotJoin("wrong-2", expired, "has expired")
        self.assertCannotJoin("wrong-3", self.token(node="other"), "the join string is for node 'other'")
        forged = replace(JoinString.decode(self.token(node="other")), node=None)
        self.assertCannotJoin("wrong-4", forged.encode(), "is for node 'other', not for 'wrong-4'")
        forged = replace(JoinString.decode(self.token()), secret="guessed")
        self.assertCannotJoin("wrong-5", forged.encode(), "is not known here, or was revoked")

    def test_ca_hash_mismatch(self) -> None:
        forged = replace(JoinString.decode(self.token()), ca_hash="0" * 64)
        daemon = self.edge("pinned", "--node-name", "pinned", "--join", forged.encode())
        # It goes on trying: the right router may be the next one to answer.
        daemon.wait_for("CA hash mismatch.*trying again", 30)
        self.assertTrue(daemon.alive)
        self.assertEqual(self.node("pinned"), {})

    def test_mistyped_join_string(self) -> None:
        daemon = self.edge("typo", "--join", self.token()[:-5])
        self.assertNotEqual(daemon.wait_end(30), 0)
        self.assertIn("incomplete or mistyped", daemon.text())

    def test_revocation(self) -> None:
        daemon = self.enrolled("doomed")
        self.client.post("/v1/nodes/doomed/revoke")
        self.assertLess(self.await_link("doomed", up=False), 1.0)
        daemon.close()
        again = self.edge("doomed")
        again.wait_for("was revoked", 30)
        self.router.wait_for("Refused node 'doomed'.*was revoked", 10)
        self.assertFalse(self.node("doomed")["connected"])
        again.close()
        # A new join string lets the name in again, with a new key and the old addresses.
        before = self.node("doomed")["addresses"]
        back = self.edge("doomed", "--join", self.token())
        self.await_link("doomed")
        self.assertEqual(self.node("doomed")["addresses"], before)
        back.close()

    def test_a_live_name_is_not_given_away(self) -> None:
        self.enrolled("taken")
        thief = self.edge("thief", "--node-name", "taken", "--join", self.token())
        thief.wait_for("the name 'taken' belongs to a node that is connected now", 30)
        self.assertEqual(thief.wait_end(), 1)
        self.assertTrue(self.node("taken")["connected"])

    def test_a_certificate_from_another_ca(self) -> None:
        self.enrolled("stranger").close()
        self.await_link("stranger", up=False)
        foreign = Authority.create("kubebus default", time.time())

        def change(mine: Credentials) -> Credentials:
            key = mine.key.public_key()
            return replace(mine, certificate=issue_node(foreign, mine.identity, key, time.time() + DAY))

        self.change_credentials("stranger", change)
        daemon = self.edge("stranger")
        self.router.wait_for("node 'stranger'.* was not issued by a certificate authority of this network", 30)
        daemon.wait_for("not issued by a certificate authority that the router knows", 10)
        self.assertFalse(self.node("stranger")["connected"])

    def test_a_stolen_certificate_is_no_use_without_its_key(self) -> None:
        self.enrolled("victim").close()
        shutil.copytree(self.folder / "victim", self.folder / "robber")
        path = self.folder / "robber" / "identity" / "credentials.json"
        fields = json.loads(path.read_text())
        fields["key"] = replace(Keyring(path.parent).present, key=new_key()).encode().decode()
        fields["key"] = json.loads(fields["key"])["key"]
        path.write_text(json.dumps(fields))
        robber = self.edge("robber")
        robber.wait_for("the certificate does not belong to the key", 30)
        self.assertEqual(robber.wait_end(), 1)

    def test_a_year_offline(self) -> None:
        self.enrolled("sleeper").close()
        self.await_link("sleeper", up=False)
        authority = Authority.load(self.folder / "router" / "ca.pem")
        year_ago = time.time() - 365 * DAY

        def change(mine: Credentials) -> Credentials:
            expired = issue_node(authority, mine.identity, mine.key.public_key(), year_ago + 90 * DAY)
            return replace(mine, certificate=expired, issued_at=year_ago)

        self.change_credentials("sleeper", change)
        daemon = self.edge("sleeper")
        daemon.wait_for("Renewed the certificate of node 'sleeper'.*it lasts 90 days", 30)
        self.await_link("sleeper")
        daemon.close()

    def test_renewal_over_the_link(self) -> None:
        self.enrolled("renewer").close()
        self.await_link("renewer", up=False)

        def change(mine: Credentials) -> Credentials:
            # Two thirds of its life are over five seconds from now.
            left = mine.expires_at - time.time() - 5
            return replace(mine, issued_at=mine.expires_at - 3 * left)

        self.change_credentials("renewer", change)
        daemon = self.edge("renewer")
        self.await_link("renewer")
        self.router.wait_for("Renewed the certificate of node 'renewer'.* at the other end of its link", 30)
        daemon.wait_for("it lasts 90 days", 10)
        certificate = AdminClient(str(self.folder / "renewer.sock")).get("/v1/status")["certificate"]
        self.assertLess(abs(certificate["renewal_in_seconds"] - 60 * DAY), 60)
        self.assertTrue(self.node("renewer")["connected"])

    def test_a_new_ca_while_a_node_is_off(self) -> None:
        self.enrolled("absent").close()
        self.await_link("absent", up=False)
        before = self.client.get("/v1/ca")["authorities"]
        old_join_string = self.token()
        new = self.client.post("/v1/ca/rotate")["hash"]
        self.assertNotIn(new, [each["hash"] for each in before])
        daemon = self.edge("absent")
        self.await_link("absent")
        newcomer = self.edge("newcomer", "--node-name", "newcomer", "--join", old_join_string)
        self.await_link("newcomer")
        # It learns of the new authority within a minute; a restart of the router does not matter.
        self.router.restart()
        self.router.wait_for("Listening on", 60)
        self.await_link("absent", seconds=60)
        self.await_link("newcomer", seconds=60)
        daemon.close()
        newcomer.close()
        self.assertTrue(self.client.get("/v1/ca")["authorities"][0]["issues"])
        self.assertEqual(self.client.get("/v1/ca")["authorities"][0]["hash"], new)


class TwoRouterDaemonTests(SynchronousTestCase):
    """Two routers with public addresses of their own, over one etcd."""

    def test_a_router_dies(self) -> None:
        net = Internet(sites=1, cloud=False)
        self.addCleanup(net.close)
        folder = Run.current().directory("two-routers")
        etcd = Etcd(namespace=net.eip, host=net.eip_address)
        self.addCleanup(etcd.close)
        etcd.start()
        places = {"r1": (net.eip, net.eip_address), "r2": (net.host, "198.51.100.1")}
        daemons: dict[str, Daemon] = {}
        for name, (namespace, address) in places.items():
            daemons[name] = twistd(
                name,
                "kubebus",
                *("--state-dir", str(folder / name), "--socket", str(folder / f"{name}.sock")),
                *("--store", f"etcd://{etcd.host}:{etcd.port}", "--public-address", address, "--router-name", name),
                namespace=namespace,
            )
            self.addCleanup(daemons[name].close)
            if name == "r2":
                (folder / name).mkdir()
                shutil.copy(folder / "r1" / "ca.pem", folder / name / "ca.pem")
            daemons[name].start()
            daemons[name].wait_for("Listening on", 60)
        clients = {name: AdminClient(str(folder / f"{name}.sock")) for name in places}
        wait_until(lambda: clients["r1"].get("/v1/status")["routers"][0]["connected"], 30, "the routers' link")

        join_string = clients["r1"].post("/v1/tokens")["joinString"]
        self.assertEqual(len(JoinString.decode(join_string).routers), 2)
        edge = twistd(
            "edge",
            "edgenode",
            *("--state-dir", str(folder / "edge"), "--socket", str(folder / "edge.sock"), "--no-pods"),
            *("--node-name", "edge", "--join", join_string),
            namespace=net.sites[0].node,
        )
        self.addCleanup(edge.close)
        edge.start()

        def router_of(view: str) -> str | None:
            (node,) = clients[view].get("/v1/status")["nodes"]
            return node["router"] if node["connected"] else None

        def at(view: str, router: str) -> bool:
            return router_of(view) == router

        for view in places:
            wait_until(partial(at, view, "r1"), 30, f"{view} knows that the node is at r1")
        daemons["r1"].kill9()
        wait_until(partial(at, "r2", "r2"), 60, "the node is at r2")
        daemons["r1"].start()
        daemons["r1"].wait_for("Listening on", 60)
        wait_until(partial(at, "r1", "r2"), 30, "r1 knows that the node has moved")

        # Revoked at the one router, cut by the other, at once.
        clients["r1"].post("/v1/nodes/edge/revoke")
        started = time.monotonic()
        wait_until(lambda: router_of("r2") is None, 10, "r2 cuts the link", 0.02)
        self.assertLess(time.monotonic() - started, 1.0)
        self.assertTrue(edge.alive)
