"""Pods on a real container engine: what is asserted is seen in the containers, not in the calls made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv6Network

from twisted.internet.threads import deferToThread

from appengine.mounts import mounts_below, unmount
from appengine.testing import place
from tests.integration.engine_world import EngineTestCase, Json, pod_manifest


class PodTests(EngineTestCase):
    async def test_pod_with_config_map_runs_and_is_deleted(self) -> None:
        await self.put("configmaps", {"metadata": {"name": "settings"}, "data": {"color": "blue", "size": "7"}})
        pod = pod_manifest(
            "web",
            env=[
                {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}},
                {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "BOTH", "value": "$(COLOR) at $(POD_IP)"},
            ],
            volumeMounts=[{"name": "config", "mountPath": "/etc/config"}],
            spec={"volumes": [{"name": "config", "configMap": {"name": "settings"}}]},
        )
        await self.apply(pod)
        status = await self.running(pod)
        self.assertEqual(status["phase"], "Running")
        address = status["podIP"]
        self.assertTrue(address.startswith("10.192.7."), address)
        self.assertEqual(status["hostIP"], "10.250.0.2")
        self.assertEqual(await self.run_in(pod, "cat", "/etc/config/color"), "blue")
        self.assertEqual(await self.run_in(pod, "sh", "-c", "echo -n $BOTH"), f"blue at {address}")
        self.assertIn(f"inet {address}/24", await self.run_in(pod, "ip", "addr"))
        self.assertEqual((await self.run_in(pod, "hostname")).strip(), "web")
        self.assertTrue(self.namespace.ping(address))

        main = await self.container(pod)
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        pod["metadata"]["deletionGracePeriodSeconds"] = 5
        await self.apply(pod)

        async def gone() -> bool:
            return bool((await self.report(pod) or {}).get("gone"))

        await self.until(gone, "the pod is reported gone")
        self.assertEqual(await self.containers(pod), [], main["Id"])
        await self.delete("web")

        async def forgotten() -> bool:
            return await self.report(pod) is None

        await self.until(forgotten, "the record is removed")

    async def test_unsupported_field_is_refused_in_the_status(self) -> None:
        pod = pod_manifest("refused", spec={"runtimeClassName": "gvisor", "volumes": [{"name": "v", "nfs": {}}]})
        await self.apply(pod)
        status = await self.phase(pod, "Failed")
        self.assertEqual(status["reason"], "UnsupportedPodSpec")
        self.assertIn("spec.runtimeClassName", status["message"])
        self.assertEqual(await self.containers(pod), [])

    async def test_agent_restart_adopts(self) -> None:
        pod = pod_manifest("steady")
        await self.apply(pod)
        await self.running(pod)
        before = {c["Id"]: c["State"]["StartedAt"] for c in await self.containers(pod)}
        await self.stop_engine()
        self.start_engine()

        async def adopted() -> bool:
            assert self.engine is not None
            return any(worker.status.get("phase") == "Running" for worker in self.engine.workers.values())

        await self.until(adopted, "the pod is adopted")
        self.assertEqual({c["Id"]: c["State"]["StartedAt"] for c in await self.containers(pod)}, before)
        status = await self.running(pod)
        self.assertEqual(status["containerStatuses"][0]["restartCount"], 0)

    async def test_both_families(self) -> None:
        both = place("10.192.8.0/24")
        self.network.change(replace(both, pod_subnets=(*both.pod_subnets, IPv6Network("fd12:3456:789a:8::/64"))))
        pod = pod_manifest("dual")
        await self.apply(pod)
        addresses = [each["ip"] for each in (await self.running(pod))["podIPs"]]
        self.assertTrue(addresses[0].startswith("10.192.8."), addresses)
        self.assertTrue(addresses[1].startswith("fd12:3456:789a:8:"), addresses)
        for address in addresses:
            self.assertTrue(self.namespace.ping(address), address)

    async def test_changed_config_map_appears_atomically(self) -> None:
        await self.put("configmaps", {"metadata": {"name": "live"}, "data": {"a": "1", "b": "1"}})
        pod = pod_manifest(
            "watcher",
            volumeMounts=[{"name": "config", "mountPath": "/c"}],
            spec={"volumes": [{"name": "config", "configMap": {"name": "live"}}]},
        )
        await self.apply(pod)
        await self.running(pod)
        before = await self.container(pod)
        self.assertEqual(await self.run_in(pod, "sh", "-c", "cat /c/a /c/b; readlink /c/a"), "11..data/a\n")
        await self.put("configmaps", {"metadata": {"name": "live"}, "data": {"a": "2", "c": "2"}})

        async def changed() -> bool:
            return await self.run_in(pod, "sh", "-c", "ls /c; cat /c/a") == "a\nc\n2"

        await self.until(changed, "the change is seen in the container")
        self.assertEqual((await self.container(pod))["Id"], before["Id"])

    async def test_secret_is_on_tmpfs_and_missing_one_holds_the_pod(self) -> None:
        pod = pod_manifest(
            "keeper",
            volumeMounts=[{"name": "s", "mountPath": "/s"}],
            spec={"volumes": [{"name": "s", "secret": {"secretName": "key", "defaultMode": 0o400}}]},
        )
        await self.apply(pod)

        async def waiting() -> str:
            statuses = (await self.status(pod)).get("containerStatuses") or [{}]
            return str(statuses[0].get("state", {}).get("waiting", {}).get("message") or "")

        self.assertEqual(await self.until(waiting, "the pod says what it waits for"), 'secret "key" not found')
        await self.put("secrets", {"metadata": {"name": "key"}, "data": {"token": "aGVsbG8="}})
        await self.running(pod)
        self.assertEqual(await self.run_in(pod, "cat", "/s/token"), "hello")
        self.assertIn("tmpfs", await self.run_in(pod, "grep", " /s ", "/proc/mounts"))
        self.assertEqual((await self.run_in(pod, "stat", "-L", "-c", "%a", "/s/token")).strip(), "400")


class RestartTests(EngineTestCase):
    async def test_cold_boot_without_cloud(self) -> None:
        """Agent, engine and containers die; the pods come back from the store and the saved network alone."""
        await self.put("configmaps", {"metadata": {"name": "settings"}, "data": {"color": "blue"}})
        await self.put("secrets", {"metadata": {"name": "key"}, "data": {"token": "aGVsbG8="}})
        pods = [
            pod_manifest(
                f"cold-{n}",
                volumeMounts=[{"name": "c", "mountPath": "/c"}, {"name": "s", "mountPath": "/s"}],
                spec={
                    "volumes": [
                        {"name": "c", "configMap": {"name": "settings"}},
                        {"name": "s", "secret": {"secretName": "key"}},
                    ]
                },
            )
            for n in range(3)
        ]
        for pod in pods:
            await self.apply(pod)
        for pod in pods:
            await self.running(pod)
        await self.stop_engine()
        await deferToThread(self.docker.power_cut)
        for point in mounts_below(self.directory):
            unmount(point)
        for entry in (self.directory / "engine" / "memory").iterdir():
            self.fail(f"{entry} survived the power cut")
        await deferToThread(self.docker.start)
        removed = (await self.containers(pods[0], "main"))[0]["Id"]
        await self.ask(lambda client: client.containers.get(removed).remove(force=True))
        self.start_engine()
        for pod in pods:
            await self.until(self.serving(pod), f"{pod['metadata']['name']} is back")
            self.assertTrue(self.namespace.ping((await self.running(pod))["podIP"]))

    def serving(self, pod: Json) -> Callable[[], Awaitable[bool]]:
        async def serves() -> bool:
            found = [c for c in await self.containers(pod, "main") if c["State"]["Running"]]
            return bool(found) and await self.run_in(pod, "cat", "/c/color", "/s/token") == "bluehello"

        return serves

    async def test_killed_containers_come_back(self) -> None:
        pod = pod_manifest("phoenix")
        await self.apply(pod)
        await self.running(pod)
        first = await self.container(pod)
        await self.ask(lambda client: client.containers.get(first["Id"]).kill())

        async def restarted() -> Json | None:
            status = await self.status(pod)
            container = (status.get("containerStatuses") or [{}])[0]
            return container if container.get("restartCount") == 1 and container.get("ready") else None

        container = await self.until(restarted, "the container is restarted")
        self.assertEqual(container["lastState"]["terminated"]["exitCode"], 137)
        self.assertEqual(container["lastState"]["terminated"]["reason"], "Error")

        await self.ask(lambda client: client.containers.get(container["containerID"][9:]).kill())

        async def backing_off() -> Json | None:
            status = await self.status(pod)
            return (status["containerStatuses"][0]["state"].get("waiting")) or None

        waiting = await self.until(backing_off, "the second restart waits")
        self.assertEqual(waiting["reason"], "CrashLoopBackOff")
        self.assertIn("back-off 10s restarting failed container=main", waiting["message"])
        self.assertEqual((await self.status(pod))["phase"], "Running")
