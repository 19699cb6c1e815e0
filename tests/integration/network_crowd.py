# mypy: disallow-untyped-calls=False
"""Many edges in one process: real TLS links, but TUN devices and hosts in memory.

``python -m tests.integration.network_crowd CONFIG.json``; control socket as in :mod:`network_process`:
``["connected"]``, ``["exchange"]`` (each node sends a packet to the next one), ``["spoof"]``, ``["received"]``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import UNIXServerEndpoint

from kubebus.credentials import Keyring
from kubebus.dialling import router_identity, tls_dialler
from kubebus.edge import EdgeLinkService, EdgeOptions
from kubebus.network import Network
from kubebus.testing_net import MemoryHostNetwork, MemoryTun, node_record, udp_packet
from kubebus.tlsconfig import LINK
from tests.integration.network_process import ControlFactory, Node


class Crowd(Node):
    def __init__(self, reactor: Any, config: dict[str, Any]) -> None:
        self._edges: list[tuple[EdgeLinkService, MemoryTun, int]] = []
        for name, number in config["nodes"].items():
            self._edges.append((*self._edge(reactor, Path(config["state"]) / name, config), number))

    def _edge(self, reactor: Any, state: Path, config: dict[str, Any]) -> tuple[EdgeLinkService, MemoryTun]:
        keyring = Keyring(state)
        tun = MemoryTun()
        service = EdgeLinkService(
            reactor,
            Network(),
            keyring.present.identity,
            tls_dialler(reactor, lambda: keyring.client_connection_creator(LINK)),
            lambda: config["routers"],
            router_identity,
            state,
            lambda name: tun,
            MemoryHostNetwork(),
            EdgeOptions(time.time),
        )
        service.startService()
        return service, tun

    def connected(self) -> int:
        return sum(service.connected for service, _, _ in self._edges)

    def exchange(self) -> int:
        numbers = [number for _, _, number in self._edges]
        for (_, tun, number), other in zip(self._edges, numbers[1:] + numbers[:1], strict=True):
            source, target = node_record("", number).addresses[0], node_record("", other).addresses[0]
            tun.route(udp_packet(str(source), str(target)))
        return len(numbers)

    def spoof(self) -> int:
        """Each node sends a packet in the name of the next one, past its own check."""
        numbers = [number for _, _, number in self._edges]
        for (service, _, _), other in zip(self._edges, numbers[1:] + numbers[:1], strict=True):
            link = service._link
            assert link is not None
            link.send_packet(udp_packet(str(node_record("", other).addresses[0]), "10.10.0.11"))
            link.send_packet(udp_packet("10.10.0.11", str(node_record("", other).addresses[0])))
            link.flush()
        return len(numbers)

    def received(self) -> int:
        return sum(len(tun.written) for _, tun, _ in self._edges)


def main() -> None:
    from twisted.internet import reactor

    anything: Any = reactor
    config = json.loads(Path(sys.argv[1]).read_text())
    UNIXServerEndpoint(anything, config["control"]).listen(ControlFactory(Crowd(anything, config)))
    anything.run()


if __name__ == "__main__":
    main()
