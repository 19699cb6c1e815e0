"""An agent whose store is an etcd of its own: three members with TLS, users and tokens, and what happens to them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from subprocess import CalledProcessError

from twisted.trial import unittest

from benchmarks.tunnels.ours import Kubebus, kubebus
from benchmarks.world import Hub
from metasync.keys import NodeKeys
from tests.lab.daemon import Daemon
from tests.lab.etcd import Etcd
from tests.lab.namespace import Namespace
from tests.lab.pki import signing_keys
from tests.lab.waiting import LabError, wait_until

DESIRED = NodeKeys("default", "e1").desired
DATA = "/kubebus/default/data/all/"


class EdgeEtcdTests(unittest.SynchronousTestCase):
    """The agent's user may read and write what begins with ``/kubebus/``, and no more."""

    def secured(self, namespace: Namespace) -> tuple[Etcd, str]:
        """The cluster, and its URL for the agent."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        private, public = signing_keys(folder, "tokens")
        token = f"--auth-token=jwt,pub-key={public},priv-key={private},sign-method=ES256,ttl=10m"
        etcd = Etcd(members=3, namespace=namespace, tls=True, options=(token, f"--quota-backend-bytes={8 << 20}"))
        self.addCleanup(etcd.close)
        etcd.start()
        for command in (
            ("user", "add", "root:secret"),
            ("user", "grant-role", "root", "root"),
            ("role", "add", "edge"),
            ("role", "grant-permission", "edge", "readwrite", "/kubebus/", "--prefix=true"),
            ("user", "add", "agent:of its own"),
            ("user", "grant-role", "agent", "edge"),
            ("auth", "enable"),
        ):
            etcd.ctl(*command)
        assert etcd.authority is not None
        pair = etcd.authority.issue("device")
        password = folder / "password"
        password.write_text("of its own\n")
        places = ",".join(f"{member.host}:{member.client_port}" for member in etcd.members)
        files = f"ca={etcd.authority.certificate}&cert={pair.certificate}&key={pair.key}"
        return etcd, f"etcds://{places}?{files}&user=agent&password-file={password}"

    def test_the_agent_lives_from_it(self) -> None:
        with Hub(1) as hub, Kubebus(hub) as tunnel:
            free = tunnel.edge_processes.pop()
            free.stop()
            assert free.namespace is not None
            etcd, url = self.secured(free.namespace)
            command = [*free.command, "--store", url]
            edge = Daemon("edge on etcd", command, namespace=free.namespace, cwd=free.cwd, env=free.env)
            tunnel.edge_processes.append(edge)
            edge.start()
            self.cloud, self.edge, self.daemon = tunnel.socket, tunnel.folder / "e1.sock", edge
            self.agree("at first")
            etcd.ctl("user", "add", "somebody:else")  # JWTs of before are of no use any more
            self.agree("after a user was added")
            killed = etcd.kill_leader()
            self.agree("without the leader")
            killed.daemon.start()
            etcd.healthy()
            self.fill(etcd)
            self.agree("after it was full")
            edge.kill9()
            kubebus(self.cloud, "meta", "put", f"{DESIRED}test/away", "1")
            etcd.compact()
            edge.start()
            self.agree("after a restart and a compaction")
            self.assertTrue(self.has(self.edge, f"{DESIRED}test/away", "1"))

    def agree(self, when: str) -> None:
        """What is written on either side arrives at the other."""
        self.daemon.wait_for(partial(self.wrote, self.edge, f"{DATA}up", when), 40)
        wait_until(partial(self.wrote, self.cloud, f"{DESIRED}test/down", when), 40, f"the cloud takes it, {when}")
        wait_until(partial(self.has, self.cloud, f"{DATA}up", when), 60, f"the cloud has it, {when}")
        self.daemon.wait_for(partial(self.has, self.edge, f"{DESIRED}test/down", when), 60)

    def wrote(self, socket: Path, key: str, text: str) -> bool:
        try:
            kubebus(socket, "meta", "put", key, text)
        except (LabError, CalledProcessError):
            return False
        return True

    def has(self, socket: Path, key: str, text: str) -> bool:
        try:
            return text in kubebus(socket, "meta", "get", key)
        except (LabError, CalledProcessError):
            return False

    def fill(self, etcd: Etcd) -> None:
        """NOSPACE is named to who writes; then there is room again."""
        with self.assertRaises(LabError):
            for number in range(40):
                etcd.ctl("put", f"/filler/{number}", "x" * 100_000)
                etcd.ctl("put", f"/filler/x{number}", input="x" * 900_000)
        error = self.assertRaises((LabError, CalledProcessError), kubebus, self.edge, "meta", "put", f"{DATA}no", "1")
        self.assertIn("NOSPACE", str(error) + str(getattr(error, "stderr", "")))
        etcd.ctl("del", "/filler/", "--prefix")
        etcd.compact()
        etcd.ctl("defrag")
        etcd.ctl("alarm", "disarm")
