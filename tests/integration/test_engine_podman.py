"""Podman's Docker-compatible socket instead of Docker: the same contract, and a whole pod."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

import docker
from twisted.internet.threads import deferToThread
from twisted.trial import unittest

from appengine.dockerengine import DockerEngine
from appengine.mounts import mounts_below, unmount
from appengine.runtime import Runtime
from appengine.testing_contract import RuntimeContract
from tests.integration.engine_world import EngineTestCase, pod_manifest
from tests.lab.daemon import Daemon
from tests.lab.images import busybox_rootfs
from tests.lab.namespace import Namespace
from tests.lab.state import Run
from tests.lab.world import SharedWorld

MISSING = [
    tool
    for tool in ("podman", "netavark", "runc")
    if not (shutil.which(tool) or Path("/usr/lib/podman", tool).exists())
]
SKIP = f"{', '.join(MISSING)} missing: apt-get install podman netavark" if MISSING else None
IMAGE = "localhost/busybox:lab"

# Plain limits: not every machine lets a container have Podman's own.
_CONF = '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'


class Podman:
    """Podman's API service in a namespace, all state its own; as much of the lab's Engine as is needed."""

    def __init__(self, namespace: Namespace) -> None:
        self.path = Run.current().directory("podman")
        self.socket = self.path / "podman.sock"
        (self.path / "containers.conf").write_text(_CONF)
        options = ["--root", f"{self.path}/root", "--runroot", f"{self.path}/run", "--tmpdir", f"{self.path}/tmp"]
        options += ["--cgroup-manager=cgroupfs", "--runtime=runc", "--events-backend=file", "--storage-driver=vfs"]
        options += ["--network-backend=netavark", "--network-config-dir", f"{self.path}/networks"]
        self.daemon = Daemon(
            "podman",
            ["podman", *options, "system", "service", "-t", "0", self.url],
            namespace=namespace,
            env={"CONTAINERS_CONF": str(self.path / "containers.conf"), "HOME": str(self.path)},
        )

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def client(self) -> docker.DockerClient:
        return docker.DockerClient(base_url=self.url, timeout=60)

    def remove_everything(self, network: str) -> None:
        with closing(self.client()) as client:
            for container in client.containers.list(all=True, ignore_removed=True):
                container.remove(force=True)
            for known in client.networks.list(names=[network]):
                known.remove()

    def __enter__(self) -> Podman:
        self.daemon.start()
        self.daemon.wait_for(lambda: self.socket.exists(), 20)
        with closing(self.client()) as client:
            client.api.import_image_from_file(str(busybox_rootfs()), repository=IMAGE, changes=['CMD ["sh"]'])
        return self

    def _end_monitors(self) -> None:
        """The monitors of processes that ran in containers stay for minutes, and would make the folders anew."""
        marker = os.fsencode(self.path)
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and marker in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                continue

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.daemon.close()
        self._end_monitors()
        for point in mounts_below(self.path):
            unmount(point)
        shutil.rmtree(self.path, ignore_errors=True)


class PodmanRuntimeTests(SharedWorld, RuntimeContract, unittest.TestCase):
    skip = SKIP
    timeout = 60
    image = IMAGE
    podman: Podman

    @classmethod
    def build_world(cls) -> None:
        cls.podman = cls.keep(Podman(cls.keep(Namespace("edge"))))

    def setUp(self) -> Any:
        super().setUp()
        return self.begun

    async def make_runtime(self) -> Runtime:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.addCleanup(lambda: deferToThread(self.podman.remove_everything, "contract"))
        return DockerEngine(reactor, self.podman.url, self.network, "edge-1")


class PodmanPodTests(EngineTestCase):
    skip = SKIP

    @classmethod
    def build_world(cls) -> None:
        cls.namespace = cls.keep(Namespace("edge"))
        cls.docker = cls.keep(Podman(cls.namespace))  # type: ignore[assignment]

    def remove_containers(self) -> None:
        self.docker.remove_everything("kubebus-default")  # type: ignore[attr-defined]

    async def test_a_pod(self) -> None:
        await self.put("configmaps", {"metadata": {"name": "settings"}, "data": {"color": "blue"}})
        pod = pod_manifest(
            "web",
            image=IMAGE,
            livenessProbe={"exec": {"command": ["true"]}, "periodSeconds": 1},
            volumeMounts=[{"name": "config", "mountPath": "/etc/config"}],
            spec={"volumes": [{"name": "config", "configMap": {"name": "settings"}}]},
        )
        await self.apply(pod)
        address = (await self.running(pod))["podIP"]
        self.assertTrue(address.startswith("10.192.7."), address)
        self.assertTrue(self.namespace.ping(address))
        self.assertEqual(await self.run_in(pod, "cat", "/etc/config/color"), "blue")
        first = await self.container(pod)
        await self.ask(lambda client: client.containers.get(first["Id"]).kill())

        async def restarted() -> bool:
            return bool((await self.status(pod))["containerStatuses"][0]["restartCount"] == 1)

        await self.until(restarted, "the container is restarted")
        await self.running(pod)
        await self.delete("web")

        async def gone() -> bool:
            return await self.report(pod) is None

        await self.until(gone, "the pod is gone")
        self.assertEqual(await self.containers(pod), [])
