"""The engine against a runtime in memory: what is started, restarted, stopped and reported."""

from __future__ import annotations

import itertools
import json
from typing import Any

from tests.unit.appengine.world import EngineWorld, pod_manifest


class RunTests(EngineWorld):
    def test_runs_a_pod_and_reports_it(self) -> None:
        pod = pod_manifest()
        self.apply(pod)
        status = self.status(pod)
        self.assertEqual(status["phase"], "Running")
        self.assertEqual(self.condition(pod, "Ready"), "True")
        self.assertTrue(status["podIP"].startswith("10.192.7."))
        self.assertEqual(status["hostIP"], "10.250.0.2")
        self.assertEqual(status["qosClass"], "BestEffort")
        main = self.named()
        self.assertEqual(self.runtime.configs[main.id].network, f"container:{self.named('POD').id}")
        self.assertEqual(self.container_status(pod)["containerID"], f"docker://{main.id}")
        self.assertFalse(self.report(pod)["gone"])  # type: ignore[index]

    def test_pods_wait_for_the_network_and_say_so(self) -> None:
        self.stop()
        self.network.place = None
        self.start()
        pod = pod_manifest()
        self.apply(pod)
        waiting = self.container_status(pod)["state"]["waiting"]
        self.assertIn("never reached a router", waiting["message"])
        from appengine.testing import place

        self.network.change(place("10.192.9.0/24"))
        self.settle()
        self.assertTrue(self.status(pod)["podIP"].startswith("10.192.9."))

    def test_new_subnet_gives_new_addresses(self) -> None:
        pod = pod_manifest()
        self.apply(pod)
        from appengine.testing import place

        self.network.change(place("10.192.9.0/24"))
        self.settle(3)
        self.assertTrue(self.status(pod)["podIP"].startswith("10.192.9."), self.status(pod))
        self.assertEqual(self.status(pod)["phase"], "Running")

    def test_command_and_environment_are_expanded(self) -> None:
        self.put("configmaps", {"metadata": {"name": "settings"}, "data": {"color": "blue"}})
        self.apply(
            pod_manifest(
                env=[
                    {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}},
                    {"name": "LATER", "value": "$(COLOR)-$(NOT_THERE)-$$(COLOR)"},
                ],
                command=["run", "$(COLOR)"],
                args=["--x=$(LATER)"],
            )
        )
        config = self.runtime.configs[self.named().id]
        self.assertEqual(config.command, ("run", "blue"))
        self.assertEqual(config.args, ("--x=blue-$(NOT_THERE)-$(COLOR)",))
        self.assertIn("LATER=blue-$(NOT_THERE)-$(COLOR)", config.env)

    def test_services_that_are_known_when_a_container_is_made(self) -> None:
        def service(namespace: str, name: str, **spec: object) -> dict[str, Any]:
            return {"metadata": {"namespace": namespace, "name": name}, "spec": {"clusterIP": "10.96.0.9", **spec}}

        https, web = {"name": "https", "port": 443, "protocol": "TCP"}, {"port": 80}
        self.put("services", service("default", "kubernetes", clusterIP="10.96.0.1", ports=[https]))
        self.put("services", service("default", "web-shop", clusterIP="fd96::9", ports=[web, {**https, "name": "t-s"}]))
        self.put("services", service("default", "headless", clusterIP="None", ports=[web]))
        self.put("services", service("default", "broken", ports=[{"port": "x"}]))
        self.put("services", service("elsewhere", "other", ports=[web]))
        self.apply(
            pod_manifest("linked", env=[{"name": "URL", "value": "$(WEB_SHOP_PORT)"}]),
            pod_manifest("plain", spec={"enableServiceLinks": False}),
        )
        made = [view for view in self.runtime.containers.values() if view.name == "main"]
        env = {view.pod.name: set(self.runtime.configs[view.id].env) for view in made}
        api = {
            "KUBERNETES_SERVICE_HOST=10.96.0.1",
            "KUBERNETES_SERVICE_PORT=443",
            "KUBERNETES_SERVICE_PORT_HTTPS=443",
            "KUBERNETES_PORT=tcp://10.96.0.1:443",
            "KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443",
            "KUBERNETES_PORT_443_TCP_PROTO=tcp",
            "KUBERNETES_PORT_443_TCP_PORT=443",
            "KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1",
        }
        self.assertLessEqual(api, env["plain"])
        self.assertFalse([each for each in env["plain"] if each.startswith("WEB_SHOP")])
        shop = {"WEB_SHOP_SERVICE_HOST=fd96::9", "WEB_SHOP_SERVICE_PORT=80", "WEB_SHOP_SERVICE_PORT_T_S=443"}
        self.assertLessEqual(api | shop | {"URL=tcp://[fd96::9]:80"}, env["linked"])
        self.assertFalse([each for each in env["linked"] if each.startswith(("HEADLESS", "BROKEN", "OTHER"))])

    def test_missing_config_map_is_named_and_awaited(self) -> None:
        pod = pod_manifest(envFrom=[{"configMapRef": {"name": "settings"}}])
        self.apply(pod)
        waiting = self.container_status(pod)["state"]["waiting"]
        self.assertEqual(waiting, {"reason": "CreateContainerConfigError", "message": 'configmap "settings" not found'})
        self.put("configmaps", {"metadata": {"name": "settings"}, "data": {"A": "1"}})
        self.assertEqual(self.status(pod)["phase"], "Running")
        self.assertIn("A=1", self.runtime.configs[self.named().id].env)


class RestartTests(EngineWorld):
    def test_back_off_doubles_from_ten_seconds(self) -> None:
        pod = pod_manifest()
        self.apply(pod)
        self.runtime.end(self.named(), 1)
        self.settle()
        self.assertEqual(self.container_status(pod)["restartCount"], 1)
        for attempt, wait in ((1, 10), (2, 20), (3, 40)):
            self.runtime.end(self.named(), 1)
            self.settle(wait - 1)
            self.assertEqual(self.named().attempt, attempt)
            waiting = self.container_status(pod)["state"]["waiting"]
            self.assertEqual(waiting["reason"], "CrashLoopBackOff")
            self.assertIn(f"back-off {wait}s restarting", waiting["message"])
            self.settle(2)
            self.assertEqual(self.named().attempt, attempt + 1)

    def test_a_container_that_cannot_start_is_tried_at_longer_and_longer_intervals(self) -> None:
        tries: list[float] = []
        start = self.runtime.start_container

        async def counted(container_id: str) -> None:
            if self.runtime.containers[container_id].name == "main":
                tries.append(self.clock.seconds())
            await start(container_id)

        self.patch(self.runtime, "start_container", counted)
        self.runtime.refuse_start["main"] = "no such file"
        pod = pod_manifest()
        self.apply(pod)
        for _ in range(80):
            self.settle(1)
        waits = [round(later - earlier) for earlier, later in itertools.pairwise(tries)]
        self.assertEqual(waits[:3], [10, 20, 40])
        self.assertEqual(self.container_status(pod)["state"]["waiting"]["reason"], "RunContainerError")
        self.runtime.refuse_start.clear()
        self.settle(90)
        self.assertIn("running", self.container_status(pod)["state"])

    def test_back_off_is_forgotten_after_ten_minutes(self) -> None:
        pod = pod_manifest()
        self.apply(pod)
        for _ in range(2):
            self.runtime.end(self.named(), 1)
            self.settle(12)
        self.clock.advance(601)
        self.runtime.end(self.named(), 1)
        self.settle()
        self.assertEqual(self.container_status(pod)["restartCount"], 3)

    def test_last_state_tells_of_an_out_of_memory_kill(self) -> None:
        pod = pod_manifest()
        self.apply(pod)
        self.runtime.end(self.named(), 137, oom=True)
        self.settle()
        last = self.container_status(pod)["lastState"]["terminated"]
        self.assertEqual((last["exitCode"], last["reason"]), (137, "OOMKilled"))

    def test_policy_never(self) -> None:
        for code, phase in ((0, "Succeeded"), (3, "Failed")):
            pod = pod_manifest(f"once-{code}", spec={"restartPolicy": "Never"})
            self.apply(pod)
            main = next(
                v for v in self.runtime.containers.values() if v.pod.name == f"once-{code}" and v.name == "main"
            )
            self.runtime.end(main, code)
            self.settle()
            self.assertEqual(self.status(pod)["phase"], phase)
            self.assertEqual(self.container_status(pod)["state"]["terminated"]["exitCode"], code)

    def test_policy_on_failure(self) -> None:
        pod = pod_manifest(spec={"restartPolicy": "OnFailure"})
        self.apply(pod)
        self.runtime.end(self.named(), 1)
        self.settle()
        self.assertEqual(self.named().attempt, 1)
        self.runtime.end(self.named(), 0)
        self.settle()
        self.assertEqual(self.status(pod)["phase"], "Succeeded")

    def test_finished_pod_stays_finished_after_the_agent_restarts(self) -> None:
        pod = pod_manifest(spec={"restartPolicy": "Never"})
        self.apply(pod)
        self.runtime.end(self.named(), 0)
        self.settle()
        self.stop()
        self.runtime.containers.clear()
        self.start()
        self.assertEqual(self.status(pod)["phase"], "Succeeded")
        self.assertEqual([v.name for v in self.runtime.containers.values()], [])

    def test_restart_counts_survive_agent_and_containers(self) -> None:
        pod = pod_manifest()
        self.apply(pod)
        self.runtime.end(self.named(), 1)
        self.settle()
        self.stop()
        self.runtime.containers.clear()
        self.runtime.configs.clear()
        self.start()
        self.assertEqual(self.container_status(pod)["restartCount"], 2)

    def test_power_cut_resumes_the_same_containers(self) -> None:
        pod = pod_manifest()
        self.apply(pod)
        before = sorted(self.runtime.containers)
        self.stop()
        self.runtime.power_cut()
        self.settle(5)
        self.start()
        self.assertEqual(sorted(self.runtime.containers), before)
        self.assertTrue(self.named().running)
        self.assertEqual(self.container_status(pod)["restartCount"], 0)
        self.assertEqual(self.status(pod)["phase"], "Running")


class InitTests(EngineWorld):
    SPEC = {
        "initContainers": [
            {"name": "first", "image": "busybox:lab"},
            {"name": "side", "image": "busybox:lab", "restartPolicy": "Always"},
            {"name": "second", "image": "busybox:lab"},
        ]
    }

    def names(self) -> list[str]:
        return [view.name for view in self.runtime.containers.values() if view.running and view.name != "POD"]

    def test_in_order_with_sidecar(self) -> None:
        pod = pod_manifest(spec=self.SPEC)
        self.apply(pod)
        self.assertEqual(self.names(), ["first"])
        self.assertEqual(self.status(pod)["phase"], "Pending")
        self.assertEqual(self.container_status(pod)["state"]["waiting"]["reason"], "PodInitializing")
        self.runtime.end(self.named("first"), 0)
        self.settle()
        self.assertEqual(self.names(), ["side", "second"])
        self.runtime.end(self.named("second"), 0)
        self.settle()
        self.assertEqual(self.names(), ["side", "main"])
        self.assertEqual(self.condition(pod, "Initialized"), "True")
        self.runtime.end(self.named("side"), 1)
        self.settle()
        self.assertEqual(self.named("side").attempt, 1)
        self.assertEqual(sorted(self.names()), ["main", "side"])

    def test_failing_init_container_fails_a_pod_that_never_restarts(self) -> None:
        pod = pod_manifest(spec={**self.SPEC, "restartPolicy": "Never"})
        self.apply(pod)
        self.runtime.end(self.named("first"), 2)
        self.settle()
        self.assertEqual(self.status(pod)["phase"], "Failed")
        self.assertEqual(self.names(), [])

    def test_failing_init_container_is_tried_again(self) -> None:
        pod = pod_manifest(spec=self.SPEC)
        self.apply(pod)
        self.runtime.end(self.named("first"), 2)
        self.settle()
        self.assertEqual(self.named("first").attempt, 1)
        self.assertEqual(self.status(pod)["phase"], "Pending")


class DeletionTests(EngineWorld):
    def test_grace_period_then_kill(self) -> None:
        pod = pod_manifest(spec={"terminationGracePeriodSeconds": 20})
        self.apply(pod)
        self.runtime.stubborn.add("main")
        self.delete("web")
        self.settle(15)
        self.assertEqual(self.runtime.signals, [("main", "SIGTERM")])
        self.assertTrue(self.named().running)
        self.settle(6)
        self.assertIn(("main", "SIGKILL"), self.runtime.signals)
        self.assertEqual(self.runtime.containers, {})
        self.assertIsNone(self.report(pod))

    def test_a_shorter_grace_period_counts_at_once(self) -> None:
        pod = pod_manifest(spec={"terminationGracePeriodSeconds": 300})
        self.apply(pod)
        self.runtime.stubborn.add("main")
        pod["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z", deletionGracePeriodSeconds=300)
        self.apply(pod)
        self.settle(10)
        pod["metadata"]["deletionGracePeriodSeconds"] = 0
        self.apply(pod)
        self.assertIn(("main", "SIGKILL"), self.runtime.signals)
        self.assertTrue(self.report(pod)["gone"])  # type: ignore[index]
        self.delete("web")
        self.assertIsNone(self.report(pod))

    def test_pre_stop_runs_before_the_signal(self) -> None:
        pod = pod_manifest(lifecycle={"preStop": {"exec": {"command": ["bye"]}}})
        self.apply(pod)
        self.delete("web")
        self.assertEqual(self.runtime.commands, [("main", ("bye",))])
        self.assertEqual(self.runtime.signals[0], ("main", "SIGTERM"))

    def test_deleted_while_the_agent_was_down(self) -> None:
        pod = pod_manifest(
            spec={"terminationGracePeriodSeconds": 7}, lifecycle={"preStop": {"exec": {"command": ["bye"]}}}
        )
        self.apply(pod)
        self.runtime.stubborn.add("main")
        self.stop()
        self.delete("web")
        self.start()
        self.assertEqual(self.runtime.commands, [("main", ("bye",))])
        self.settle(5)
        self.assertTrue(self.named().running)
        self.settle(3)
        self.assertEqual(self.runtime.containers, {})
        self.assertIsNone(self.report(pod))

    def test_replaced_while_the_agent_was_down(self) -> None:
        old = pod_manifest(uid="old")
        self.apply(old)
        self.stop()
        new = pod_manifest(uid="new")
        self.apply(new)
        self.start()
        self.settle(2)
        self.assertEqual({view.pod.uid for view in self.runtime.containers.values()}, {"new"})
        self.assertIsNone(self.report(old))
        self.assertEqual(self.status(new)["phase"], "Running")

    def test_static_report_of_a_vanished_pod_is_removed(self) -> None:
        pod = pod_manifest()
        self.apply(pod)
        self.stop()
        self.runtime.containers.clear()
        self.delete("web")
        self.start()
        self.assertIsNone(self.report(pod))


class RefusalTests(EngineWorld):
    def test_unknown_field(self) -> None:
        pod = pod_manifest(spec={"teleport": True})
        self.apply(pod)
        status = self.status(pod)
        self.assertEqual((status["phase"], status["reason"]), ("Failed", "UnsupportedPodSpec"))
        self.assertIn("spec.teleport", status["message"])
        self.assertEqual(self.runtime.containers, {})

    def test_malformed_pods_harm_only_themselves(self) -> None:
        good = pod_manifest("good")
        bad = [
            b"not json",
            b"[]",
            b'{"metadata": 5}',
            b'{"spec": {"containers": "many"}}',
            b"[" * 100_000,
            json.dumps({"metadata": {"uid": ["x"]}, "spec": {"containers": [{"name": 7}]}}).encode(),
            json.dumps(pod_manifest("bad-6", spec={"terminationGracePeriodSeconds": "soon"})).encode(),
            b'{"metadata": {"name": "bad-7", "labels": {"x": "'
            + b"y" * 1_400_000
            + b'"}}, "spec": {"containers": []}}',
        ]
        for number, value in enumerate(bad):
            self.put_raw(self.keys.desired_object("pods", "default", f"bad-{number}"), value)
        self.apply(good)
        self.assertEqual(self.status(good)["phase"], "Running")
        reports = [w.status for w in self.engine.workers.values() if w.ref.name.startswith("bad-")]
        self.assertEqual(len(reports), len(bad))
        for status in reports:
            self.assertEqual(status["phase"], "Failed")
            self.assertLess(len(status["message"]), 5000)
        for number in range(len(bad)):
            self.delete(f"bad-{number}")
        self.assertEqual([w.ref.name for w in self.engine.workers.values()], ["good"])

    def test_a_stolen_uid_harms_only_the_thief(self) -> None:
        good, thief = pod_manifest("good", uid="same"), pod_manifest("thief", uid="same")
        self.apply(good, thief)
        self.assertEqual(self.status(good)["phase"], "Running")
        statuses = {worker.ref.name: worker.status for worker in self.engine.workers.values()}
        self.assertIn("metadata.uid", statuses["thief"]["message"])
        self.delete("thief")
        self.assertEqual(self.status(good)["phase"], "Running")

    def test_refused_pod_can_be_deleted(self) -> None:
        pod = pod_manifest(spec={"teleport": True})
        self.apply(pod)
        pod["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z", deletionGracePeriodSeconds=30)
        self.apply(pod)
        self.assertTrue(self.report(pod)["gone"])  # type: ignore[index]


class ImageTests(EngineWorld):
    def test_pulls_what_is_missing(self) -> None:
        self.runtime.registry.add("app:1")
        pod = pod_manifest(image="app:1")
        self.apply(pod)
        self.assertEqual(self.runtime.pulls, ["app:1"])
        self.assertEqual(self.status(pod)["phase"], "Running")

    def test_pull_back_off(self) -> None:
        pod = pod_manifest(image="app:1")
        self.apply(pod)
        self.assertEqual(self.container_status(pod)["state"]["waiting"]["reason"], "ErrImagePull")
        self.settle(4)
        self.assertEqual(self.container_status(pod)["state"]["waiting"]["reason"], "ImagePullBackOff")
        self.runtime.registry.add("app:1")
        self.settle(10)
        self.assertEqual(self.status(pod)["phase"], "Running")
        self.assertEqual(self.runtime.pulls, ["app:1", "app:1"])

    def test_policy_never(self) -> None:
        pod = pod_manifest(image="app:1", imagePullPolicy="Never")
        self.apply(pod)
        self.assertEqual(self.container_status(pod)["state"]["waiting"]["reason"], "ErrImageNeverPull")
        self.assertEqual(self.runtime.pulls, [])

    def test_always_uses_the_present_image_when_the_registry_is_away(self) -> None:
        pod = pod_manifest(imagePullPolicy="Always")
        self.apply(pod)
        self.assertEqual(self.runtime.pulls, ["busybox:lab"])
        self.assertEqual(self.status(pod)["phase"], "Running")


class RuntimeTests(EngineWorld):
    def ready(self) -> tuple[str, str]:
        condition = next(c for c in self.node_status()["conditions"] if c["type"] == "Ready")
        return condition["status"], condition["reason"]

    def test_engine_away_makes_the_node_not_ready_and_changes_nothing(self) -> None:
        pod = pod_manifest()
        self.apply(pod)
        self.assertEqual(self.ready(), ("True", "KubeletReady"))
        before = dict(self.runtime.containers)
        self.runtime.cut()
        self.settle(11)
        self.assertEqual(self.ready(), ("False", "ContainerRuntimeNotReady"))
        self.assertEqual(self.status(pod)["phase"], "Running")
        self.runtime.mend()
        self.settle(11)
        self.assertEqual(self.ready(), ("True", "KubeletReady"))
        self.assertEqual(self.runtime.containers, before)

    def test_pod_given_while_the_engine_is_away_starts_when_it_is_back(self) -> None:
        self.runtime.cut()
        pod = pod_manifest()
        self.apply(pod)
        self.runtime.mend()
        self.settle()
        self.assertEqual(self.status(pod)["phase"], "Running")

    def test_death_while_the_engine_was_away_is_seen(self) -> None:
        pod = pod_manifest()
        self.apply(pod)
        self.runtime.cut()
        self.runtime.end(self.named(), 1)
        self.runtime.mend()
        self.settle()
        self.assertEqual(self.container_status(pod)["restartCount"], 1)

    def test_changed_specification_replaces_the_container(self) -> None:
        self.apply(pod_manifest())
        self.runtime.registry.add("busybox:2")
        pod = pod_manifest(image="busybox:2")
        self.apply(pod)
        self.settle(2)
        self.assertEqual(self.container_status(pod)["image"], "busybox:2")
        self.assertEqual(self.runtime.configs[self.named().id].image, "sha256:busybox:2")

    def test_node_report(self) -> None:
        status = self.node_status()
        self.assertEqual(status["nodeInfo"]["containerRuntimeVersion"], "docker://1.0")
        self.assertIn("cpu", status["capacity"])
        self.assertIn({"type": "InternalIP", "address": "10.250.0.2"}, status["addresses"])
