# mypy: disallow-untyped-calls=False
"""A router or an edge of the network alone, as a process: real TLS, real TUN, addresses from a file.

``python -m tests.integration.network_process CONFIG.json``; it listens on a UNIX socket for one JSON line at a time
and answers each with one: ``["status"]``, ``["revoke", "edge1"]``, ``["join_strings", 3]``.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from ipaddress import IPv6Network, ip_network
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP6ServerEndpoint, UNIXServerEndpoint
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.protocols.basic import LineReceiver

from kubebus.addresses import AddressPlan
from kubebus.ca import Authority, issue_router
from kubebus.credentials import Keyring
from kubebus.dialling import router_creator, router_identity, tls_dialler
from kubebus.edge import EdgeLinkService, EdgeOptions
from kubebus.enrol import Issuer, join_handler
from kubebus.farewell import farewell
from kubebus.identity import PeerIdentity, Role
from kubebus.joinstring import HostPort, JoinString
from kubebus.listener import Handler, Listener
from kubebus.members import Members
from kubebus.memory import AFTER_CROWD, Trimmer, release_heap
from kubebus.netconf import LinuxHostNetwork
from kubebus.network import Network
from kubebus.peers import PeerOptions
from kubebus.router import RouterOptions, RouterService
from kubebus.session import Timing
from kubebus.sharedlinks import SharedLinks
from kubebus.status import as_json
from kubebus.tap.registry import StoreRegistry
from kubebus.testing import MemoryRegistry
from kubebus.testing_net import MemoryMembers, node_record
from kubebus.tlsconfig import JOIN, LINK, ServerTLS
from kubebus.tun import open_tun
from metasync.opening import open_store

ULA = IPv6Network("fd00:b::/48")


class Control(LineReceiver):
    delimiter = b"\n"

    def __init__(self, node: Any) -> None:
        self._node = node

    def lineReceived(self, line: bytes) -> None:
        name, *arguments = json.loads(line)
        self.sendLine(json.dumps(getattr(self._node, name)(*arguments)).encode())


class Node:
    service: Service

    def status(self) -> Any:
        # ru_maxrss is the most there ever was; statm what is there now, in pages.
        rss = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        return {**as_json(self.service.status()), "rss": rss}  # type: ignore[attr-defined]


class RouterNode(Node):
    def __init__(self, reactor: Any, config: dict[str, Any]) -> None:
        numbers: dict[str, int] = config["nodes"]
        self.members = MemoryMembers(*(node_record(name, number) for name, number in numbers.items()))
        self._numbers = numbers
        plan = AddressPlan(ULA)
        # With "enrol" nodes join for themselves instead.
        self.enrolled = Members("default", MemoryRegistry(), plan, time.time) if config.get("enrol") else None
        self.identity = identity = PeerIdentity("default", Role.ROUTER, config.get("name", "router"))
        authority = Authority.load(Path(config["authority"]))
        self.bundle = (authority.certificate,)
        self.issued = issue_router(authority, identity, ["198.51.100.10"], time.time())
        network = Network(
            plan=plan,
            advertise=tuple(map(ip_network, config["advertise"])),
            mtu=config.get("mtu", 1500),
        )
        self.service = router = RouterService(
            reactor,
            network,
            identity,
            self.enrolled or self.members,
            lambda name: open_tun(reactor, name),
            LinuxHostNetwork(Path(config["control"]).with_name("settings")),
            RouterOptions(
                time.time,
                lambda: config["routers"],
                timing=Timing(**config.get("timing", {})),
                peers=self._peers(reactor, config) if "store" in config else None,
            ),
        )
        tls = ServerTLS(self.issued, self.bundle, [LINK, JOIN])
        self._routers = tuple(map(HostPort.parse, config["routers"]))
        self._ca_hash = authority.hash
        handlers: dict[bytes, Handler] = {LINK: router.build_link}
        if self.enrolled is not None:
            issuer = Issuer(self.enrolled, lambda: authority, lambda: self.bundle, time.time, is_live=router.is_live)
            handlers[JOIN] = join_handler(reactor, issuer)

        async def check(identity: PeerIdentity, key: str) -> None:
            pass

        self.listener = Listener(
            reactor,
            TCP6ServerEndpoint(reactor, config["port"]),
            tls,
            handlers,
            check,
            lambda failure: failure.printTraceback(),
            farewells={LINK: farewell},
        )
        router.startService()
        self.listener.startService()
        # As the cloud side does.
        Trimmer(reactor, release_heap, again=AFTER_CROWD).startService()

    def _peers(self, reactor: Any, config: dict[str, Any]) -> PeerOptions:
        registry = StoreRegistry(reactor, open_store(reactor, config["store"]), "default")
        dial = tls_dialler(reactor, router_creator(self, time.time))
        return PeerOptions(SharedLinks(registry, self.identity.name), dial, router_identity)

    def join_strings(self, count: int) -> list[str]:
        """So many tokens. The registry is in memory, so they are there at once."""
        made: list[str] = []

        async def make() -> None:
            assert self.enrolled is not None
            for _ in range(count):
                token, secret = await self.enrolled.create_token()
                string = JoinString("default", self._routers, self._ca_hash, token.id, secret, token.expires_at)
                made.append(string.encode())

        Deferred.fromCoroutine(make())
        return made

    def revoke(self, name: str) -> bool:
        self.members.put(node_record(name, self._numbers[name], revoked_at=time.time()))
        return True


class EdgeNode(Node):
    def __init__(self, reactor: Any, config: dict[str, Any]) -> None:
        state = Path(config["state"])
        keyring = Keyring(state)
        self.service = EdgeLinkService(
            reactor,
            Network(),
            keyring.present.identity,
            tls_dialler(reactor, lambda: keyring.client_connection_creator(LINK)),
            lambda: config["routers"],
            router_identity,
            state,
            lambda name: open_tun(reactor, name),
            LinuxHostNetwork(state / "settings"),
            EdgeOptions(time.time, keyring.learn_time, timing=Timing(**config.get("timing", {}))),
        )
        self.service.startService()


class ControlFactory(Factory):
    noisy = False

    def __init__(self, node: Node) -> None:
        self._node = node

    def buildProtocol(self, addr: IAddress | None) -> Control:
        return Control(self._node)


def main() -> None:
    from twisted.internet import reactor

    anything: Any = reactor
    config = json.loads(Path(sys.argv[1]).read_text())
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)], redirectStandardIO=False)
    node = {"router": RouterNode, "edge": EdgeNode}[config["role"]](anything, config)
    Path(config["control"]).unlink(missing_ok=True)
    UNIXServerEndpoint(anything, config["control"]).listen(ControlFactory(node))
    anything.addSystemEventTrigger("before", "shutdown", node.service.stopService)
    anything.run()


if __name__ == "__main__":
    main()
