"""The tunnels that are compared, each in a module of its own."""

from __future__ import annotations

from benchmarks.tunnels.base import Tunnel
from benchmarks.tunnels.nebula import Nebula
from benchmarks.tunnels.openvpn import OpenVPN, OpenVPNTCP
from benchmarks.tunnels.ours import Kubebus
from benchmarks.tunnels.raw import Raw
from benchmarks.tunnels.wireguard import WireGuardGo

TUNNELS: dict[str, type[Tunnel]] = {
    tunnel.name: tunnel for tunnel in (Kubebus, OpenVPN, OpenVPNTCP, WireGuardGo, Nebula, Raw)
}

__all__ = ["TUNNELS", "Tunnel"]
