"""Nebula as Debian ships it, through a relay at the hub: the edges do not reach each other directly."""

from __future__ import annotations

import subprocess

from benchmarks.traffic import missing
from benchmarks.tunnels.base import Tunnel
from tests.lab.daemon import Daemon
from tests.lab.namespace import Namespace

_CONFIG = """
pki: {{ca: {folder}/ca.crt, cert: {folder}/{name}.crt, key: {folder}/{name}.key}}
static_host_map: {{{hosts}}}
lighthouse: {{am_lighthouse: {lighthouse}, interval: 10, hosts: [{lighthouses}]}}
listen: {{host: 0.0.0.0, port: {port}}}
punchy: {{punch: false}}
relay: {{am_relay: {lighthouse}, use_relays: true, relays: [{lighthouses}]}}
tun: {{dev: neb{number}, mtu: 1300, drop_multicast: true}}
logging: {{level: info}}
firewall:
  outbound: [{{port: any, proto: any, host: any}}]
  inbound: [{{port: any, proto: any, host: any}}]
"""


class Nebula(Tunnel):
    name = "nebula"

    @classmethod
    def missing(cls) -> str | None:
        return missing("nebula", "nebula-cert")

    def launch(self) -> None:
        self._cert("ca", "-name", "bench", "-out-crt", "ca.crt", "-out-key", "ca.key")
        self.hub_process = self._node(self.hub.namespace, 0)
        for number, edge in enumerate(self.hub.edges, 1):
            self.edge_processes.append(self._node(edge, number))

    def _node(self, namespace: Namespace, number: int) -> Daemon:
        name = f"n{number}"
        self._cert("sign", "-name", name, "-ip", f"{self.address(number)}/24", "-ca-crt", "ca.crt", "-ca-key", "ca.key")
        hub = number == 0
        config = _CONFIG.format(
            folder=self.folder,
            name=name,
            number=number,
            hosts="" if hub else f'"10.83.0.10": ["{self.hub.hub_address(number)}:4242"]',
            lighthouse=str(hub).lower(),
            lighthouses="" if hub else '"10.83.0.10"',
            port=4242 if hub else 0,
        )
        file = self.folder / f"{name}.yml"
        file.write_text(config)
        process = Daemon(f"nebula-{number}", ["nebula", "-config", str(file)], namespace=namespace)
        process.start()
        process.wait_for("Nebula interface is active")
        return process

    def _cert(self, *arguments: str) -> None:
        subprocess.run(["nebula-cert", *arguments], cwd=self.folder, check=True, capture_output=True)

    def address(self, edge: int) -> str:
        return f"10.83.0.{10 + edge}"
