"""The edge controller: one service that stands for all edge nodes of a network towards one Kubernetes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from edgectl.desiredsync import DesiredSync
from edgectl.errors import StatusError
from edgectl.eventsync import EventKey, EventSync
from edgectl.informer import Informer
from edgectl.interfaces import EdgeNode, NodeDirectory
from edgectl.kubernetes import (
    CONFIGMAPS,
    ENDPOINT_SLICES,
    NODES,
    PODS,
    SECRETS,
    SERVICES,
    KubernetesClient,
    Resource,
)
from edgectl.mirror import Change, Mirror, StoreMirror
from edgectl.nodes import RENEW_SECONDS, NodeOptions, keeps_lease, lost_in
from edgectl.nodesync import NodeSync
from edgectl.podcidr import PodCidrs
from edgectl.podsync import SLIM, PodIndex, PodSync, node_name, slim
from edgectl.services import ServiceTable, strip_node
from edgectl.takeover import NOT_POSSIBLE, Sites, asks_for_takeover, concerns_site, obstacle
from edgectl.tokens import sources
from edgectl.tokensync import TokenSync
from edgectl.translate import Reference, encode, references
from edgectl.watch import Object
from edgectl.workqueue import Workers
from metasync.interfaces import Store

ENDPOINT_SLICE_VERSIONS = ("v1", "v1beta1")
"""``v1`` from Kubernetes 1.21 on."""

STATUS_CONCURRENCY = 48
"""Most of what goes to the API server is pod status, and each write waits for its disk."""

EVENT_CONCURRENCY = 2
"""Events matter less than everything else that goes to the API server."""


@dataclass(frozen=True, slots=True)
class ControllerOptions:
    """What a user may choose.

    :ivar namespaces: where ConfigMaps and Secrets are read. Empty: in all, which needs cluster-wide rights.
    :ivar nodes: how Nodes are registered.
    :ivar services: let edge nodes know the cluster's Services and their endpoints.
    :ivar keep_revoked: keep the Node of a revoked edge node (as disconnected) instead of removing it.
    """

    namespaces: Sequence[str] = ()
    nodes: NodeOptions = field(default_factory=NodeOptions)
    keep_revoked: bool = False
    services: bool = True


class EdgeController(Service):
    """Registers the nodes of ``directory``, gives them their pods through ``store``, and shows what they report.

    It needs one watch per kind (and namespace, where these are chosen) and two of the store, however many nodes
    there are. It may be started and stopped once.

    :param client: is closed when the service has stopped.
    :param random: uniform over [0, 1); for tests.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        client: KubernetesClient,
        store: Store,
        network: str,
        directory: NodeDirectory,
        options: ControllerOptions | None = None,
        random: Callable[[], float] | None = None,
    ) -> None:
        self._reactor = reactor
        self._client = client
        self._options = options or ControllerOptions()
        self._random = random or Random().random
        self._directory = directory
        self._edges: dict[str, EdgeNode] = {}
        self._sites = Sites()
        self._index = PodIndex()
        self._mirror = StoreMirror(reactor, store, network, self._random, self._stored, self._progress)
        self._nodes = self._informer(NODES, transform=_without_images)
        self._pods = self._informer(PODS, field_selector="spec.nodeName!=", transform=self._kept)
        self._objects = {
            resource.plural: {
                namespace: self._informer(resource, namespace=namespace, transform=_unmanaged)
                for namespace in self._options.namespaces or ("",)
            }
            for resource in (CONFIGMAPS, SECRETS)
        }
        self._services = ServiceTable(self._services_changed)
        self._service_informers = self._service_watches() if self._options.services else []
        pod_cidrs = PodCidrs(directory) if self._options.nodes.adopt_pod_cidr else None
        self._node_sync = NodeSync(
            reactor, client, network, self._edges, self._nodes, self._mirrored, self._options.nodes, pod_cidrs
        )
        self._push_work = self._workers("desired of node", self._push)
        self._site_work = self._workers("desired of site", self._push_site)
        self._token_sync = TokenSync(
            reactor, client, network, self._edges, self._index, self._mirrored, self._push_soon, self._warn
        )
        self._desired_sync = DesiredSync(
            store,
            network,
            self._edges,
            self._sites,
            self._index,
            self._object,
            self._token_sync.secrets,
            self._around,
            self._mirrored,
        )
        self._pod_sync = PodSync(
            reactor, client, self._edges, self._index, self._mirrored, self._tell, self._warn, self._look_at_pod
        )
        self._event_sync = EventSync(reactor, client, self._edges, self._index, self._mirrored)
        self._event_work: Workers[EventKey] = Workers(reactor, "event", self._event, self._random, EVENT_CONCURRENCY)
        self._node_work = self._workers("node", self._node)
        self._fetch_work = self._workers("pod", self._fetch)
        self._lease_work = self._workers("lease of node", self._renew)
        self._token_work = self._workers("tokens of pod", self._tokens)
        self._pod_work: Workers[str] = Workers(reactor, "status of pod", self._report, self._random, STATUS_CONCURRENCY)
        self._manned: set[str] = set()
        self._ready = False

    @property
    def ready(self) -> bool:
        """Whether everything has been read once, so that what is written rests on the whole."""
        return self._ready

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do but what comes again with time: Leases and tokens."""
        ending = (self._node_work, self._fetch_work, self._push_work, self._site_work, self._pod_work, self._event_work)
        return self._ready and all(work.idle for work in ending)

    @property
    def lists(self) -> int:
        """How many list requests were made so far."""
        return sum(informer.lists for informer in self._informers())

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._directory.subscribe(self._enrolled)
        self._nodes.subscribe(self._node_changed, self._nodes_read)
        self._pods.subscribe(self._pod_changed, self._progress)
        for plural, informers in self._objects.items():
            for informer in informers.values():
                informer.subscribe(self._object_changed(plural), self._progress)
        self._mirror.start()
        for informer in self._informers():
            if informer is not self._pods:
                informer.start()

    def _nodes_read(self) -> None:
        """The pods come after the Nodes, which tell whose pods to keep whole."""
        self._pods.start()
        self._progress()

    def _kept(self, pod: Object) -> Object:
        return _unmanaged(pod) if self._is_edge(node_name(pod)) else slim(pod)

    def _is_edge(self, name: str) -> bool:
        return name in self._edges or self._node_sync.node(name) is not None

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._ready = False
        self._log.info("edge controller stops; it has made {lists} LIST requests", lists=self.lists)
        self._mirror.stop()
        for informer in self._informers():
            informer.stop()
        for work in self._all_work():
            await work.stop()
        await self._client.close()

    def _informer(self, resource: Resource, **arguments: Any) -> Informer:
        return Informer(self._reactor, self._client, resource, self._random, **arguments)

    def _informers(self) -> list[Informer]:
        objects = [informer for kinds in self._objects.values() for informer in kinds.values()]
        return [self._nodes, self._pods, *objects, *self._service_informers]

    def _service_watches(self) -> list[Informer]:
        services = self._informer(SERVICES, transform=_unmanaged)
        slices = self._informer(ENDPOINT_SLICES, versions=ENDPOINT_SLICE_VERSIONS, transform=_unmanaged)
        services.subscribe(self._services.service, self._progress)
        slices.subscribe(self._services.slice, self._progress)
        return [services, slices]

    def _services_changed(self) -> None:
        for name in self._edges:
            if self._desired_sync.is_told(name):
                self._push_work.add(name)

    def _around(self, name: str) -> Mapping[str, bytes]:
        """What a node with pods is told beside them."""
        node = self._nodes.items.get(name)
        in_site = self._sites.of(name) is not None
        place = strip_node(node, in_site) if node is not None and (self._options.services or in_site) else None
        return {**self._services.values, f"nodes/{name}": encode(place)} if place else self._services.values

    def _workers(self, name: str, handler: Any) -> Workers[str]:
        return Workers(self._reactor, name, handler, self._random)

    def _all_work(self) -> list[Workers[Any]]:
        return [
            self._node_work,
            self._fetch_work,
            self._lease_work,
            self._token_work,
            self._push_work,
            self._site_work,
            self._pod_work,
            self._event_work,
        ]

    def _mirrored(self) -> Mirror:
        return self._mirror.mirror

    def _object(self, reference: Reference) -> Object | None:
        plural, namespace, name = reference
        informers = self._objects[plural]
        informer = informers.get(namespace) or informers.get("")
        return informer.items.get(f"{namespace}/{name}") if informer is not None else None

    def _progress(self) -> None:
        """Begin to write once all has been read: half a picture would take pods away."""
        if self._ready or not self._mirror.synced or not all(i.synced for i in self._informers()):
            return
        self._ready = True
        for name in self._edges:
            self._look_at(name)
        for site in self._mirrored().sites:
            self._site_work.add(site)
        for work in self._all_work():
            work.start()
        self._log.info(
            "edge controller is up after {lists} LIST requests: {nodes} nodes, {pods} bound pods",
            lists=self.lists, nodes=len(self._edges), pods=len(self._index.pods),
        )  # fmt: skip

    def _look_at(self, name: str) -> None:
        self._node_work.add(name)
        self._lease_work.add(name)
        self._push_soon(name)
        for key in self._index.slim_on(name) if name in self._edges else ():
            self._fetch_work.add(key)
        for key, pod in self._index.on_node(name):
            self._pod_work.add(key)
            if sources(pod):
                self._token_work.add(key)
        for namespace, pod_name, _ in self._mirrored().node(name).pods:
            self._pod_work.add(f"{namespace}/{pod_name}")  # also of what it has taken over
        for event in self._mirrored().node(name).events if name in self._edges else ():
            self._event_work.add((name, *event))

    def _push_soon(self, name: str) -> None:
        """What the node is to run may have changed, or what its site may run for it."""
        self._push_work.add(name)
        if (site := self._sites.of(name)) is not None:
            self._site_work.add(site)

    def _enrolled(self, name: str, edge: EdgeNode | None) -> None:
        if edge is not None:
            self._edges[name] = edge
        else:
            self._edges.pop(name, None)
        for site in self._sites.changed(name, edge):
            self._site_work.add(site)
        self._look_at(name)

    def _node_changed(self, key: str, old: Object | None, new: Object | None) -> None:
        if key in self._edges:
            self._node_work.add(key)
            if old is None or (new is not None and _annotations(old) != _annotations(new)):
                self._lease_work.add(key)
            in_site = self._sites.of(key) is not None
            if new is not None and (old is None or strip_node(old, in_site) != strip_node(new, in_site)):
                self._push_work.add(key)

    def _pod_changed(self, key: str, old: Object | None, new: Object | None) -> None:
        self._index.changed(key, old, new)
        if old is not None and (new is None or new["metadata"]["uid"] != old["metadata"]["uid"]):
            self._token_sync.forget(old)
        # A site waits while pods of its nodes are being read.
        for_site = concerns_site(old, new) or (old is not None and SLIM in old)
        for node in {node_name(pod) for pod in (old, new) if pod is not None} & self._edges.keys():
            (self._push_soon if for_site else self._push_work.add)(node)
            self._pod_work.add(key)
        if new is None or node_name(new) not in self._edges:
            return
        if not self._token_sync.secrets(new)[1]:
            self._token_work.add(key)
        if old is None:
            self._warn_of_namespace(new)
        if asks_for_takeover(new) and (old is None or not asks_for_takeover(old)):
            self._warn_of_takeover(new)

    def _warn(self, pod: Mapping[str, Any], reason: str, message: str) -> None:
        self._event_work.add(self._event_sync.record(pod, reason, message))

    def _tell(self, pod: Mapping[str, Any], reason: str, message: str) -> None:
        self._event_work.add(self._event_sync.record(pod, reason, message, "Normal"))

    def _warn_of_takeover(self, pod: Object) -> None:
        """Without this, a pod would be relied on to be taken over, and is not."""
        why = obstacle(pod)
        if why is None and self._sites.of(node_name(pod)) is None:
            why = f"its node {node_name(pod)} has no site"
        if why is not None:
            self._warn(pod, NOT_POSSIBLE, f"no other node takes it over: {why}")

    def _warn_of_namespace(self, pod: Object) -> None:
        """Without this, a pod would wait for its ConfigMaps and nobody knew why."""
        namespace, readable = pod["metadata"]["namespace"], self._options.namespaces
        if readable and namespace not in readable and references(pod):
            message = (
                f"the ConfigMaps and Secrets of namespace {namespace!r} are not for edge nodes: the controller reads "
                f"those of {', '.join(readable)} only (--namespace)"
            )
            self._warn(pod, "NamespaceNotReadable", message)

    def _object_changed(self, plural: str) -> Callable[[str, Object | None, Object | None], None]:
        def changed(key: str, old: Object | None, new: Object | None) -> None:
            namespace, _, name = key.partition("/")
            for node in self._index.users_of((plural, namespace, name)) & self._edges.keys():
                self._push_soon(node)

        return changed

    def _stored(self, change: Change) -> None:
        """Something of a node has changed in the store."""
        if change.kind == "site":
            self._site_work.add(change.node)
        elif change.node not in self._edges:
            return
        elif change.kind == "desired":
            self._push_work.add(change.node)
        elif change.kind == "node":
            self._node_work.add(change.node)
        elif change.pod is not None:
            self._pod_work.add(f"{change.pod[0]}/{change.pod[1]}")
        elif change.event is not None:
            self._event_work.add((change.node, *change.event))

    async def _node(self, name: str) -> None:
        edge = self._edges.get(name)
        if edge is None:
            await self._node_sync.remove(name)
            self._pod_sync.forget(name)
            await self._desired_sync.forget(name)
        elif edge.revoked and not self._options.keep_revoked:
            await self._node_sync.remove(name)
        else:
            again = await self._node_sync.reconcile(name)
            lost = lost_in(edge, self._node_sync.node(name), self._reactor.seconds())
            for seconds in (again, lost):
                if seconds is not None:
                    self._node_work.add_after(name, seconds)

    async def _fetch(self, key: str) -> None:
        """Read a pod that was bound to a node before that was one of ours."""
        pod = self._index.pods.get(key)
        if pod is None or SLIM not in pod:
            return
        try:
            item = await self._client.get(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"])
        except StatusError as error:
            if not error.not_found:
                raise
            return  # the watch will tell
        if self._index.pods.get(key) is pod:
            self._pods.replace(key, item)

    async def _push(self, name: str) -> None:
        await self._desired_sync.push(name)

    async def _push_site(self, site: str) -> None:
        await self._desired_sync.push_site(site)
        manned = self._desired_sync.has_candidates(site)
        if manned != (site in self._manned):
            # What is around the pods is for all who may run them.
            (self._manned.add if manned else self._manned.discard)(site)
            for name in self._sites.members(site):
                self._push_work.add(name)

    async def _report(self, key: str) -> None:
        if wait := await self._pod_sync.report(key):
            self._pod_work.add_after(key, wait)

    def _look_at_pod(self, key: str, seconds: float) -> None:
        self._pod_work.add_after(key, seconds, pending=False)

    async def _event(self, key: EventKey) -> None:
        if wait := await self._event_sync.send(key):
            self._event_work.add_after(key, wait)

    async def _tokens(self, key: str) -> None:
        """Renew what is due, and come again for the next."""
        seconds = await self._token_sync.renew(key)
        if seconds is not None:
            self._token_work.add_after(key, seconds * (0.95 + self._random() / 20))

    async def _renew(self, name: str) -> None:
        """Renew and come again; a node that is not to count as alive is let go until something changes."""
        edge = self._edges.get(name)
        if edge is None:
            return
        node = self._node_sync.node(name)
        if await self._node_sync.renew(name) or (node is None and keeps_lease(edge, node, self._reactor.seconds())):
            self._lease_work.add_after(name, RENEW_SECONDS * (0.9 + self._random() / 5))


def _without_images(node: Object) -> Object:
    """A Node without its longest part, which nobody here reads."""
    status = {name: value for name, value in (node.get("status") or {}).items() if name != "images"}
    return {**_unmanaged(node), "status": status}


def _unmanaged(item: Object) -> Object:
    """An object without ``managedFields``, often its longest part."""
    return {**item, "metadata": {k: v for k, v in item["metadata"].items() if k != "managedFields"}}


def _annotations(node: Object) -> object:
    return node["metadata"].get("annotations")
