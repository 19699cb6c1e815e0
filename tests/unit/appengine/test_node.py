"""What the node takes, whom it evicts, what it reads from its own folders, and with whose word it pulls."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.trial import unittest

from appengine.admission import Capacity, pod_request, refusal
from appengine.credentials import auths_for, pull_auths, registry_of
from appengine.eviction import Candidate, Pressures, Thresholds, ranked
from appengine.firewall import HostPort, accept_rules, table
from appengine.nodestatus import Pressure
from appengine.podspec import Pod, parse_pod
from appengine.testing import InlineThreads, place
from tests.unit.appengine.world import EngineWorld, Json, pod_manifest

P = ParamSpec("P")
T = TypeVar("T")

MIB = 2**20


def pod(name: str = "web", spec: Json | None = None, **resources: str) -> Pod:
    manifest = pod_manifest(name, spec=spec, resources={"requests": resources} if resources else {})
    return parse_pod(manifest, "default", name)


class AdmissionTests(unittest.SynchronousTestCase):
    capacity = Capacity(2000, 1000 * MIB, 0, 3)

    def test_reasons(self) -> None:
        here = [pod("a", cpu="1500m", memory="600Mi")]
        cases: tuple[tuple[dict[str, Any], str | None], ...] = (
            ({"cpu": "500m"}, None),
            ({"cpu": "501m"}, "OutOfcpu"),
            ({"memory": "401Mi"}, "OutOfmemory"),
            ({"example.com/gpu": "1"}, "OutOfexample.com/gpu"),
        )
        for asked, reason in cases:
            found = refusal(pod("b", **asked), here, self.capacity, {})
            self.assertEqual(found and found[0], reason)
        self.assertEqual((refusal(pod(), [pod(n) for n in "abc"], self.capacity, {}) or ("",))[0], "OutOfpods")

    def test_host_ports(self) -> None:
        def with_port(name: str, protocol: str) -> Pod:
            ports = [{"containerPort": 80, "hostPort": 8080, "protocol": protocol}]
            return parse_pod(pod_manifest(name, ports=ports), "default", name)

        here = [with_port("a", "TCP")]
        self.assertIsNone(refusal(with_port("b", "UDP"), here, self.capacity, {}))
        self.assertEqual((refusal(with_port("b", "TCP"), here, self.capacity, {}) or ("",))[0], "NodePorts")

    def test_pressure(self) -> None:
        short = {"MemoryPressure": True}
        self.assertEqual((refusal(pod(), [], self.capacity, short) or ("",))[0], "Evicted")
        self.assertIsNone(refusal(pod(memory="1Mi"), [], self.capacity, short))
        self.assertEqual((refusal(pod(memory="1Mi"), [], self.capacity, {"DiskPressure": True}) or ("",))[0], "Evicted")

    def test_init_containers_count_at_their_largest(self) -> None:
        def init(cpu: str, **more: str) -> Json:
            return {"name": f"i{cpu}", "image": "b", "resources": {"requests": {"cpu": cpu}}, **more}

        some = pod(
            spec={"initContainers": [init("100m", restartPolicy="Always"), init("900m"), init("200m")]}, cpu="300m"
        )
        self.assertEqual(pod_request(some, "cpu"), 1000)


class EvictionTests(unittest.SynchronousTestCase):
    def test_order(self) -> None:
        low, high = pod("low", memory="100Mi"), pod("high", {"priority": 1000}, memory="100Mi")
        modest, greedy = pod("modest", memory="100Mi"), pod("greedy")
        order = ranked(
            [
                Candidate(modest, 50, 100),
                Candidate(high, 300, 100),
                Candidate(low, 150, 100),
                Candidate(greedy, 90, 0),
            ]
        )
        self.assertEqual([candidate.pod.ref.name for candidate in order], ["greedy", "low", "high", "modest"])

    def test_conditions_last(self) -> None:
        pressures = Pressures(Thresholds(transition=300))
        good = Pressure(memory_available=500 * MIB, disk_size=100, disk_available=50, inodes=100, inodes_free=50)
        pressures.measure(good, 0)
        self.assertEqual(set(pressures.now.values()), {False})
        bad = Pressure(memory_available=50 * MIB, disk_size=100, disk_available=5, inodes=100, inodes_free=50)
        pressures.measure(bad, 10)
        self.assertTrue(pressures.now["MemoryPressure"] and pressures.now["DiskPressure"])
        self.assertTrue(pressures.image_gc_wanted(bad))
        self.assertEqual(pressures.image_gc_bytes(bad), 14)
        pressures.measure(good, 200)
        self.assertTrue(pressures.now["MemoryPressure"])
        self.assertFalse(pressures.signals["MemoryPressure"])
        pressures.measure(good, 320)
        self.assertFalse(pressures.now["MemoryPressure"])


class CredentialTests(unittest.SynchronousTestCase):
    def test_registries(self) -> None:
        self.assertEqual(registry_of("busybox"), "index.docker.io")
        self.assertEqual(registry_of("team/app:1"), "index.docker.io")
        self.assertEqual(registry_of("localhost/app"), "localhost")
        self.assertEqual(registry_of("r.example:5000/team/app"), "r.example:5000")

    def test_secrets(self) -> None:
        auths = {
            "https://index.docker.io/v1/": {"auth": b64encode(b"me:pass:word").decode()},
            "r.example:5000": {"username": "u", "password": "p"},
            "broken": {"auth": "%"},
        }
        data = {".dockerconfigjson": b64encode(json.dumps({"auths": auths}).encode()).decode()}

        class Objects:
            def secret(self, namespace: str, name: str) -> Json | None:
                return {"data": data} if name == "pull" else None

            def config_map(self, namespace: str, name: str) -> Json | None:
                return None

            def services(self, namespace: str) -> list[Json]:
                return []

        some = pod(spec={"imagePullSecrets": [{"name": "none"}, {"name": "pull"}]})
        found = pull_auths(some, Objects())
        self.assertEqual([a["password"] for a in auths_for("busybox", found)], ["pass:word"])
        self.assertEqual([a["username"] for a in auths_for("r.example:5000/x", found)], ["u"])
        self.assertEqual(auths_for("other.example/x", found), [])


class FirewallTests(unittest.SynchronousTestCase):
    def test_table(self) -> None:
        text = table(
            place("10.192.7.0/24"), [HostPort("tcp", 8080, "10.192.7.2", 80), HostPort("udp", 53, "fd00::2", 53)]
        )
        # The node's own subnet lies in what is routed; sets of nftables take no overlaps.
        self.assertIn("ip saddr { 10.192.7.0/24 } ip daddr != { 10.192.0.0/12 }", text)
        self.assertIn('oifname != { "kb0", "kb0-pods" } masquerade', text)
        self.assertIn("fib daddr type local tcp dport 8080 dnat ip to 10.192.7.2:80", text)
        self.assertIn("udp dport 53 dnat ip6 to [fd00::2]:53", text)

    def test_rules_past_docker(self) -> None:
        rules = [" ".join(rule) for rule in accept_rules(place("10.192.7.0/24"))]
        self.assertTrue(all(rule.endswith("-j ACCEPT") for rule in rules))
        self.assertTrue(rules[0].startswith("-i kb0 -o kb0-pods"))


class HeldThreads(InlineThreads):
    """A disk that takes its time: nothing is done before :meth:`release`."""

    def __init__(self) -> None:
        super().__init__()
        self._held: Deferred[None] | None = Deferred()

    def release(self) -> None:
        held, self._held = self._held, None
        assert held is not None
        held.callback(None)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._held is not None:
            waiting: Deferred[None] = Deferred()
            self._held.chainDeferred(waiting)
            await waiting
        return await super().run(function, *args, **kwargs)


class NodeTests(EngineWorld):
    def test_pod_that_does_not_fit_is_refused(self) -> None:
        some = pod_manifest(resources={"requests": {"memory": "100Ti"}})
        self.apply(some)
        status = self.status(some)
        self.assertEqual((status["phase"], status["reason"]), ("Failed", "OutOfmemory"))
        self.assertEqual(self.runtime.containers, {})

    def test_running_pods_stay_when_the_agent_restarts(self) -> None:
        half = f"{int(self.engine._capacity.memory * 0.6)}"
        first = pod_manifest("first", resources={"requests": {"memory": half}})
        second = pod_manifest("second", resources={"requests": {"memory": half}})
        self.apply(first, second)
        self.stop()
        self.start()
        self.assertEqual(self.status(first)["phase"], "Running")
        self.assertEqual(self.status(second)["reason"], "OutOfmemory")

    def test_host_ports_are_opened_and_closed(self) -> None:
        self.apply(pod_manifest(ports=[{"containerPort": 80, "hostPort": 8080}]))
        self.assertEqual({(p.protocol, p.host_port, p.port) for p in self.firewall.open}, {("tcp", 8080, 80)})
        self.delete("web")
        self.assertEqual(self.firewall.open, frozenset())

    def test_static_pod_is_not_taken_for_an_orphan_before_its_folder_was_read(self) -> None:
        folder = self.directory / "manifests"
        folder.mkdir()
        manifest = pod_manifest("local")
        del manifest["metadata"]["uid"]
        (folder / "local.json").write_text(json.dumps(manifest))
        self.settle(25)
        before = self.runtime.named("main")
        self.stop()
        slow = self.files = HeldThreads()
        self.start()
        self.settle(30)
        self.assertTrue(self.runtime.containers[before.id].running)
        slow.release()
        self.settle(30)
        self.assertTrue(self.runtime.containers[before.id].running)

    def test_static_pod(self) -> None:
        folder = self.directory / "manifests"
        folder.mkdir()
        manifest = pod_manifest("local")
        del manifest["metadata"]["uid"]
        (folder / "local.json").write_text(json.dumps(manifest))
        (folder / "broken.json").write_text("{")
        self.settle(21)
        self.assertEqual([worker.ref.name for worker in self.engine.pods()], ["local-edge-1"])
        first = self.named()
        self.assertTrue(first.running)
        manifest["spec"]["containers"][0]["args"] = ["changed"]
        (folder / "local.json").write_text(json.dumps(manifest))
        self.settle(25)
        self.assertEqual(self.runtime.configs[self.named().id].args, ("changed",))
        self.assertEqual([view.pod.uid == first.pod.uid for view in self.runtime.containers.values()], [False, False])
        (folder / "local.json").unlink()
        self.settle(25)
        self.assertEqual(self.runtime.containers, {})

    def test_image_archive_is_loaded_before_anything_is_pulled(self) -> None:
        folder = self.directory / "images"
        folder.mkdir()
        archive = folder / "app.tar"
        archive.write_bytes(b"")
        some = pod_manifest(image=str(archive), imagePullPolicy="IfNotPresent")
        self.apply(some)
        self.assertEqual(self.status(some)["phase"], "Running")
        self.assertEqual(self.runtime.pulls, [])

    def test_memory_pressure_evicts_and_says_so(self) -> None:
        some = pod_manifest()
        self.apply(some)
        self.engine._pressures.thresholds = Thresholds(memory_available=2**60)
        self.settle(11)
        status = self.status(some)
        self.assertEqual((status["phase"], status["reason"]), ("Failed", "Evicted"))
        self.assertIn("memory", status["message"])
        conditions = {c["type"]: c["status"] for c in self.node_status()["conditions"]}
        self.assertEqual(conditions["MemoryPressure"], "True")
        self.assertFalse(any(view.running for view in self.runtime.containers.values()))

    def test_disk_pressure_removes_unused_images_first(self) -> None:
        self.runtime.registry.add("old:1")
        self.runtime.local["old:1"] = self.runtime.local["busybox:lab"].__class__("sha256:old", ("old:1",), 10**15)
        some = pod_manifest()
        self.apply(some)
        self.engine._pressures.thresholds = Thresholds(disk_available=1.1, image_gc_low=0.0)
        self.settle(11)
        self.assertNotIn("old:1", self.runtime.local)
        self.assertIn("busybox:lab", self.runtime.local)
        self.assertIn("kubebus/pause:1", self.runtime.local)
        self.assertEqual(self.status(some)["phase"], "Running")

    def test_active_deadline(self) -> None:
        some = pod_manifest(spec={"activeDeadlineSeconds": 5})
        self.apply(some)
        self.settle(3)
        self.assertEqual(self.status(some)["phase"], "Running")
        self.settle(4)
        self.assertEqual(self.status(some)["reason"], "DeadlineExceeded")
        self.assertFalse(any(view.running for view in self.runtime.containers.values()))
