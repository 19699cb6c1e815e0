"""An edge node's engine in a test's own reactor, on a real container engine in a namespace of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TypeVar
from uuid import uuid4

from docker.errors import APIError, NotFound
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial import unittest

from appengine.mounts import mounts_below, unmount
from appengine.runtime import Runtime
from appengine.service import Engine as PodEngine
from appengine.testing import FixedNetwork, NoFirewall, place
from metasync.keys import NodeKeys
from metasync.model import Delete, KeyRange, Put
from metasync.sqlite import SQLiteStore
from tests.lab.engine import BUSYBOX, Engine
from tests.lab.namespace import Namespace
from tests.lab.world import SharedWorld

T = TypeVar("T")
Json = dict[str, Any]
SLEEP = ["sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait"]


def pod_manifest(
    name: str, *, uid: str = "", command: Sequence[str] = SLEEP, spec: Json | None = None, **container: Any
) -> Json:
    """A v1 Pod with one container, ``main``."""
    main = {"name": "main", "image": BUSYBOX, "command": list(command), **container}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": uid or str(uuid4()), "labels": {"app": name}},
        "spec": {"containers": [main], "terminationGracePeriodSeconds": 5, **(spec or {})},
    }


def remove_all(engine: Engine) -> None:
    """Remove all containers, several at once, and the pods' network."""
    with closing(engine.client()) as client, ThreadPoolExecutor(4) as threads:

        def remove(each: Any) -> None:
            # The pod engine may have asked for the same just before it stopped.
            try:
                client.api.remove_container(each["Id"], force=True)
            except NotFound:
                return
            except APIError as error:
                if "already in progress" not in str(error):
                    raise

        list(threads.map(remove, client.api.containers(all=True)))
        for network in client.networks.list(names=["kubebus-default"]):
            network.remove()


class EngineTestCase(SharedWorld, unittest.TestCase):
    """One container engine for the class, one pod engine and one store for each test."""

    timeout = 90
    namespace: Namespace
    docker: Engine
    options: Json = {}

    @classmethod
    def build_world(cls) -> None:
        cls.namespace = cls.keep(Namespace("edge"))
        cls.docker = cls.keep(Engine(cls.namespace, **cls.options))

    def setUp(self) -> None:
        super().setUp()
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.directory = Path(mkdtemp(prefix="kubebus-engine-"))
        self.addCleanup(self.remove_directory)
        self.keys = NodeKeys("default", "edge-1")
        self.network = FixedNetwork(place("10.192.7.0/24"))
        self.addCleanup(lambda: deferToThread(self.remove_containers))
        self.engine: PodEngine | None = None
        return Deferred.fromCoroutine(self.begin())  # type: ignore[return-value]

    async def begin(self) -> None:
        self.store = SQLiteStore.open(self.reactor, self.directory / "store.db")
        self.addCleanup(lambda: Deferred.fromCoroutine(self.store.close()))
        self.start_engine()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.stop_engine()))

    def start_engine(self, **options: Any) -> PodEngine:
        self.engine = PodEngine(
            self.reactor,
            self.store,
            "default",
            "edge-1",
            self.docker.url,
            self.network,
            self.directory / "engine",
            # This process is not in the node's namespace.
            firewall=NoFirewall(),
            runtime=self.make_runtime(),
            **options,
        )
        self.engine.startService()
        return self.engine

    def make_runtime(self) -> Runtime | None:
        """Another than the pod engine makes for itself."""
        return None

    async def stop_engine(self) -> None:
        if self.engine is not None:
            engine, self.engine = self.engine, None
            await engine.stopService()

    def remove_directory(self) -> None:
        for point in mounts_below(self.directory):
            unmount(point)
        shutil.rmtree(self.directory)

    def remove_containers(self) -> None:
        remove_all(self.docker)

    # -- the store ----------------------------------------------------------------------------------------------

    async def put(self, plural: str, document: Json) -> None:
        metadata = document["metadata"]
        key = self.keys.desired_object(plural, metadata.get("namespace", "default"), metadata["name"])
        await self.store.txn([], [Put(key, json.dumps(document).encode())])

    async def apply(self, pod: Json) -> None:
        await self.put("pods", pod)

    async def delete(self, name: str) -> None:
        await self.store.txn([], [Delete.single(self.keys.desired_object("pods", "default", name))])

    async def report(self, pod: Json) -> Json | None:
        metadata = pod["metadata"]
        key = self.keys.reported_pod("default", metadata["name"], metadata["uid"])
        found = await self.store.range(KeyRange.single(key))
        return json.loads(found.kvs[0].value) if found.kvs else None

    async def status(self, pod: Json) -> Json:
        return ((await self.report(pod)) or {}).get("status") or {}

    # -- waiting ------------------------------------------------------------------------------------------------

    async def until(self, condition: Callable[[], Awaitable[Any]], what: str, seconds: float = 30) -> Any:
        """Await what ``condition`` (a coroutine function) gives, until it is true."""
        deadline = self.reactor.seconds() + seconds
        while True:
            seen = await condition()
            if seen:
                return seen
            if self.reactor.seconds() > deadline:
                self.fail(f"not within {seconds:g} s: {what}; reported: {await self.everything()}")
            pause: Deferred[None] = Deferred()
            self.reactor.callLater(0.05, pause.callback, None)
            await pause

    async def everything(self) -> str:
        found = await self.store.range(KeyRange.prefix(f"{self.keys.reported}pods/".encode()))
        return "\n".join(kv.value.decode() for kv in found.kvs)

    async def phase(self, pod: Json, phase: str, seconds: float = 30) -> Json:
        async def reached() -> Json | None:
            status = await self.status(pod)
            return status if status.get("phase") == phase else None

        return await self.until(reached, f"{pod['metadata']['name']} {phase}", seconds)  # type: ignore[no-any-return]

    async def running(self, pod: Json, seconds: float = 30) -> Json:
        async def ready() -> Json | None:
            status = await self.status(pod)
            conditions = {c["type"]: c["status"] for c in status.get("conditions") or ()}
            return status if conditions.get("Ready") == "True" else None

        return await self.until(ready, f"{pod['metadata']['name']} Ready", seconds)  # type: ignore[no-any-return]

    # -- the container engine -----------------------------------------------------------------------------------

    async def ask(self, question: Callable[[Any], T]) -> T:
        """Ask the container engine, in a thread."""

        def asked() -> T:
            with closing(self.docker.client()) as client:
                return question(client)

        return await deferToThread(asked)

    async def containers(self, pod: Json, name: str = "") -> list[Any]:
        """Attributes of the pod's containers as the engine has them."""
        uid = pod["metadata"]["uid"]

        def listed(client: Any) -> list[Any]:
            marks = [f"io.kubernetes.pod.uid={uid}"] + ([f"io.kubernetes.container.name={name}"] if name else [])
            return [c.attrs for c in client.containers.list(all=True, filters={"label": marks}, ignore_removed=True)]

        return await self.ask(listed)

    async def container(self, pod: Json, name: str = "main") -> Any:
        """The one running container of a name."""
        found = [c for c in await self.containers(pod, name) if c["State"]["Running"]]
        self.assertEqual(len(found), 1, f"running containers {name} of {pod['metadata']['name']}")
        return found[0]

    async def run_in(self, pod: Json, *command: str, name: str = "main") -> str:
        """The output of a command in a container."""
        identity = (await self.container(pod, name))["Id"]

        def run(client: Any) -> str:
            result = client.containers.get(identity).exec_run(list(command))
            return (
                f"{result.output.decode()}"
                if result.exit_code == 0
                else f"exit {result.exit_code}: {result.output.decode()}"
            )

        return await self.ask(run)
