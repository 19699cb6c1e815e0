# mypy: disallow-untyped-calls=False
"""Edge nodes without an engine, several in one process: ``python -m benchmarks.fleet_nodes FOLDER``.

Each has its own key and certificate, TLS link, store and sync, as a device has; only its network device is of memory,
and its pods run at once. The file ``nodes`` in FOLDER has a name and a join string for each.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from twisted.application.service import MultiService
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.logger import FilteringLogObserver, LogLevel, LogLevelFilterPredicate, globalLogBeginner
from twisted.logger import textFileLogObserver as to_file

from appengine.tap.place import PatientEndpoint
from edgectl.testing_control import SimulatedEdge
from kubebus.credentials import Keyring
from kubebus.dialling import router_identity, tls_dialler
from kubebus.edge import EdgeLinkService, EdgeOptions
from kubebus.joinstring import JoinString
from kubebus.network import Network
from kubebus.renewal import enrolled
from kubebus.testing_net import MemoryHostNetwork, MemoryTun
from kubebus.tlsconfig import LINK
from metasync.client import SyncClientService
from metasync.interfaces import Store
from metasync.memory import MemoryStore
from metasync.wire import SERVICE as SYNC_SERVICE

reactor: Any = installed_reactor


class FleetNode(MultiService):
    """One node. ``name`` is whom it claims to be in the sync, ``identity`` who it is."""

    def __init__(self, keyring: Keyring, state: Path, store: Store, name: str | None = None) -> None:
        super().__init__()
        identity = keyring.present.identity
        self.store = store
        self.link = EdgeLinkService(
            reactor,
            Network(identity.network),
            identity,
            tls_dialler(reactor, lambda: keyring.client_connection_creator(LINK)),
            lambda: [str(each) for each in keyring.present.routers],
            router_identity,
            state,
            MemoryTun,
            MemoryHostNetwork(),
            EdgeOptions(time.time, keyring.learn_time, agent="fleet"),
        )
        name = name or identity.name
        self.sync = SyncClientService(reactor, PatientEndpoint(self.link, SYNC_SERVICE), store, identity.network, name)
        self.addService(self.link)
        self.addService(self.sync)


async def start(folder: Path, name: str, join_string: str) -> FleetNode:
    """Enrol, and run what is desired of the node."""
    state = folder / name
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    keyring = Keyring(state / "identity")
    credentials = await enrolled(reactor, keyring, name, JoinString.decode(join_string))
    node = FleetNode(keyring, state, MemoryStore(reactor))
    edge = SimulatedEdge(node.store, credentials.identity.network, name)
    node.startService()

    def placed(_: object) -> None:
        place = node.link.place
        assert place is not None
        (subnet,) = (each for each in place.config.pod_subnets if each.version == 4)
        edge.subnet = str(subnet.network_address)[:-1]
        Deferred.fromCoroutine(edge.start()).addErrback(_failed)

    node.link.when_connected().addCallback(placed).addErrback(_failed)
    return node


def _failed(failure: Any) -> None:
    print(f"FAILED: {failure.getTraceback()}", file=sys.stderr, flush=True)


async def run(folder: Path, nodes: list[tuple[str, str]]) -> None:
    for name, join_string in nodes:
        await start(folder, name, join_string)
    print(f"all {len(nodes)} nodes have enrolled", file=sys.stderr, flush=True)


def main() -> None:
    folder = Path(sys.argv[1])
    words = (folder / "nodes").read_text().split()
    quiet = LogLevelFilterPredicate(defaultLogLevel=LogLevel.warn)
    globalLogBeginner.beginLoggingTo([FilteringLogObserver(to_file(sys.stderr), [quiet])], redirectStandardIO=False)
    nodes = list(zip(words[::2], words[1::2], strict=True))
    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(run(folder, nodes)).addErrback(_failed))
    reactor.run()


if __name__ == "__main__":
    main()
