"""Pods and the networks around them: in with their own address, out with the node's, and through host ports."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from typing import Any

from tests.integration.engine_world import Json, pod_manifest
from tests.integration.test_engine_agent import AgentTestCase
from tests.lab.engine import BUSYBOX, Engine
from tests.lab.internet import Internet
from tests.lab.namespace import Namespace
from tests.lab.waiting import wait_until

# Tells every client its own address.
_MIRROR = """
import http.server
class Mirror(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.client_address[0].encode())
    def log_message(self, *words):
        pass
http.server.HTTPServer(("", 8000), Mirror).serve_forever()
"""
HTTPD = "mkdir /w; echo hello > /w/index.html; exec httpd -f -p 80 -h /w"


class NetworkTests(AgentTestCase):
    """With the container engine's firewall off, as on a device of ours."""

    firewall = False
    net: Internet
    far: Namespace

    @classmethod
    def build_world(cls) -> None:
        cls.net = cls.keep(Internet(sites=1, cloud=False))
        cls.namespace = cls.net.sites[0].node
        cls.namespace.forward()
        # What lies behind the tunnel: another node, with pods of its own.
        cls.far = cls.net.namespace("far")
        cls.namespace.veth("kb0", cls.far, "kb0", "10.250.0.2/16")
        cls.far.ip("address add 10.250.0.3/16 dev kb0", "address add 10.192.99.2/24 dev lo")
        cls.namespace.ip("route add 10.192.0.0/12 via 10.250.0.3")
        cls.far.ip("route add 10.192.7.0/24 via 10.250.0.2")
        cls.docker = cls.keep(Engine(cls.namespace, firewall=cls.firewall))
        for namespace in (cls.net.host, cls.far):
            namespace.popen([sys.executable, "-c", _MIRROR])

    def curl(self, namespace: Namespace, address: str, port: int = 80) -> str:
        done = namespace.run(["curl", "-s", "-m", "5", f"http://{address}:{port}/"], check=False)
        return done.stdout

    def in_pod(self, name: str, *command: str, container: str = "main") -> str:
        done: subprocess.CompletedProcess[str] = self.namespace.run(
            [
                sys.executable,
                "-m",
                "kubebus.cli",
                "--socket",
                self.client.path,
                "exec",
                "-c",
                container,
                name,
                "--",
                *command,
            ],
            check=False,
        )
        return done.stdout

    def get(self, name: str, address: str, port: int = 80, container: str = "main") -> str:
        """The last line of what a server answers to a pod. (The static busybox's own wget crashes.)"""
        ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {address} {port} | tail -n 1"
        return self.in_pod(name, "sh", "-c", ask, container=container)

    def web(self, name: str, **container: Any) -> Json:
        pod = pod_manifest(name, command=["sh", "-c", HTTPD], spec={"terminationGracePeriodSeconds": 0}, **container)
        self.apply(pod)
        self.await_ready(pod)
        return pod

    def test_addresses_inside_and_outside(self) -> None:
        self.web("web")
        address = self.pods()["web"]["podIP"]

        def masked() -> bool:
            return self.get("web", "198.51.100.1", 8000) == "198.51.100.21"

        wait_until(masked, 20, "the pod reaches the Internet")
        inside = self.get("web", "10.192.99.2", 8000)
        self.assertEqual(inside, address, "the pod keeps its address inside the network")
        self.assertEqual(self.curl(self.far, address), "hello\n", "the pod is reached from the tunnel")
        self.assertEqual(self.curl(self.namespace, address), "hello\n", "the pod is reached from its node")

    def test_host_port(self) -> None:
        web = self.web("web", ports=[{"containerPort": 80, "hostPort": 8080}])

        def open_() -> bool:
            return self.curl(self.net.sites[0].nat.namespace, "192.168.1.11", 8080) == "hello\n"

        wait_until(open_, 20, "the host port answers")
        for address in ("192.168.1.11", "127.0.0.1"):
            self.assertEqual(self.curl(self.namespace, address, 8080), "hello\n", address)
        self.delete(web)
        wait_until(lambda: not self.containers(), 20, "the pod is gone")
        wait_until(lambda: not open_(), 10, "the host port is closed")

    def test_loopback_of_the_node_is_closed_to_pods(self) -> None:
        """Host ports at 127.0.0.1 need packets to loopback addresses let through; not those of pods."""
        self.web("web", ports=[{"containerPort": 80, "hostPort": 8080}])
        wait_until(lambda: self.curl(self.namespace, "127.0.0.1", 8080) == "hello\n", 20, "the host port answers")
        server = self.namespace.popen([sys.executable, "-c", _MIRROR.replace('("", 8000)', '("127.0.0.1", 9000)')])
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        wait_until(lambda: self.curl(self.namespace, "127.0.0.1", 9000) == "127.0.0.1", 10, "the node's own server")
        with closing(self.docker.client()) as client:
            pid = client.api.inspect_container(next(iter(self.containers())))["State"]["Pid"]
        # As a mighty pod might do it: its own loopback address is away, and the node is the way there.
        commands = (
            "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet; ip address delete 127.0.0.1/8 dev lo; "
            "ip route add 127.0.0.1/32 via 10.192.7.1"
        )
        inside = ["nsenter", "--target", str(pid), "--net"]
        self.namespace.run([*inside, "sh", "-c", commands])
        address = self.pods()["web"]["podIP"]
        ask = [*inside, "curl", "-s", "-m", "2", "--interface", address, "http://127.0.0.1:9000/"]
        self.assertEqual(self.namespace.run(ask, check=False).stdout, "")
        self.namespace.run(["nft", "flush", "chain", "inet", "kubebus-kb0-pods", "martians"])
        self.assertEqual(self.namespace.run(ask, check=False).stdout, address, "it is our rule that stops it")

    def test_pods_share_localhost_and_reach_each_other(self) -> None:
        both = pod_manifest("both", command=["sh", "-c", HTTPD])
        both["spec"]["containers"].append({"name": "other", "image": BUSYBOX, "command": ["sleep", "3600"]})
        self.apply(both)
        self.await_ready(both)
        self.web("web")
        for address in ("127.0.0.1", self.pods()["web"]["podIP"]):
            self.assertEqual(self.get("both", address, container="other"), "hello\n")

    def test_host_network(self) -> None:
        spec = {"hostNetwork": True, "terminationGracePeriodSeconds": 0}
        pod = pod_manifest("host", command=["sh", "-c", HTTPD.replace("-p 80", "-p 81")], spec=spec)
        self.apply(pod)
        self.await_ready(pod)
        self.assertEqual(self.pods()["host"]["podIP"], "10.250.0.2")
        wait_until(lambda: self.curl(self.far, "10.250.0.2", 81) == "hello\n", 10, "it answers on the node's address")

    def test_the_packet_filter_is_left_as_it_was(self) -> None:
        def rules() -> str:
            tables = [self.namespace.run(["nft", "-s", "list", "ruleset"]).stdout]
            if self.firewall:
                tables.append(self.namespace.run(["iptables-save", "-t", "filter"]).stdout)
            return "\n".join(
                line for text in tables for line in text.splitlines() if "kubebus" in line and "bridge" not in line
            )

        self.web("web")
        wait_until(lambda: "kubebus-kb0-pods" in rules(), 10, "the rules are there")
        self.agent.stop()
        self.assertIn("kubebus-kb0-pods", rules(), "a pod that goes on keeps its way out")
        self.start_agent()
        pod = {"metadata": {"name": "web", "namespace": "default"}}
        self.delete(pod)
        wait_until(lambda: not self.containers(), 20, "the pod is gone")
        self.agent.stop()
        self.assertEqual(rules(), "")


class DockerFirewallTests(NetworkTests):
    """With Docker's defaults, whose rules drop what comes to a pod from elsewhere."""

    firewall = True


del AgentTestCase
