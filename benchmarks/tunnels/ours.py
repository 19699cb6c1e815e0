"""Ours: the router at the hub, an edge at each edge; the network part alone, with certificates made beforehand."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.tunnels.base import Tunnel
from kubebus.ca import Authority, issue_node, new_key
from kubebus.credentials import CREDENTIALS, Credentials
from kubebus.identity import PeerIdentity, Role
from kubebus.joinstring import HostPort
from kubebus.testing_net import node_record
from tests.integration import network_process
from tests.lab.daemon import Daemon
from tests.lab.namespace import Namespace

_PORT = 443


class Kubebus(Tunnel):
    name: ClassVar[str] = "kubebus"

    def launch(self) -> None:
        authority = Authority.create("bench", time.time())
        authority.save(self.folder / "ca.pem")
        numbers = {f"e{number}": number + 1 for number in range(1, len(self.hub.edges) + 1)}
        router = {
            "role": "router",
            "nodes": numbers,
            "advertise": [],
            "authority": str(self.folder / "ca.pem"),
            "port": _PORT,
            "routers": [],
        }
        self.hub_process = self._process("router", self.hub.namespace, router)
        for number, edge in enumerate(self.hub.edges, 1):
            address = f"{self.hub.hub_address(number)}:{_PORT}"
            folder = self._folder(f"e{number}")
            _enrol(authority, f"e{number}", address, folder)
            config = {"role": "edge", "routers": [address], "state": str(folder)}
            self.edge_processes.append(self._process(f"e{number}", edge, config))

    def address(self, edge: int) -> str:
        return str(node_record("", edge + 1).addresses[0])

    def _folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def _process(self, name: str, namespace: Namespace, config: dict[str, Any]) -> Daemon:
        folder = self._folder(name)
        path = folder / "config.json"
        path.write_text(json.dumps({**config, "control": str(folder / "control")}))
        process = Daemon(name, [sys.executable, *self.interpreter_options(name), "-m", network_process.__name__, str(path)], namespace=namespace, cwd=Path.cwd())  # fmt: skip
        process.start()
        return process

    def interpreter_options(self, name: str) -> list[str]:
        return []


def _enrol(authority: Authority, name: str, router: str, folder: Path) -> None:
    """Make the node's credentials, as enrolment would have."""
    key = new_key()
    identity = PeerIdentity("default", Role.NODE, name)
    now = time.time()
    certificate = issue_node(authority, identity, key.public_key(), now + 86400)
    made = Credentials(
        identity, key, certificate, (authority.certificate,), (HostPort.parse(router),), now, "00000000"
    )
    (folder / CREDENTIALS).write_bytes(made.encode())
    (folder / CREDENTIALS).chmod(0o600)
