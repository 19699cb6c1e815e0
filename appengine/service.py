"""The engine: one service that runs a node's pods from the local store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from appengine.admission import Capacity, refusal
from appengine.desired import Desired, ObjectKey, WithSite
from appengine.events import Events
from appengine.eviction import Pressures, Thresholds
from appengine.firewall import Firewall, HostPort
from appengine.housekeeping import Housekeeper
from appengine.images import Images
from appengine.interfaces import NetworkSource, NodeNetwork
from appengine.kubelet import KubeletFactory
from appengine.network import PodNetworks
from appengine.node import Node, Pace
from appengine.nodereport import NodeReporter
from appengine.nodestatus import MAX_PODS, Pressure, read_machine
from appengine.podnet import ClusterDns
from appengine.podspec import (
    InvalidPod,
    Json,
    Pod,
    PodRef,
    deletion_grace_of,
    identify,
    made_up_uid,
    parse_pod,
    read_json,
)
from appengine.reports import Reports
from appengine.runtime import ContainerView, EngineError, NoSuchContainer, Runtime, RuntimeUnavailable
from appengine.staticpods import StaticPods
from appengine.threads import Threads
from appengine.volumes import Volumes
from appengine.waiting import sleep
from appengine.worker import Worker
from metasync.interfaces import Store, StoreError
from metasync.keys import NodeKeys

if TYPE_CHECKING:
    from appengine.takeover.service import Takeover

_RESYNC = 300.0
_THRESHOLDS = Thresholds()
_PACE = Pace()
_RETRY = 2.0
_FILE_THREADS = 2


class Engine(Service):
    """Runs the pods under a node's ``desired`` prefix on a container engine, and reports on them.

    Stopping the service leaves the containers running; the next start adopts them.

    :param store: the local store.
    :param docker_url: the engine's address: ``unix:///path`` or ``tcp://host:port``.
    :param network_source: tells the pod subnet; without one pods wait.
    :param state_dir: a directory of the engine's own, for volumes.
    :param cluster_dns: servers and domain of the cluster's name service, where there is one.
    :param runtime: another runtime than Docker's.
    :param image_dir: archives of images (``docker save``) that are loaded where a pod needs one
        [default: ``images`` in ``state_dir``].
    :param manifest_dir: manifests of static pods [default: ``manifests`` in ``state_dir``].
    :param thresholds: when the node is under pressure.
    :param firewall: another packet filter than the host's.
    :param files: other threads for volumes than the engine's own.
    :param takeover: lets pods that have opted in move within the site [default: they stay].
    :param pace: how often the node looks around.
    :param wall: the time of day, in UNIX seconds: of reports, and compared with what the container engine tells.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        store: Store,
        network: str,
        node: str,
        docker_url: str,
        network_source: NetworkSource,
        state_dir: str | Path,
        *,
        cluster_dns: Sequence[str] = (),
        cluster_domain: str = "cluster.local",
        runtime: Runtime | None = None,
        files: Threads | None = None,
        firewall: Firewall | None = None,
        image_dir: str | Path | None = None,
        manifest_dir: str | Path | None = None,
        thresholds: Thresholds = _THRESHOLDS,
        takeover: Takeover | None = None,
        pace: Pace = _PACE,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if runtime is None:
            from appengine.dockerengine import DockerEngine

            runtime = DockerEngine(reactor, docker_url, network, node)
        keys = NodeKeys(network, node)
        reports = Reports(reactor, store, keys)
        machine = read_machine()
        self._reactor = reactor
        self._runtime = runtime
        self._source = network_source
        self._state_dir = Path(state_dir)
        self._takeover = takeover
        self._desired = Desired(reactor, store, keys, self._desired_changed)
        self._networks = PodNetworks(runtime, self._wake_all)
        self.node = Node(
            reactor=reactor,
            network=network,
            name=node,
            runtime=runtime,
            images=Images(
                reactor, runtime, Path(image_dir or self._state_dir / "images"), lambda: reporter.images_changed()
            ),
            volumes=Volumes(self._state_dir),
            files=files or Threads(reactor, _FILE_THREADS, "files"),
            reports=reports,
            events=Events(reports, reactor.seconds, wall, node),
            objects=self._desired if takeover is None else WithSite(self._desired, lambda: takeover.desired),
            pod_network=self._networks,
            dns=ClusterDns(tuple(cluster_dns), cluster_domain),
            wall=wall,
            pace=pace,
            cpus=machine.cpus,
            memory=machine.memory,
            host_files=_host_file,
            changed=self._pod_gone,
            changed_ports=self._ports_changed,
        )
        self._firewall = firewall or Firewall(self.node.files)
        self._pressures = Pressures(thresholds)
        self._capacity = Capacity(machine.cpus * 1000, machine.memory, 0, MAX_PODS)
        self.node.admit = self.refusal
        if takeover is not None:
            self.node.takeovers = takeover
        self._housekeeper = Housekeeper(
            self.node, self._pressures, self.pods, lambda: self._node_reporter.images_changed()
        )
        reporter = self._node_reporter = NodeReporter(
            self.node, machine, self._state_dir, self._pressures, self._measured
        )
        self._static: dict[tuple[str, str], Json] = {}
        folder = Path(manifest_dir or self._state_dir / "manifests")
        self._static_pods = StaticPods(reactor, self.node.files, folder, node, self._static_changed, pace.manifests)
        self.workers: dict[str, Worker] = {}
        self._previous: dict[str, Json] = {}
        self._looking: set[str] = set()
        self._adopted = False
        self._factories: list[KubeletFactory] = []
        self._starting: Deferred[None] | None = None
        self._resync = LoopingCall(self._relist)
        self._resync.clock = reactor

    # -- life -------------------------------------------------------------------------------------------------

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._state_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
        self.node.files.start()
        self._source.subscribe(self._place_changed)
        self._starting = Deferred.fromCoroutine(self._begin())
        self._starting.addErrback(self._failed_start)

    def _failed_start(self, failure: Any) -> None:
        if failure.check(CancelledError) is None:
            self._log.failure("the engine could not start", failure)

    async def _begin(self) -> None:
        while True:
            try:
                self._previous = await self.node.reports.load()
                self.node.events.load(await self.node.reports.load_events())
                break
            except StoreError as error:
                self._log.error("the local store cannot be read; trying again: {error}", error=str(error))
                await sleep(self._reactor, _RETRY)
        self._node_reporter.start()
        if self._takeover is not None:
            self._takeover.begin(self, self._previous)
        self._desired.start()
        self._static_pods.start()
        self._runtime.start(self)

    def stopService(self) -> Deferred[None]:
        """Stop looking after the pods; the containers go on."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._end())

    async def _end(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            with suppress(CancelledError):
                await self._starting
        if self._resync.running:
            self._resync.stop()
        for factory in self._factories:
            factory.close()
        await self._desired.stop()
        await self._static_pods.stop()
        await self._node_reporter.stop()
        await gatherResults([Deferred.fromCoroutine(worker.stop()) for worker in self.workers.values()])
        if self._takeover is not None:
            await self._takeover.stop()
        await self._runtime.stop()
        await self._firewall.stop(any(worker.sandbox() for worker in self.workers.values()))
        await self.node.reports.stop()
        self.node.files.stop()

    # -- the node's place ---------------------------------------------------------------------------------------

    def _place_changed(self, place: NodeNetwork) -> None:
        if self.node.place == place:
            return
        self.node.place = place
        self._networks.place(place)
        self._firewall.place(place)
        self._node_reporter.changed()
        self.reconsider()
        self._wake_all()

    def _ports_changed(self) -> None:
        ports: frozenset[HostPort] = frozenset()
        for worker in self.workers.values():
            ports |= worker.host_ports()
        self._firewall.ports(ports)

    def _wake_all(self) -> None:
        for worker in self.workers.values():
            worker.try_again()

    # -- what is wanted -----------------------------------------------------------------------------------------

    def _desired_changed(self, changed: frozenset[ObjectKey]) -> None:
        if not self._adopted:
            return
        objects = {(namespace, name) for plural, namespace, name in changed if plural != "pods"}
        namespaces = {namespace for namespace, _ in objects}
        for plural, namespace, name in changed:
            if plural == "pods":
                self.want(namespace, name)
        for namespace in namespaces:
            self.files_changed(namespace)
        if self._takeover is not None and objects != {(namespace, name) for _, namespace, name in changed}:
            self._takeover.own_changed()

    def _everything_known(self) -> bool:
        """Whether all that says which pods are wanted has been read once."""
        own = self._desired.loaded and self._static_pods.loaded
        return own and (self._takeover is None or self._takeover.loaded)

    def _static_changed(self, pods: dict[tuple[str, str], Json]) -> None:
        names = self._static.keys() | pods.keys()
        self._static = pods
        if self._adopted:
            for namespace, name in names:
                self.want(namespace, name)

    def _measured(self, pressure: Pressure) -> None:
        if self._adopted:
            self._housekeeper.measured(pressure)

    def refusal(self, pod: Pod) -> tuple[str, str] | None:
        """Why the node does not take a pod."""
        others = [
            worker.pod
            for worker in self.workers.values()
            if worker.pod is not None and worker.ref.uid != pod.ref.uid and worker.active and worker.admitted
        ]
        capacity = replace(self._capacity, storage=self.node.storage)
        return refusal(pod, others, capacity, self._pressures.now)

    def _want_all(self) -> None:
        wanted = set(self._desired.pods()) | set(self._static)
        if self._takeover is not None:
            wanted |= self._takeover.others.names()
        here = {(worker.ref.namespace, worker.ref.name) for worker in self.workers.values()}
        for namespace, name in wanted | here:
            self.want(namespace, name)

    def _wanted(self, namespace: str, name: str) -> bytes | Json | None:
        """What is to run under a name: the node's own pod, or one of its site that it runs in place of another."""
        key = (namespace, name)
        own: bytes | Json | None = self._desired.pods().get(key) or self._static.get(key)
        return self._takeover.others.document(*key) if own is None and self._takeover is not None else own

    def want(self, namespace: str, name: str) -> None:
        """Bring the workers of one name in line with the store."""
        value = self._wanted(namespace, name)
        named = [w for w in self.workers.values() if (w.ref.namespace, w.ref.name) == (namespace, name)]
        if value is None:
            for worker in named:
                worker.unwant()
                self._begin_worker(worker)
            return
        document: Json = {}
        try:
            document = value if isinstance(value, dict) else read_json(value, "pod")
            pod = parse_pod(document, namespace, name)
            self._check_unique(pod.ref)
        except InvalidPod as error:
            ref = identify(document, namespace, name)
            if ref.uid in self.workers and self.workers[ref.uid].ref != ref:
                ref = PodRef(namespace, name, made_up_uid(document, namespace, name))
            worker = self._worker(ref)
            worker.refuse(error.reason, str(error), deletion_grace_of(document))
            self._log.warn("pod {pod} cannot run here: {error}", pod=str(ref), error=str(error))
        else:
            worker = self._worker(pod.ref)
            if self._takeover is not None and isinstance(value, bytes):
                self._takeover.own.consider(worker, pod, document)
            worker.want(pod)
        for other in named:
            if other is not worker:
                other.unwant()
                self._begin_worker(other)
                worker.after = other
        self._begin_worker(worker)

    def _check_unique(self, ref: PodRef) -> None:
        other = self.workers.get(ref.uid)
        if other is not None and other.ref != ref:
            raise InvalidPod("InvalidPod", [f"metadata.uid: {ref.uid!r} is that of pod {other.ref}"])

    def _worker(self, ref: PodRef) -> Worker:
        worker = self.workers.get(ref.uid)
        if worker is None:
            worker = self.workers[ref.uid] = Worker(self.node, ref, self._previous.pop(ref.uid, None))
        return worker

    def _begin_worker(self, worker: Worker) -> None:
        if not worker.started:
            worker.start()

    def _pod_gone(self, ref: PodRef) -> None:
        """A worker is through: nothing of its pod is left. Whoever waits for the name goes on."""
        self.workers.pop(ref.uid, None)
        self._ports_changed()
        for worker in self.workers.values():
            if (worker.ref.namespace, worker.ref.name) == (ref.namespace, ref.name):
                worker.wake()
        if self._takeover is not None:
            self._takeover.gone(ref)
        if self._wanted(ref.namespace, ref.name) is not None:
            self.want(ref.namespace, ref.name)

    # -- for takeovers ------------------------------------------------------------------------------------------

    def worker(self, uid: str) -> Worker | None:
        return self.workers.get(uid)

    def is_own(self, namespace: str, name: str) -> bool:
        """Whether the node has a pod of its own of that name."""
        return (namespace, name) in self._desired.pods() or (namespace, name) in self._static

    def has_place(self) -> bool:
        return self.node.place is not None

    def files_changed(self, namespace: str) -> None:
        """ConfigMaps or Secrets of a namespace have changed."""
        for worker in self.workers.values():
            if worker.ref.namespace == namespace:
                worker.try_again(files=True)

    def reconsider(self) -> None:
        """Whether the node's own pods need leases may have changed."""
        if self._adopted and self._takeover is not None:
            self._want_all()

    # -- RuntimeObserver ----------------------------------------------------------------------------------------

    def connected(self) -> None:
        self._networks.forget()
        self._firewall.renew()
        Deferred.fromCoroutine(self._adopt()).addErrback(
            lambda failure: self._log.failure("looking at the containers failed", failure)
        )

    def disconnected(self, reason: str) -> None:
        self._node_reporter.engine(None, reason)

    def container_changed(self, container_id: str, what: str) -> None:
        if container_id in self._looking or not self._adopted:
            return
        self._looking.add(container_id)
        Deferred.fromCoroutine(self._look(container_id)).addErrback(
            lambda failure: self._log.failure("looking at container {id} failed", failure, id=container_id)
        )

    async def _look(self, container_id: str) -> None:
        self._looking.discard(container_id)
        try:
            view = await self._runtime.inspect(container_id)
        except NoSuchContainer:
            for worker in self.workers.values():
                worker.lost(container_id)
        except RuntimeUnavailable:
            return
        else:
            self._seen(view)

    def _seen(self, view: ContainerView) -> None:
        worker = self.workers.get(view.pod.uid)
        if worker is not None:
            worker.seen(view)

    async def _adopt(self) -> None:
        """Take over what runs: every container of ours belongs to a worker, wanted or not."""
        try:
            await self._read_containers()
            self._node_reporter.engine(await self._runtime.info(), "")
        except RuntimeUnavailable as error:
            # The runtime says so itself, and tells us when it is back.
            self._log.info("looking at the containers: {error}", error=str(error))
            return
        if not self._everything_known():
            # Before that, a container whose pod stands in the folder of manifests would look like nobody's.
            await _until(self._reactor, self._everything_known)
        if not self._adopted:
            self._adopted = True
            if self._takeover is not None:
                self._takeover.adopt()
            self._want_all()
            for uid, report in list(self._previous.items()):
                metadata = report.get("metadata") or {}
                ref = PodRef(str(metadata.get("namespace")), str(metadata.get("name")), uid)
                self.node.reports.forget_pod(ref)
            self._previous.clear()
            await self._drop_leftovers()
            self._resync.start(_RESYNC, now=False)
        self._wake_all()

    async def _read_containers(self) -> None:
        views = await self._runtime.list()
        found = {view.id for view in views}
        for view in views:
            if view.pod.uid not in self.workers and view.pod.uid:
                worker = self._worker(view.pod)
                worker.views[view.id] = view
                if self._adopted:
                    worker.unwant()
                    self._begin_worker(worker)
            self._seen(view)
        for worker in list(self.workers.values()):
            for container_id in set(worker.views) - found:
                worker.lost(container_id)

    async def _drop_leftovers(self) -> None:
        """Volumes of pods of which nothing else is left."""
        for uid in await self.node.files.run(self.node.volumes.uids) - set(self.workers):
            await self.node.files.run(self.node.volumes.remove, uid)

    def _relist(self) -> Deferred[None]:
        async def relist() -> None:
            try:
                await self._read_containers()
            except EngineError as error:
                self._log.info("the slow look at all containers failed: {error}", error=str(error))

        return Deferred.fromCoroutine(relist())

    # -- what is offered ----------------------------------------------------------------------------------------

    def pods(self) -> Sequence[Worker]:
        """All pods here, by namespace and name."""
        return sorted(self.workers.values(), key=lambda w: (w.ref.namespace, w.ref.name))

    def find(self, namespace: str, name: str) -> Worker | None:
        """The pod of a name; of two that follow each other, the wanted one."""
        found = [w for w in self.workers.values() if (w.ref.namespace, w.ref.name) == (namespace, name)]
        return max(found, key=lambda w: w.wanted, default=None)

    def kubelet_factory(self) -> KubeletFactory:
        """The kubelet API, to be served under :data:`appengine.kubelet.SERVICE` over streams."""
        factory = KubeletFactory(self)
        self._factories.append(factory)
        return factory

    def admin_resources(self) -> dict[str, Any]:
        """For the administration socket: the kubelet API for people on the device."""
        from appengine.adminresource import KubeletResource

        factory = KubeletFactory(self, as_json=True)
        self._factories.append(factory)
        resources: dict[str, Any] = {"kubelet": KubeletResource(factory)}
        if self._takeover is not None:
            from appengine.takeover.adminresource import TakeoverResource

            resources["takeover"] = TakeoverResource(self._takeover.status)
        return resources

    def status(self) -> Json:
        """For people: the pods and how they are."""
        return {
            "pods": [
                {"namespace": w.ref.namespace, "name": w.ref.name, "uid": w.ref.uid, "status": w.status}
                for w in sorted(self.workers.values(), key=lambda w: (w.ref.namespace, w.ref.name))
            ],
            "node": self._node_reporter.status,
        }


def _host_file(path: str) -> str:
    """A small file of the host's; where it cannot be read, an empty one."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(65536)
    except OSError:
        return ""


async def _until(reactor: Any, condition: Any) -> None:
    while not condition():
        await sleep(reactor, 0.05)
