"""The container engine hangs, dies and comes back; the agent is killed: what ran goes on, and nothing is doubled."""

from __future__ import annotations

import time
from typing import Any

from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThread

from appengine.dockerconnection import Patience
from appengine.dockerengine import DockerEngine
from appengine.runtime import Runtime
from metasync.model import KeyRange
from tests.integration.engine_world import EngineTestCase, Json, pod_manifest


class EngineRestartTestCase(EngineTestCase):
    def make_runtime(self) -> Runtime:
        return DockerEngine(self.reactor, self.docker.url, "default", "edge-1", Patience(1.0, 3.0))

    async def node_ready(self) -> tuple[str, str, str]:
        found = await self.store.range(KeyRange.single(self.keys.reported_node))
        if not found.kvs:
            return ("", "", "")
        import json

        conditions = json.loads(found.kvs[0].value)["status"]["conditions"]
        ready = next(c for c in conditions if c["type"] == "Ready")
        return ready["status"], ready["reason"], ready["message"]

    async def until_ready(self, value: str, seconds: float = 60) -> tuple[str, str, str]:
        async def reached() -> tuple[str, str, str] | None:
            ready = await self.node_ready()
            return ready if ready[0] == value else None

        found: tuple[str, str, str] = await self.until(reached, f"Ready is {value}", seconds)
        return found

    async def snapshot(self, *pods: Json) -> dict[str, tuple[str, bool]]:
        """Container → (its process's start, whether it runs)."""
        found = {}
        for pod in pods:
            for container in await self.containers(pod):
                found[container["Id"]] = (container["State"]["StartedAt"], container["State"]["Running"])
        return found

    async def start(self, *pods: Json) -> None:
        for pod in pods:
            await self.apply(pod)
        for pod in pods:
            await self.running(pod)


class WithoutLiveRestoreTests(EngineRestartTestCase):
    async def test_restart_of_the_engine(self) -> None:
        """The containers go down with the engine; they come back as they were, not as new ones."""
        pods = [pod_manifest("one"), pod_manifest("two")]
        await self.start(*pods)
        before = await self.snapshot(*pods)
        await deferToThread(self.docker.stop)
        await self.until_ready("False")
        await deferToThread(self.docker.start)
        await self.until_ready("True")
        for pod in pods:

            async def back(pod: Json = pod) -> bool:
                return all(c["State"]["Running"] for c in await self.containers(pod))

            await self.until(back, "all containers run again")
            status = await self.running(pod)
            self.assertEqual(status["containerStatuses"][0]["restartCount"], 0)
            self.assertTrue(self.namespace.ping(status["podIP"]))
        self.assertEqual(set(await self.snapshot(*pods)), set(before))

    async def test_kill_9_of_the_engine(self) -> None:
        pod = pod_manifest("one")
        await self.start(pod)
        before = set(await self.snapshot(pod))
        await deferToThread(self.docker.kill9)
        await self.until_ready("False")
        await deferToThread(self.docker.start)
        await self.until_ready("True")

        async def back() -> bool:
            seen = await self.snapshot(pod)
            return all(running for _, running in seen.values()) and set(seen) == before

        await self.until(back, "the same containers run")

    async def test_hanging_engine(self) -> None:
        """A stopped dockerd accepts connections and answers nothing: nobody waits for it on the reactor."""
        pod = pod_manifest("one", livenessProbe={"exec": {"command": ["true"]}, "periodSeconds": 1})
        await self.start(pod)
        before = await self.snapshot(pod)
        late: list[float] = []
        due = [time.monotonic()]

        def tick() -> None:
            late.append(time.monotonic() - due[0])
            due[0] = time.monotonic() + 0.05

        ticking = LoopingCall(tick)
        ticking.start(0.05)
        self.docker.suspend()
        try:
            ready = await self.until_ready("False")
            self.assertEqual(ready[1], "ContainerRuntimeNotReady")
            await self.apply(pod_manifest("meanwhile"))
        finally:
            self.docker.resume()
            ticking.stop()
        self.assertLess(max(late), 1.0, "the reactor was held up")
        await self.until_ready("True")
        self.assertEqual(await self.snapshot(pod), before)
        self.assertEqual((await self.running(pod))["containerStatuses"][0]["restartCount"], 0)

        async def other() -> bool:
            found = await self.ask(
                lambda client: client.containers.list(filters={"label": "io.kubernetes.pod.name=meanwhile"})
            )
            return len(found) == 2

        await self.until(other, "the pod that came meanwhile runs")


class LiveRestoreTests(EngineRestartTestCase):
    options: Json = {"live_restore": True}

    async def test_restart_of_the_engine_touches_nothing(self) -> None:
        pods = [pod_manifest("one"), pod_manifest("two")]
        await self.start(*pods)
        before = await self.snapshot(*pods)
        await deferToThread(self.docker.dockerd.stop, 60)
        await self.until_ready("False")
        await deferToThread(self.docker.start)
        await self.until_ready("True")
        self.assertEqual(await self.snapshot(*pods), before)
        for pod in pods:
            status = await self.running(pod)
            self.assertEqual(status["containerStatuses"][0]["restartCount"], 0)

    async def test_container_that_died_meanwhile_is_restarted(self) -> None:
        pods = [pod_manifest("one"), pod_manifest("two")]
        await self.start(*pods)
        before = await self.snapshot(pods[1])
        pid: Any = (await self.container(pods[0]))["State"]["Pid"]
        await deferToThread(self.docker.dockerd.stop, 60)
        import os
        import signal

        os.kill(pid, signal.SIGKILL)
        await deferToThread(self.docker.start)

        async def restarted() -> bool:
            return int((await self.status(pods[0]))["containerStatuses"][0]["restartCount"]) == 1

        await self.until(restarted, "it is restarted, and counted")
        self.assertEqual(await self.snapshot(pods[1]), before)
