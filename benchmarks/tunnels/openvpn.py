"""OpenVPN as Debian ships it, with its defaults, in client-to-client mode."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from benchmarks.traffic import missing
from benchmarks.tunnels.base import Tunnel
from tests.lab.daemon import Daemon
from tests.lab.pki import Authority, KeyPair

_COMMON = """
verb 1
dev-type tun
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
ifconfig 10.81.0.1 255.255.0.0
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
dev ov{number}
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
        authority = Authority(self.folder)
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
            (clients / f"e{number}").write_text(f"ifconfig-push {self.address(number)} 255.255.0.0\n")
            file = self._client_file(number, authority)
            process = Daemon(f"{self.name}-e{number}", ["openvpn", str(file)], namespace=edge, cwd=self.folder)
            self.edge_processes.append(process)
            process.start()
        for process in self.edge_processes:
            process.wait_for("Initialization Sequence Completed", 30)

    def address(self, edge: int) -> str:
        return f"10.81.0.{10 + edge}"

    def _server_file(self, authority: Authority, clients: Path) -> Path:
        pair = authority.issue("hub", hosts=["hub"])
        file = self.folder / "server.conf"
        file.write_text(self._common(authority, pair, self.server_proto) + SERVER.format(clients=clients))
        return file

    def _client_file(self, number: int, authority: Authority) -> Path:
        pair = authority.issue(f"e{number}")
        file = self.folder / f"e{number}.conf"
        client = CLIENT.format(number=number, remote=self.hub.hub_address(number))
        file.write_text(self._common(authority, pair, self.client_proto) + client)
        return file

    @staticmethod
    def _common(authority: Authority, pair: KeyPair, proto: str) -> str:
        return _COMMON.format(ca=authority.certificate, pair=pair, proto=proto)


class OpenVPNTCP(OpenVPN):
    name = "openvpn-tcp"
    server_proto = "proto tcp-server\ntcp-nodelay"
    client_proto = "proto tcp-client\ntcp-nodelay"
