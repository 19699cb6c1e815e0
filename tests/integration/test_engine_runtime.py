"""Docker keeps the contract of runtimes, and what only a real engine can show."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from twisted.internet.threads import deferToThread
from twisted.trial import unittest

from appengine.dockerengine import DockerEngine
from appengine.runtime import NoSuchContainer, Runtime
from appengine.testing_contract import RuntimeContract
from tests.lab.engine import BUSYBOX, Engine
from tests.lab.namespace import Namespace
from tests.lab.world import SharedWorld


class DockerRuntimeTests(SharedWorld, RuntimeContract, unittest.TestCase):
    timeout = 60
    image = BUSYBOX
    docker: Engine

    @classmethod
    def build_world(cls) -> None:
        cls.docker = cls.keep(Engine(cls.keep(Namespace("edge"))))

    def setUp(self) -> Any:
        super().setUp()
        return self.begun

    async def make_runtime(self) -> Runtime:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.addCleanup(lambda: deferToThread(self.clean))
        return DockerEngine(reactor, self.docker.url, self.network, "edge-1")

    def clean(self) -> None:
        with closing(self.docker.client()) as client:
            for container in client.containers.list(all=True, ignore_removed=True):
                container.remove(force=True)
            for network in client.networks.list(names=["contract"]):
                network.remove()

    async def test_others_are_not_seen(self) -> None:
        def start(client: Any) -> str:
            return str(client.containers.run(BUSYBOX, ["sleep", "99"], detach=True).id)

        with closing(await deferToThread(self.docker.client)) as client:
            other = await deferToThread(start, client)
        self.assertEqual([*await self.runtime.list()], [])
        try:
            await self.runtime.inspect(other)
        except NoSuchContainer as error:
            self.assertIn("not ours", str(error))
        else:
            self.fail("the container is somebody else's")
        self.assertNotIn(other, [identity for identity, _ in self.watcher.events])

    async def test_command_that_takes_too_long(self) -> None:
        identity = await self.runtime.create(self.config())
        await self.runtime.start_container(identity)
        try:
            await self.runtime.execute(identity, ["sleep", "30"], 0.5)
        except TimeoutError as error:
            self.assertIn("0.5s", str(error))
        else:
            self.fail("it came back")

    async def test_the_pause_program_runs_and_reaps(self) -> None:
        from appengine.images import Images

        reference = await Images(self.reactor, self.runtime).pause()
        identity = await self.runtime.create(self.config(image=reference, command=None))
        await self.runtime.start_container(identity)
        view = await self.runtime.inspect(identity)
        self.assertTrue(view.running)

        def ignored() -> int:
            with open(f"/proc/{view.pid}/status") as file:
                return next(int(line.split()[1], 16) for line in file if line.startswith("SigIgn:"))

        # SIGCHLD, 17 on this architecture: its orphans leave no zombies.
        await self._until(lambda: bool(ignored() & 1 << 16), "it ignores SIGCHLD")
