"""The lab itself: what tests rely on is tested here, so that a failure elsewhere is not the lab's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from unittest import mock

import docker.types
from twisted.trial import unittest

from tests.lab import require
from tests.lab.daemon import Daemon
from tests.lab.engine import BUSYBOX, Engine
from tests.lab.etcd import Etcd
from tests.lab.internet import Internet
from tests.lab.kubernetes import KubeApiServer
from tests.lab.namespace import Namespace
from tests.lab.state import ProcessId, Run
from tests.lab.waiting import LabError, wait_until
from tests.lab.world import SharedWorld

CHECKOUT = Path(__file__).parents[2]

ECHO = ["busybox", "nc", "-ll", "-p", "7", "-e", "cat"]


def echoes(namespace: Namespace, address: str, *, wait: int = 2) -> bool:
    """Whether the echo server at ``address`` answers from ``namespace``."""
    client = f"echo hello | timeout {wait} busybox nc -w {wait} {address} 7"
    return namespace.run(["sh", "-c", client], check=False).stdout == "hello\n"


class InternetTests(SharedWorld, unittest.SynchronousTestCase):
    net: Internet

    @classmethod
    def build_world(cls) -> None:
        cls.net = cls.keep(Internet())
        cls.keep(Daemon("echo", ECHO, namespace=cls.net.eip))
        wait_until(lambda: echoes(cls.net.host, cls.net.eip_address), 5, "the echo server")

    def test_sites_reach_the_public_address(self) -> None:
        for site in self.net.sites:
            self.assertTrue(site.node.ping(self.net.eip_address), site.name)
            self.assertTrue(site.node.ping(self.net.eip_address6), site.name)
            self.assertTrue(echoes(site.node, self.net.eip_address), site.name)

    def test_nothing_comes_in_at_a_site(self) -> None:
        site = self.net.sites[0]
        echo = Daemon("echo", ECHO, namespace=site.node)
        self.addCleanup(echo.close)
        echo.start()
        wait_until(lambda: echoes(site.node, "127.0.0.1"), 5, "the echo server at the site")
        lan_address = "192.168.1.11"
        self.net.host.ip(f"route add {lan_address} via {site.public_address}")
        self.addCleanup(self.net.host.ip, f"route del {lan_address}")
        self.assertFalse(echoes(self.net.host, lan_address, wait=1))
        self.assertFalse(echoes(self.net.host, site.public_address, wait=1))

    def test_sites_do_not_reach_each_other(self) -> None:
        first, second = self.net.sites
        # Both LANs have the same addresses, as home routers have: each sees only its own.
        self.assertEqual(self._mac(first.node, "192.168.1.1"), self._lan_mac(first.nat.namespace))
        self.assertEqual(self._mac(second.node, "192.168.1.1"), self._lan_mac(second.nat.namespace))

    def _mac(self, node: Namespace, address: str) -> str:
        node.ping(address)
        return node.run(["ip", "neigh", "show", address]).stdout.split("lladdr ")[1].split()[0]

    def _lan_mac(self, nat: Namespace) -> str:
        return (
            nat.run(["cat", "/sys/class/net/lan/address"], check=False).stdout.strip()
            or (nat.run(["ip", "-o", "link", "show", "lan"]).stdout.split("link/ether ")[1].split()[0])
        )

    def test_cloud_is_one_routed_network(self) -> None:
        self.assertTrue(self.net.pod.ping("10.10.0.10"))
        self.assertTrue(self.net.eip.ping(self.net.pod_address))
        self.assertTrue(self.net.eip.ping(self.net.pod_address6))

    def test_cut_and_mend(self) -> None:
        site = self.net.sites[1]
        for directions in ({"inward": False}, {"outward": False}, {}):
            site.nat.cut(**directions)
            self.assertFalse(site.node.ping(self.net.eip_address, timeout=1), directions)
            site.nat.mend()
            self.assertTrue(site.node.ping(self.net.eip_address), directions)

    def test_flushed_flow_is_lost(self) -> None:
        site = self.net.sites[0]
        script = f"(echo one; read go; echo two; sleep 3) | busybox nc {self.net.eip_address} 7"
        client = site.node.popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert client.stdin is not None and client.stdout is not None
        self.addCleanup(client.stdin.close)
        self.addCleanup(client.stdout.close)
        self.addCleanup(client.wait)
        self.addCleanup(client.kill)
        self.assertEqual(client.stdout.readline(), b"one\n")
        self.assertIn("dport=7", site.nat.flows())
        site.nat.flush()
        client.stdin.write(b"go\n")
        client.stdin.flush()
        os.set_blocking(client.stdout.fileno(), False)
        with self.assertRaises(LabError):
            wait_until(client.stdout.readline, 1, "an echo over a flow that the NAT forgot")
        self.assertTrue(echoes(site.node, self.net.eip_address), "new flows work")


class DaemonTests(unittest.SynchronousTestCase):
    def daemon(self, script: str) -> Daemon:
        daemon = Daemon("script", ["sh", "-c", script])
        self.addCleanup(daemon.close)
        daemon.start()
        return daemon

    def test_output_is_awaited(self) -> None:
        daemon = self.daemon("echo it is up; exec sleep 60")
        daemon.wait_for(r"^it is (up|on)$")
        self.assertTrue(daemon.alive)

    def test_last_words_count(self) -> None:
        self.daemon("echo done").wait_for("done")

    def test_end_is_told_with_the_log(self) -> None:
        daemon = self.daemon("echo no such file; exit 3")
        with self.assertRaisesRegex(LabError, r"(?s)ended \(status 3\).*no such file"):
            daemon.wait_for("ready")

    def test_end_is_noticed_although_the_condition_raises(self) -> None:
        daemon = self.daemon("exit 3")
        with self.assertRaisesRegex(LabError, r"ended \(status 3\)"):
            daemon.wait_for(lambda: 1 // 0, timeout=60)

    def test_killed_and_started_again(self) -> None:
        daemon = self.daemon("echo started; exec sleep 60")
        daemon.wait_for("started")
        first = daemon.pid
        daemon.kill9()
        self.assertEqual(daemon.exit_status, -signal.SIGKILL)
        daemon.start()
        daemon.wait_for("started")
        self.assertNotEqual(daemon.pid, first)

    def test_close_takes_the_children_along(self) -> None:
        daemon = self.daemon("sleep 60 & echo child $!; wait")
        daemon.wait_for(r"child \d+$")
        child = ProcessId.of(int(daemon.text().split()[1]))
        daemon.close()
        wait_until(lambda: not child.alive, 5, "the end of the child")


class EngineTests(SharedWorld, unittest.SynchronousTestCase):
    engine: Engine

    @classmethod
    def build_world(cls) -> None:
        cls.engine = cls.keep(Engine(cls.keep(Namespace("device"))))
        with closing(cls.engine.client()) as client:
            pool = docker.types.IPAMPool(subnet="10.192.1.0/24")
            client.networks.create("pods", driver="bridge", ipam=docker.types.IPAMConfig(pool_configs=[pool]))

    def run_sleeper(self) -> str:
        with closing(self.engine.client()) as client:
            # Otherwise an engine that starts again without live-restore waits ten seconds for its end.
            container = client.containers.run(
                BUSYBOX, ["sleep", "600"], network="pods", detach=True, stop_signal="SIGKILL"
            )
            container.reload()
            address: str = container.attrs["NetworkSettings"]["Networks"]["pods"]["IPAddress"]
        return address

    def test_container_in_the_nodes_network(self) -> None:
        address = self.run_sleeper()
        self.assertTrue(self.engine.namespace.ping(address))
        with Namespace("other") as other:
            self.assertFalse(other.ping(address, timeout=1))

    def test_containers_outlive_a_killed_engine(self) -> None:
        address = self.run_sleeper()
        self.engine.kill9()
        self.assertTrue(self.engine.namespace.ping(address))
        self.engine.start()

    def test_power_cut_leaves_dead_containers_on_disk(self) -> None:
        address = self.run_sleeper()
        self.engine.power_cut()
        self.assertFalse(self.engine.namespace.ping(address, timeout=1))
        self.engine.start()
        with closing(self.engine.client()) as client:
            states = {container.status for container in client.containers.list(all=True)}
        self.assertEqual(states, {"exited"})


class FirewallTests(unittest.SynchronousTestCase):
    def test_defaults_of_docker(self) -> None:
        with Namespace("device") as namespace, Engine(namespace, firewall=True):
            rules = namespace.run(["iptables", "-S"]).stdout
        self.assertIn("DOCKER-USER", rules)
        self.assertIn("-P FORWARD DROP", rules)


class EtcdTests(unittest.SynchronousTestCase):
    def test_restored_from_a_snapshot(self) -> None:
        with Etcd() as etcd:
            etcd.ctl("put", "key", "old")
            etcd.snapshot(etcd.path / "snapshot")
            saved = etcd.revision
            etcd.ctl("put", "key", "new")
            etcd.kill9()
            etcd.start()
            self.assertEqual(etcd.ctl("get", "key", "--print-value-only"), "new\n")
            etcd.restore(etcd.path / "snapshot")
            self.assertEqual(etcd.ctl("get", "key", "--print-value-only"), "old\n")
            self.assertEqual(etcd.revision, saved)

    def test_three_members_with_tls_survive_the_leader(self) -> None:
        with Etcd(members=3, tls=True) as etcd:
            etcd.ctl("put", "key", "value")
            killed = etcd.kill_leader()
            others = [member for member in etcd.members if member is not killed]
            self.assertEqual(etcd.ctl("get", "key", "--print-value-only", members=others), "value\n")


class KubeApiServerTests(unittest.SynchronousTestCase):
    def test_users_by_certificate(self) -> None:
        server = KubeApiServer()
        self.addCleanup(server.close)
        server.start()
        server.kubectl.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "edge"}})
        self.assertIn("edge", server.kubectl("get", "nodes"))
        self.assertGreaterEqual(server.version(), (1, 20))
        nobody = server.write_kubeconfig("nobody", server.authority.issue("nobody"))
        refused = server.kubectl.run(f"--kubeconfig={nobody}", "get", "nodes", check=False)
        self.assertIn("Forbidden", refused.stderr)


class RequireTests(unittest.SynchronousTestCase):
    def test_this_machine_has_all(self) -> None:
        self.assertIsNone(require.missing())

    def test_what_is_missing_is_one_line_with_the_package(self) -> None:
        with mock.patch.dict(os.environ, PATH=""):
            told = require.programs()
        assert told is not None
        self.assertIn("etcd-server", told)
        self.assertNotIn("\n", told)


class JanitorTests(unittest.SynchronousTestCase):
    """What a run leaves is removed although the run was killed."""

    SCRIPT = """
import os, signal
from tests.lab.daemon import Daemon
from tests.lab.engine import BUSYBOX, Engine
from tests.lab.namespace import Namespace
from tests.lab.state import Run

namespace = Namespace("victim")
daemon = Daemon("sleeper", ["sleep", "600"])
daemon.start()
engine = Engine(namespace)
engine.start()
container = engine.client().containers.run(BUSYBOX, ["sleep", "600"], detach=True, network_mode="none")
container.reload()
print(Run.current().path, namespace.path, daemon.pid, container.attrs["State"]["Pid"], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""

    def test_after_sigkill(self) -> None:
        with tempfile.TemporaryDirectory() as root:
            died = subprocess.run(
                [sys.executable, "-c", self.SCRIPT],
                cwd=CHECKOUT,
                env={**os.environ, "KUBEBUS_LAB": root},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            self.assertEqual(died.returncode, -signal.SIGKILL, died.stderr)
            path, namespace, daemon, container = died.stdout.split()
            self.assertTrue(path.startswith(root))
            left = [Path(path), Path(namespace), Path("/proc", daemon), Path("/proc", container)]
            wait_until(lambda: not [each for each in left if each.exists()], 20, f"the janitor to remove {left}")

    def test_two_runs_do_not_collide(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            script = (
                "from tests.lab.namespace import Namespace\nwith Namespace('same') as n: print(n.full_name); input()"
            )
            env = {**os.environ, "KUBEBUS_LAB": folder}
            runs = [
                subprocess.Popen(
                    [sys.executable, "-c", script],
                    cwd=CHECKOUT, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                )
                for _ in range(2)
            ]  # fmt: skip
            names = set()
            for run in runs:
                assert run.stdout is not None
                names.add(run.stdout.readline())
            ended = [run.communicate("\n", timeout=30) and run.returncode for run in runs]
            self.assertEqual(len(names), 2)
            self.assertEqual(ended, [0, 0])
            wait_until(lambda: not list(Path(folder).glob("[!.]*/")), 10, "the end of both runs' folders")

    def test_process_of_another_boot_is_not_ours(self) -> None:
        own = ProcessId.of(os.getpid())
        self.assertTrue(own.alive)
        self.assertFalse(ProcessId(own.pid, own.started, "another boot").alive)
        self.assertFalse(ProcessId(own.pid, own.started - 1, own.boot).alive)
        self.assertEqual(ProcessId.parse(str(own)), own)

    def test_run_is_shared_in_a_process(self) -> None:
        self.assertIs(Run.current(), Run.current())
