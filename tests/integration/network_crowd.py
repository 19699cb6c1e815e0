# mypy: disallow-untyped-calls=False
"""Many edges in one process: real TLS links, but TUN devices and hosts in memory.

``python -m tests.integration.network_crowd CONFIG.json``; control socket as in :mod:`network_process`:
``["connected"]``, ``["wear_out"]``, ``["addresses"]``, ``["exchange"]`` (each node sends a packet to the next one),
``["spoof"]``, ``["received"]``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from random import random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXServerEndpoint

from kubebus.credentials import Keyring
from kubebus.dialling import router_identity, tls_dialler
from kubebus.edge import EdgeLinkService, EdgeOptions
from kubebus.joinstring import JoinString
from kubebus.network import Network
from kubebus.renewal import enrolled
from kubebus.testing_net import MemoryHostNetwork, MemoryTun, udp_packet
from kubebus.tlsconfig import LINK
from tests.integration.network_process import ControlFactory, Node


class Crowd(Node):
    """The nodes of ``config["nodes"]``; with ``config["joins"]``, a join string for each, they enrol first."""

    def __init__(self, reactor: Any, config: dict[str, Any]) -> None:
        self._reactor, self._config = reactor, config
        self._edges: list[tuple[EdgeLinkService, MemoryTun]] = []
        joins: dict[str, str] = config.get("joins", {})
        for name in config["nodes"]:
            starting = Deferred.fromCoroutine(self._start(name, joins.get(name)))
            starting.addErrback(lambda failure: failure.printTraceback())

    async def _start(self, name: str, join: str | None) -> None:
        state, reactor = Path(self._config["state"]) / name, self._reactor
        keyring = Keyring(state)
        if join is not None:
            await enrolled(reactor, keyring, name, JoinString.decode(join))
        tun = MemoryTun()
        service = EdgeLinkService(
            reactor,
            Network(),
            keyring.present.identity,
            tls_dialler(reactor, lambda: keyring.client_connection_creator(LINK)),
            lambda: self._config["routers"],
            router_identity,
            state,
            lambda name: tun,
            MemoryHostNetwork(),
            EdgeOptions(time.time),
        )
        self._edges.append((service, tun))
        service.startService()

    def connected(self) -> int:
        return sum(service.connected for service, _ in self._edges)

    def wear_out(self) -> int:
        """As if each had tried in vain for long: it waits for the longest time, from any moment of that on."""
        for service, _ in self._edges:
            backoff, linker = service._options.backoff, service._linker
            linker.stop()
            backoff._next = backoff.last
            self._reactor.callLater(random() * backoff.wait(0.0), linker.start)
        return len(self._edges)

    def addresses(self) -> list[str]:
        """The IPv4 address of each node."""
        return [str(service.status().addresses[0]) for service, _ in self._edges]

    def exchange(self) -> int:
        addresses = self.addresses()
        others = addresses[1:] + addresses[:1]
        for (_, tun), source, target in zip(self._edges, addresses, others, strict=True):
            tun.route(udp_packet(source, target))
        return len(addresses)

    def spoof(self) -> int:
        """Each node sends a packet in the name of the next one, past its own check."""
        addresses = self.addresses()
        for (service, _), other in zip(self._edges, addresses[1:] + addresses[:1], strict=True):
            link = service._link
            assert link is not None
            link.send_packet(udp_packet(other, "10.10.0.11"))
            link.send_packet(udp_packet("10.10.0.11", other))
            link.flush()
        return len(addresses)

    def received(self) -> int:
        return sum(len(tun.written) for _, tun in self._edges)


def main() -> None:
    from twisted.internet import reactor

    anything: Any = reactor
    config = json.loads(Path(sys.argv[1]).read_text())
    UNIXServerEndpoint(anything, config["control"]).listen(ControlFactory(Crowd(anything, config)))
    anything.run()


if __name__ == "__main__":
    main()
