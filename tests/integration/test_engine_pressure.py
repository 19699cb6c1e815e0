"""A real container engine's node short of memory or disk: what goes first, and what stays."""

from __future__ import annotations

from appengine.eviction import Thresholds
from appengine.node import Pace
from tests.integration.engine_world import EngineTestCase, Json, pod_manifest
from tests.lab.engine import BUSYBOX
from tests.lab.images import busybox_rootfs

# Under these a node is short of everything, whatever it has.
NO_MEMORY = Thresholds(memory_available=2**62)
NO_DISK = Thresholds(disk_available=2.0)
HOLDS_MEMORY = "dd if=/dev/zero of=/dev/shm/x bs=1M count={0} 2>/dev/null; touch /tmp/done; sleep 3600"
HOLDS_DISK = "dd if=/dev/zero of=/d/x bs=1M count={0} 2>/dev/null; touch /tmp/done; sleep 3600"


class PressureTests(EngineTestCase):
    async def start(self, *pods: Json) -> None:
        for pod in pods:
            await self.apply(pod)
        for pod in pods:
            await self.running(pod)
            await self.until(lambda pod=pod: self.done(pod), "its process has taken what it wants")  # type: ignore[misc]

    async def done(self, pod: Json) -> bool:
        return "exit" not in await self.run_in(pod, "ls", "/tmp/done")

    async def squeeze(self, thresholds: Thresholds) -> None:
        """The agent starts again, and finds the node under pressure."""
        await self.stop_engine()
        self.start_engine(thresholds=thresholds, pace=Pace(measure=1.0))

    async def evicted(self, *pods: Json) -> list[str]:
        """The names of pods in the order in which they are evicted, when all have been."""
        order: list[str] = []

        async def all_gone() -> bool:
            for pod in pods:
                name, status = pod["metadata"]["name"], await self.status(pod)
                if status.get("reason") == "Evicted" and name not in order:
                    order.append(name)
            return len(order) == len(pods)

        await self.until(all_gone, "all are evicted", 60)
        return order

    async def test_memory_by_use_and_priority(self) -> None:
        def holder(name: str, megabytes: int, priority: int, **resources: object) -> Json:
            command = ["sh", "-c", HOLDS_MEMORY.format(megabytes)]
            return pod_manifest(name, command=command, resources=resources, spec={"priority": priority})

        modest = holder("modest", 1, 0, requests={"memory": "64Mi"})
        precious = holder("precious", 24, 1000, requests={"memory": "8Mi"})
        greedy = holder("greedy", 24, 0, requests={"memory": "4Mi"})
        nibbling = holder("nibbling", 12, 0, requests={"memory": "4Mi"})
        await self.start(modest, precious, greedy, nibbling)
        ids = {pod["metadata"]["name"]: (await self.container(pod))["Id"] for pod in (modest, greedy)}
        await self.squeeze(NO_MEMORY)
        self.assertEqual(
            await self.evicted(modest, precious, greedy, nibbling), ["greedy", "nibbling", "precious", "modest"]
        )
        status = await self.status(greedy)
        self.assertEqual((status["phase"], status["message"]), ("Failed", "The node was low on resource: memory. "))

        async def stopped() -> bool:
            return not any(c["State"]["Running"] for c in await self.containers(greedy))

        await self.until(stopped, "its container is stopped")
        self.assertEqual((await self.containers(greedy, "main"))[0]["Id"], ids["greedy"])
        late = pod_manifest("late")
        await self.apply(late)
        self.assertIn("MemoryPressure", (await self.phase(late, "Failed"))["message"])
        self.assertEqual(await self.containers(late), [])

    async def test_disk_by_images_first(self) -> None:
        volumes = {"volumes": [{"name": "d", "emptyDir": {}}]}
        mounts = [{"name": "d", "mountPath": "/d"}]

        def filler(name: str, megabytes: int) -> Json:
            command = ["sh", "-c", HOLDS_DISK.format(megabytes)]
            return pod_manifest(name, command=command, spec=volumes, volumeMounts=mounts)

        for name in ("unused.example/app:1", "wanted.example/app:1"):
            await self.ask(lambda _, name=name: self.docker.load_image(name, busybox_rootfs(), [f"LABEL for={name}"]))  # type: ignore[misc]
        # Desired, but not started: its image must stay all the same.
        held = pod_manifest("held", image="wanted.example/app:1", envFrom=[{"configMapRef": {"name": "comes-later"}}])
        small, large = filler("small", 1), filler("large", 16)
        await self.apply(held)
        await self.start(small, large)

        async def known() -> bool:
            return bool((await self.status(held)).get("containerStatuses"))

        await self.until(known, "the pod that waits is known")
        await self.squeeze(NO_DISK)
        self.assertEqual(await self.evicted(large, small), ["large", "small"])
        names = await self.ask(lambda client: {tag for image in client.images.list() for tag in image.tags})
        self.assertNotIn("unused.example/app:1", names)
        self.assertLessEqual({"wanted.example/app:1", BUSYBOX}, names)
        await self.stop_engine()
        await self.ask(lambda client: client.images.remove("wanted.example/app:1", force=True))
