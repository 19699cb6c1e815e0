"""The network alone on the lab's Internet: a router on the EIP VM, an edge at each site, a pod at each edge."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from kubebus.ca import Authority, issue_node, new_key
from kubebus.credentials import CREDENTIALS, Credentials
from kubebus.identity import PeerIdentity, Role
from kubebus.joinstring import HostPort
from kubebus.testing_net import node_record
from tests.integration import network_process, network_traffic
from tests.lab.daemon import Daemon
from tests.lab.internet import Internet
from tests.lab.namespace import Namespace
from tests.lab.state import Run
from tests.lab.waiting import wait_until

PORT = 443
ROOT = Path(__file__).resolve().parents[2]
"""Where the tests are; trial runs them elsewhere."""

TRAFFIC_PORT = 7000


class Process(Daemon):
    """A router or an edge. ``ask`` talks with it."""

    def __init__(
        self,
        name: str,
        namespace: Namespace,
        folder: Path,
        config: dict[str, Any],
        module: str = network_process.__name__,
    ) -> None:
        self.control = folder / "control"
        path = folder / "config.json"
        path.write_text(json.dumps({**config, "control": str(self.control)}))
        super().__init__(name, [sys.executable, "-m", module, str(path)], namespace=namespace, cwd=ROOT)

    def ask(self, *question: object) -> Any:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(str(self.control))
            client.sendall(json.dumps(question).encode() + b"\n")
            with client.makefile() as answer:
                return json.loads(answer.readline())

    def status(self) -> Any:
        return self.ask("status")


class NetworkLab:
    """Two sites, one edge each (``edge1``, ``edge2``), with a pod behind each edge.

    :param outer_ipv6: whether the edges dial the router's IPv6 address.
    """

    def __init__(self, sites: int = 2, *, outer_ipv6: bool = False, **router_config: Any) -> None:
        self.outer_ipv6 = outer_ipv6
        self.net = Internet(sites=sites)
        self.daemons: list[Daemon] = []
        try:
            self._build(sites, router_config)
        except BaseException:
            self.close()
            raise

    def _build(self, sites: int, router_config: dict[str, Any]) -> None:
        self.folder = Run.current().directory("network")
        self.authority = Authority.create("test", time.time())
        self.authority.save(self.folder / "ca.pem")
        self.names = [f"edge{number}" for number in range(1, sites + 1)]
        self.routers = [f"[{self.net.eip_address6}]:{PORT}" if self.outer_ipv6 else f"{self.net.eip_address}:{PORT}"]
        config = {
            "role": "router",
            "nodes": {name: number for number, name in enumerate(self.names, 2)},
            "advertise": self.net.cloud_cidrs,
            "authority": str(self.folder / "ca.pem"),
            "port": PORT,
            "routers": self.routers,
            **router_config,
        }
        self.router = self.process("router", self.net.eip, config)
        self.edges = [
            self.process(name, site.node, {"role": "edge", "routers": self.routers})
            for name, site in zip(self.names, self.net.sites, strict=True)
        ]
        self.pods = [self._pod(number, site.node) for number, site in enumerate(self.net.sites, 2)]
        # The cloud's route table leads what is unknown to the EIP VM, whose own leads it into the tunnel.

    def process(self, name: str, namespace: Namespace, config: dict[str, Any]) -> Process:
        folder = self.folder / name
        folder.mkdir()
        if config["role"] == "edge":
            self.credentials(name, folder)
            config = {**config, "state": str(folder)}
        process = Process(name, namespace, folder, config)
        self.daemons.append(process)
        return process

    def credentials(self, name: str, folder: Path, authority: Authority | None = None) -> None:
        """Make the node's credentials, as enrolment would have."""
        key = new_key()
        identity = PeerIdentity("default", Role.NODE, name)
        now = time.time()
        certificate = issue_node(authority or self.authority, identity, key.public_key(), now + 86400)
        routers = tuple(map(HostPort.parse, self.routers))
        made = Credentials(identity, key, certificate, (self.authority.certificate,), routers, now, "00000000")
        (folder / CREDENTIALS).write_bytes(made.encode())
        (folder / CREDENTIALS).chmod(0o600)

    def _pod(self, number: int, node: Namespace) -> Namespace:
        """A pod as a container engine would connect it: a veth in the node's pod subnet."""
        record = node_record("", number)
        pod = self.net.namespace(f"pod{number}")
        subnet4, subnet6 = record.pod_subnets
        pod.veth("eth0", node, "pods", f"{subnet4[9]}/24", f"{subnet6[9]}/64")
        node.ip(f"address add {subnet4[1]}/24 dev pods", f"address add {subnet6[1]}/64 dev pods")
        pod.ip(f"route add default via {subnet4[1]}", f"route add default via {subnet6[1]}")
        return pod

    def start(self) -> None:
        for daemon in self.daemons:
            daemon.start()
        self.wait_connected()

    def wait_connected(self, timeout: float = 30) -> None:
        for edge in self.edges:
            wait_until(lambda edge=edge: edge.status()["connected"], timeout, f"{edge.name} is connected")  # type: ignore[misc]

    def serve(self, namespace: Namespace) -> None:
        """Start the traffic server in a namespace."""
        server = Daemon("traffic", [sys.executable, network_traffic.__file__, "serve", str(TRAFFIC_PORT)],
                        namespace=namespace)  # fmt: skip
        self.daemons.append(server)
        server.start()
        server.wait_for("ready", 10)

    def traffic(self, namespace: Namespace, kind: str, host: str, size: int, *more: str, timeout: float = 60) -> Any:
        """What the traffic server at ``host`` saw."""
        command = [sys.executable, network_traffic.__file__, kind, host, str(TRAFFIC_PORT), str(size), *more]
        return json.loads(namespace.run(command, timeout=timeout).stdout)

    def start_traffic(self, namespace: Namespace, host: str, size: int, seconds: float) -> subprocess.Popen[bytes]:
        """A TCP transfer under way; its standard output tells what the server saw."""
        command = [sys.executable, network_traffic.__file__, "tcp", host, str(TRAFFIC_PORT), str(size), str(seconds)]
        return namespace.popen(command, stdout=subprocess.PIPE)

    def close(self) -> None:
        for daemon in reversed(self.daemons):
            daemon.close()
        self.net.close()
