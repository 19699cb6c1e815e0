"""wireguard-go as Debian ships it: no kernel module is needed, as for us."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.traffic import missing
from benchmarks.tunnels.base import Tunnel
from tests.lab.daemon import Daemon
from tests.lab.namespace import Namespace

_SOCKETS = Path("/var/run/wireguard")


def _wg(*arguments: str, input: str = "") -> str:
    return subprocess.run(["wg", *arguments], input=input, capture_output=True, text=True, check=True).stdout.strip()


class WireGuardGo(Tunnel):
    name = "wireguard-go"

    @classmethod
    def missing(cls) -> str | None:
        return missing("wireguard-go", "wg")

    def launch(self) -> None:
        keys = {number: _wg("genkey") for number in range(len(self.hub.edges) + 1)}
        public = {number: _wg("pubkey", input=key) for number, key in keys.items()}
        peers = "".join(
            f"[Peer]\nPublicKey={public[number]}\nAllowedIPs={self.address(number)}/32,{self.address6(number)}/128\n"
            for number in range(1, len(self.hub.edges) + 1)
        )
        self.hub_process = self._interface(
            self.hub.namespace, 0, f"[Interface]\nListenPort=51820\nPrivateKey={keys[0]}\n{peers}", "10.82.0.1"
        )
        # By this it knows where to route one edge's IPv6 packets for another.
        self.hub.namespace.ip(f"address add fd82::1/64 dev {_device(self.hub.namespace, 0)}")
        for number, edge in enumerate(self.hub.edges, 1):
            config = (
                f"[Interface]\nPrivateKey={keys[number]}\n[Peer]\nPublicKey={public[0]}\n"
                f"AllowedIPs=10.82.0.0/24,fd82::/64\n"
                f"Endpoint={self.hub.hub_address(number)}:51820\nPersistentKeepalive=25\n"
            )
            self.edge_processes.append(self._interface(edge, number, config, self.address(number)))
            edge.ip(f"address add {self.address6(number)}/64 dev {_device(edge, number)}")

    def _interface(self, namespace: Namespace, number: int, config: str, address: str) -> Daemon:
        device = _device(namespace, number)
        process = Daemon(f"wireguard-{number}", ["wireguard-go", "-f", device], namespace=namespace)
        process.start()
        process.wait_for((_SOCKETS / f"{device}.sock").exists)
        file = self.folder / f"{device}.conf"
        file.write_text(config)
        _wg("setconf", device, str(file))
        namespace.ip(f"address add {address}/24 dev {device}", f"link set {device} mtu 1420 up")
        return process

    def address(self, edge: int) -> str:
        return f"10.82.0.{10 + edge}"

    def address6(self, edge: int) -> str:
        return f"fd82::{10 + edge}"


def _device(namespace: Namespace, number: int) -> str:
    # Its control socket lies in a folder of the whole machine, named after the device.
    return f"wg{namespace.run_of.id[:8]}{number}"
