# mypy: disallow-untyped-calls=False
"""The contract that every :class:`appengine.runtime.Runtime` keeps, as a mixin for a trial ``TestCase``."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from appengine import labels
from appengine.pauseimage import pause_layer
from appengine.podspec import Kind, PodRef
from appengine.runtime import (
    ContainerConfig,
    ContainerState,
    LogOptions,
    NetworkConfig,
    NoSuchContainer,
    NoSuchImage,
    Runtime,
)
from appengine.waiting import sleep

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase as _Base
else:
    _Base = object

_PATIENCE = 15.0


class Watcher:
    """A :class:`appengine.runtime.RuntimeObserver` that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.up = False

    def container_changed(self, container_id: str, what: str) -> None:
        self.events.append((container_id, what))

    def connected(self) -> None:
        self.up = True

    def disconnected(self, reason: str) -> None:
        self.up = False


class _Reader:
    def __init__(self) -> None:
        self.data = b""
        self.over = False

    def output(self, stream: int, data: bytes) -> None:
        self.data += data

    def ended(self, error: Exception | None) -> None:
        self.over = True


class RuntimeContract(_Base):
    """What all runtimes do alike. Set ``reactor``, ``network`` and ``image`` (with a shell), and make a runtime."""

    reactor: Any
    network = "contract"
    image: str
    runtime: Runtime

    async def make_runtime(self) -> Runtime:
        """One that knows :attr:`image` and nothing else; cleaned up by the test case."""
        raise NotImplementedError

    def setUp(self) -> Any:
        super().setUp()
        self.watcher = Watcher()
        self.begun: Deferred[None] = Deferred.fromCoroutine(self._begin())
        return self.begun

    async def _begin(self) -> None:
        self.runtime = await self.make_runtime()
        self.runtime.start(self.watcher)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.runtime.stop()))
        await self._until(lambda: self.watcher.up, "it is connected")

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = self.reactor.seconds() + _PATIENCE
        while not condition():
            if self.reactor.seconds() > deadline:
                self.fail(f"not in time: {what}; events: {self.watcher.events}")
            await sleep(self.reactor, 0.02)

    def config(self, name: str = "main", attempt: int = 0, **fields: Any) -> ContainerConfig:
        ref = PodRef("default", "web", "uid-1")
        marks = {
            **labels.pod_labels(self.network, "edge-1", ref, 7),
            labels.KIND: Kind.APP.value,
            labels.CONTAINER_NAME: name,
            labels.ATTEMPT: str(attempt),
            labels.SPEC_HASH: "hash",
            labels.SANDBOX: "sandbox",
        }
        given: dict[str, Any] = {"image": self.image, "command": ("sh", "-c", "trap 'exit 0' TERM; sleep 99 & wait")}
        given["labels"] = marks
        return ContainerConfig(labels.container_name(ref, name, attempt), **{**given, **fields})

    async def test_life_of_a_container(self) -> None:
        identity = await self.runtime.create(self.config(attempt=3))
        view = await self.runtime.inspect(identity)
        self.assertIs(view.state, ContainerState.CREATED)
        self.assertEqual((view.pod, view.name, view.kind), (PodRef("default", "web", "uid-1"), "main", Kind.APP))
        self.assertEqual((view.attempt, view.spec_hash, view.sandbox), (3, "hash", "sandbox"))
        await self.runtime.start_container(identity)
        view = await self.runtime.inspect(identity)
        self.assertTrue(view.running and view.started_at > 0 and view.pid > 0)
        await self._until(lambda: (identity, "start") in self.watcher.events, "the start is told")
        self.assertEqual([known.id for known in await self.runtime.list()], [identity])
        await self.runtime.signal(identity, "SIGKILL")
        await self._until(lambda: (identity, "die") in self.watcher.events, "the end is told")
        view = await self.runtime.inspect(identity)
        self.assertEqual((view.state, view.exit_code), (ContainerState.EXITED, 137))
        self.assertGreater(view.finished_at, 0)
        await self.runtime.start_container(identity)
        self.assertTrue((await self.runtime.inspect(identity)).running)
        await self.runtime.remove(identity)
        await self._until(lambda: (identity, "destroy") in self.watcher.events, "the removal is told")
        self.assertEqual([*await self.runtime.list()], [])

    async def test_what_is_gone(self) -> None:
        identity = await self.runtime.create(self.config())
        await self.runtime.signal(identity, "SIGTERM")
        await self.runtime.remove(identity)
        await self.runtime.remove(identity)
        for asked in (self.runtime.inspect, self.runtime.start_container):
            try:
                await asked(identity)
            except NoSuchContainer:
                continue
            self.fail("there is no such container")

    async def test_making_one_twice_leaves_one(self) -> None:
        first = await self.runtime.create(self.config())
        second = await self.runtime.create(self.config())
        self.assertNotEqual(first, second)
        self.assertEqual([view.id for view in await self.runtime.list()], [second])
        await self.runtime.start_container(second)
        try:
            await self.runtime.create(self.config())
        except Exception as error:
            self.assertIn("there already", str(error))
        else:
            self.fail("one that runs was replaced")

    async def test_images(self) -> None:
        for asked in (
            lambda: self.runtime.image("no.example/none:1"),
            lambda: self.runtime.create(self.config(image="no.example/none:1")),
        ):
            try:
                await asked()
            except NoSuchImage:
                continue
            self.fail("there is no such image")
        info = await self.runtime.info()
        await self.runtime.import_image(pause_layer(info.architecture), "kubebus/pause", "1", "/pause")
        image = await self.runtime.image("kubebus/pause:1")
        self.assertEqual(image.entrypoint, ("/pause",))
        self.assertIn(image.id, [known.id for known in await self.runtime.images()])

    async def test_network_gives_addresses(self) -> None:
        subnet = ip_network("10.192.31.0/24")
        config = NetworkConfig("contract", (subnet,), 1400, "contract0")
        self.assertTrue(await self.runtime.ensure_network(config))
        self.assertFalse(await self.runtime.ensure_network(config))
        changed = NetworkConfig("contract", (ip_network("10.192.32.0/24"),), 1400, "contract0")
        self.assertTrue(await self.runtime.ensure_network(changed))
        marks = {**self.config().labels, labels.KIND: Kind.PAUSE.value}
        identity = await self.runtime.create(self.config(labels=marks, network="contract"))
        await self.runtime.start_container(identity)
        (address,) = (await self.runtime.inspect(identity)).addresses
        self.assertIn(ip_address(address), ip_network("10.192.32.0/24"))

    async def test_processes(self) -> None:
        identity = await self.runtime.create(self.config())
        await self.runtime.start_container(identity)
        self.assertEqual((await self.runtime.execute(identity, ["true"], 10)).exit_code, 0)
        self.assertEqual((await self.runtime.execute(identity, ["false"], 10)).exit_code, 1)
        self.assertGreaterEqual((await self.runtime.stats(identity)).memory, 0)

    async def test_log(self) -> None:
        identity = await self.runtime.create(self.config())
        await self.runtime.start_container(identity)
        reader = _Reader()
        session = await self.runtime.log_session(await self.runtime.inspect(identity), LogOptions(), reader)
        session.close()
