"""OpenVPN as Debian ships it, with its defaults, in client-to-client mode."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from benchmarks.traffic import missing
from benchmarks.tunnels.base import Tunnel
from tests.lab.daemon import Daemon
from tests.lab.namespace import Namespace
from tests.lab.pki import Authority, KeyPair

_COMMON = """
verb 1
persist-key
persist-tun
ping 10
ping-restart 60
cipher AES-256-GCM
data-ciphers AES-256-GCM
{proto}
ca {ca}
cert {pair.certificate}
key {pair.key}
"""

SERVER = """
mode server
tls-server
dh none
topology subnet
port 1194
dev ovh
dev-type tun
ifconfig 10.81.0.1 255.255.0.0
ifconfig-ipv6 fd81::1/64 fd81::2
push "topology subnet"
client-to-client
client-config-dir {clients}
ccd-exclusive
max-clients 4096
push "ping 10"
"""

CLIENT = """
tls-client
pull
nobind
{device}
remote {remote} 1194
remote-cert-eku "TLS Web Server Authentication"
connect-retry 1 1
"""


class OpenVPN(Tunnel):
    name: ClassVar[str] = "openvpn-udp"
    server_proto = "proto udp"
    client_proto = "proto udp"

    @classmethod
    def missing(cls) -> str | None:
        return missing("openvpn")

    def launch(self) -> None:
        authority = self._authority = Authority(self.folder)
        clients = self.folder / "clients"
        clients.mkdir()
        self.hub_process = Daemon(
            f"{self.name}-hub",
            ["openvpn", str(self._server_file(authority, clients))],
            namespace=self.hub.namespace,
            cwd=self.folder,
        )
        self.hub_process.start()
        self.hub_process.wait_for("Initialization Sequence Completed")
        for number, edge in enumerate(self.hub.edges, 1):
            pushed = f"ifconfig-push {self.address(number)} 255.255.0.0\n"
            pushed += f"ifconfig-ipv6-push {self.address6(number)}/64 fd81::1\n"
            (clients / f"e{number}").write_text(pushed)
            file = self._client_file(number, authority)
            process = Daemon(f"{self.name}-e{number}", ["openvpn", str(file)], namespace=edge, cwd=self.folder)
            self.edge_processes.append(process)
            process.start()
        for process in self.edge_processes:
            process.wait_for("Initialization Sequence Completed", 30)

    def address(self, edge: int) -> str:
        return f"10.81.0.{10 + edge}"

    def address6(self, edge: int) -> str:
        return f"fd81::{10 + edge}"

    def idle_client(self, number: int, edge: Namespace) -> Daemon:
        """One more client, started, that makes no device."""
        name = f"idle{number}"
        address = f"10.81.{1 + number // 250}.{1 + number % 250}"
        (self.folder / "clients" / name).write_text(f"ifconfig-push {address} 255.255.0.0\n")
        file = self.folder / f"{name}.conf"
        client = CLIENT.format(device="dev null", remote=self.hub.hub_address(1))
        common = self._common(self._authority, self._authority.issue(name), self.client_proto)
        file.write_text(f"{common}{client}ifconfig-noexec\nroute-noexec\n")
        process = Daemon(name, ["openvpn", str(file)], namespace=edge, cwd=self.folder)
        process.start()
        return process

    def _server_file(self, authority: Authority, clients: Path) -> Path:
        pair = authority.issue("hub", hosts=["hub"])
        file = self.folder / "server.conf"
        file.write_text(self._common(authority, pair, self.server_proto) + SERVER.format(clients=clients))
        return file

    def _client_file(self, number: int, authority: Authority) -> Path:
        pair = authority.issue(f"e{number}")
        file = self.folder / f"e{number}.conf"
        client = CLIENT.format(device=f"dev ov{number}\ndev-type tun", remote=self.hub.hub_address(number))
        file.write_text(self._common(authority, pair, self.client_proto) + client)
        return file

    @staticmethod
    def _common(authority: Authority, pair: KeyPair, proto: str) -> str:
        return _COMMON.format(ca=authority.certificate, pair=pair, proto=proto)


class OpenVPNTCP(OpenVPN):
    name = "openvpn-tcp"
    server_proto = "proto tcp-server\ntcp-nodelay"
    client_proto = "proto tcp-client\ntcp-nodelay"
