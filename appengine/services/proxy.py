# mypy: disallow-untyped-calls=False
"""Services on this node: follows the local store, and keeps rules and names as it says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from appengine.interfaces import NetworkSource, NodeNetwork
from appengine.services.names import ClusterNames
from appengine.services.rules import remove_rules, rules
from appengine.services.table import EdgeService, IPAddress, Json, Place, Substitute, local_pods, services_of
from metasync.following import Follower
from metasync.interfaces import Store
from metasync.keys import NodeKeys
from metasync.model import KeyValue

SETTLE_SECONDS = 0.05
"""Changes within this time become one change of the rules."""

RETRY_SECONDS = 10.0
ZONE_LABEL = "topology.kubernetes.io/zone"


class Substitutes(Protocol):
    """The pods of this node's site that run elsewhere than the cloud knows."""

    def substitutes(self) -> Mapping[str, Substitute]:
        """By their original UID."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` when they are others."""


class ServiceProxy(Service):
    """Gives this node the cluster's Services, with or without the cloud.

    :param apply: puts nftables commands in place as one transaction, or raises.
    :param named: told the cluster's names, at first and whenever they change.
    :param reflect: lets the pods behind a gateway's bridge reach themselves.
    :param domain: the cluster's.
    :param takeovers: what has been taken over within the site.
    :ivar services: as they are now.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        store: Store,
        keys: NodeKeys,
        network: NetworkSource,
        apply: Callable[[str], object],
        named: Callable[[ClusterNames], object],
        reflect: Callable[[IPAddress], object],
        domain: str = "cluster.local",
        takeovers: Substitutes | None = None,
    ) -> None:
        self._reactor, self._keys, self._network = reactor, keys, network
        self._apply, self._named, self._reflect, self._domain = apply, named, reflect, domain
        self._followers = {
            kind: Follower(reactor, store, prefix, self._changed)
            for kind, prefix in (
                ("services", f"{keys.desired}services/"),
                ("slices", f"{keys.desired}endpointslices/"),
                ("nodes", f"{keys.desired}nodes/"),
                ("pods", f"{keys.reported}pods/"),
            )
        }
        self._takeovers = takeovers
        if takeovers is not None:
            takeovers.watch(lambda: self._later(SETTLE_SECONDS))
        self._interface = ""
        self._pod_subnets: tuple[IPv4Network | IPv6Network, ...] = ()
        self._timer: IDelayedCall | None = None
        self._rules = ""
        self.services: list[EdgeService] = []
        self.error: str | None = None

    def startService(self) -> None:
        super().startService()
        self._network.subscribe(self._placed)
        for follower in self._followers.values():
            follower.start()

    def stopService(self) -> None:
        """Connections that stand go on; new ones to cluster IPs are no longer led anywhere."""
        super().stopService()
        for follower in self._followers.values():
            follower.stop()
        if self._timer is not None:
            self._timer.cancel()
        if self._rules:
            self._attempt(lambda: self._apply(remove_rules()))

    def status(self) -> dict[str, Any]:
        """For people: JSON-able."""
        return {
            "error": self.error,
            "services": [
                {
                    "namespace": each.namespace,
                    "name": each.name,
                    "clusterIPs": list(map(str, each.cluster_ips)),
                    "ports": [
                        {
                            "name": port.name,
                            "protocol": port.protocol,
                            "port": port.port,
                            "targets": [f"{target.address} {target.port}" for target in port.targets],
                        }
                        for port in each.ports
                    ],
                }
                for each in self.services
            ],
        }

    # -- changes

    def _placed(self, network: NodeNetwork) -> None:
        self._interface, self._pod_subnets = network.interface, network.pod_subnets
        self._later(SETTLE_SECONDS)

    def _changed(self, changes: Mapping[bytes, KeyValue | None]) -> None:
        self._later(SETTLE_SECONDS)

    def _later(self, seconds: float) -> None:
        if self.running and self._timer is None:
            self._timer = self._reactor.callLater(seconds, self._settle)

    def _settle(self) -> None:
        self._timer = None
        if not all(follower.synced for follower in self._followers.values()):
            return
        services = services_of(
            self._documents("services"),
            self._documents("slices"),
            local_pods(self._documents("pods")),
            self._place(),
            {} if self._takeovers is None else self._takeovers.substitutes(),
        )
        if services != self.services or not self._rules:
            self.services = services
            self._named(ClusterNames(services, self._domain))
        if not self._interface:
            return
        wanted = rules(services, self._interface, self._pod_subnets)
        if wanted != self._rules and not self._attempt(lambda: self._apply(wanted)):
            return
        self._rules = wanted
        if self._pod_subnets:
            # Docker gives a network's first address to its bridge.
            gateway = self._pod_subnets[0][1]
            self._attempt(lambda: self._reflect(gateway))

    def _attempt(self, what: Callable[[], object]) -> bool:
        try:
            what()
        except Exception as error:
            # Whatever is wrong with nftables here, pods and names go on; it may be mended meanwhile.
            if str(error) != self.error:
                self.log.error("Services do not work fully on this node: {error}", error=str(error))
            self.error = str(error)
            self._later(RETRY_SECONDS)
            return False
        self.error = None
        return True

    def _documents(self, kind: str) -> Iterable[Json]:
        for kv in self._followers[kind].items.values():
            try:
                document = json.loads(kv.value)
            except (ValueError, RecursionError):
                continue
            if isinstance(document, Mapping):
                yield document

    def _place(self) -> Place:
        for node in self._documents("nodes"):
            metadata = node.get("metadata")
            labels = metadata.get("labels") if isinstance(metadata, Mapping) else None
            if isinstance(labels, Mapping):
                return Place(self._keys.node, str(labels.get(ZONE_LABEL) or ""))
        return Place(self._keys.node)
