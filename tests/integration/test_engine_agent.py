"""The engine in a process of its own, in the node's namespace: killed, counted, and measured."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from twisted.trial import unittest

from appengine.mounts import mounts_below, unmount
from kubebus.adminclient import AdminClient
from metasync.keys import NodeKeys
from metasync.model import Put
from metasync.sqlite_file import SQLiteFile
from tests.integration.engine_world import SLEEP, Json, pod_manifest, remove_all
from tests.lab.daemon import Daemon
from tests.lab.engine import Engine
from tests.lab.namespace import Namespace
from tests.lab.state import Run
from tests.lab.waiting import wait_until
from tests.lab.world import SharedWorld

# So many pods on one node, and what the agent may cost then when nothing happens.
MANY = 50
IDLE_CPU_PERCENT = 3.0


class AgentTestCase(SharedWorld, unittest.SynchronousTestCase):
    keep_containers = False
    arguments: Sequence[str] = ()
    """More of the agent's."""
    namespace: Namespace
    docker: Engine

    @classmethod
    def build_world(cls) -> None:
        cls.namespace = cls.keep(Namespace("edge"))
        cls.docker = cls.keep(Engine(cls.namespace))

    def setUp(self) -> None:
        super().setUp()
        self.directory = Run.current().directory("agent")
        self.addCleanup(self.clean)
        self.keys = NodeKeys("default", "edge-1")
        self.client = AdminClient(str(self.directory / "edge.sock"))
        self.agent = Daemon(
            "agent",
            [
                sys.executable,
                "-m",
                "tests.integration.engine_agent",
                str(self.directory),
                self.docker.url,
                *self.arguments,
            ],
            namespace=self.namespace,
        )
        self.addCleanup(self.agent.close)
        self.start_agent()

    def start_agent(self) -> None:
        self.agent.start()
        wait_until(self.pods_known, 20, "the agent answers")

    def pods_known(self) -> bool:
        self.pods()
        return True

    def clean(self) -> None:
        self.agent.close()
        if self.keep_containers:
            return
        remove_all(self.docker)
        for point in mounts_below(self.directory):
            unmount(point)
        shutil.rmtree(self.directory)

    def apply(self, *pods: Json) -> None:
        for pod in pods:
            key = self.keys.desired_object("pods", "default", pod["metadata"]["name"]).decode()
            with self.client.open("PUT", f"/v1/meta/keys?key={quote(key, safe='')}", json.dumps(pod).encode()):
                pass

    def delete(self, *pods: Json) -> None:
        for pod in pods:
            key = self.keys.desired_object("pods", "default", pod["metadata"]["name"]).decode()
            self.client.delete(f"/v1/meta/keys?key={quote(key, safe='')}")

    def pods(self) -> dict[str, Json]:
        """Name → status, as the agent tells on its socket."""
        answer = self.client.get("/v1/kubelet/pods")
        return {pod["metadata"]["name"]: pod["status"] for pod in answer["items"]}

    def ready(self, *pods: Json) -> bool:
        known = self.pods()
        return all(
            any(
                c["type"] == "Ready" and c["status"] == "True"
                for c in known[p["metadata"]["name"]].get("conditions", ())
            )
            for p in pods
        )

    def await_ready(self, *pods: Json, seconds: float = 60) -> None:
        wait_until(lambda: self.ready(*pods), seconds, f"{len(pods)} pods are ready", 0.1)

    def containers(self) -> dict[str, tuple[str, str, str]]:
        """ID → (pod, container, start of its process), of those that run."""
        with closing(self.docker.client()) as client:
            return {
                str(c.id): (
                    c.labels["io.kubernetes.pod.name"],
                    c.labels["io.kubernetes.container.name"],
                    c.attrs["State"]["StartedAt"],
                )
                for c in client.containers.list(ignore_removed=True)
            }


class AgentTests(AgentTestCase):
    def test_kill_9_changes_nothing(self) -> None:
        pods = [pod_manifest(f"p{n}") for n in range(3)]
        self.apply(*pods)
        self.await_ready(*pods)
        before = self.containers()
        self.agent.kill9()
        self.start_agent()
        self.await_ready(*pods)
        self.assertEqual(self.containers(), before)
        for status in self.pods().values():
            self.assertEqual(status["containerStatuses"][0]["restartCount"], 0)

    def test_kill_9_at_any_moment_doubles_and_orphans_nothing(self) -> None:
        dice = random.Random(5)
        pods: list[Json] = []
        for round_ in range(4):
            fresh = [
                pod_manifest(f"r{round_}-{n}", volumeMounts=[], spec={"terminationGracePeriodSeconds": 1})
                for n in range(3)
            ]
            self.apply(*fresh)
            if pods:
                self.delete(pods.pop(0))
            pods += fresh
            time.sleep(dice.random() * 0.8)
            self.agent.kill9()
            self.start_agent()
        self.await_ready(*pods)
        expected = sorted((p["metadata"]["name"], name) for p in pods for name in ("POD", "main"))

        def settled() -> bool:
            return sorted((pod, name) for pod, name, _ in self.containers().values()) == expected

        wait_until(settled, 30, f"exactly {expected}")
        with closing(self.docker.client()) as client:
            self.assertEqual(len(client.containers.list(all=True, ignore_removed=True)), len(expected))

    def test_deleted_and_replaced_while_the_agent_was_down(self) -> None:
        trap = ["sh", "-c", "trap 'echo bye > /out/bye; exit 0' TERM; sleep 3600 & wait"]
        out = self.directory / "out"
        out.mkdir(mode=0o777)
        mounts: Json = {
            "command": trap,
            "volumeMounts": [{"name": "out", "mountPath": "/out"}],
            "spec": {"volumes": [{"name": "out", "hostPath": {"path": str(out)}}], "terminationGracePeriodSeconds": 20},
        }
        old = pod_manifest("web", **mounts)
        self.apply(old)
        self.await_ready(old)
        new = pod_manifest("web", command=SLEEP)
        self.apply_while_down(new)
        wait_until(lambda: (out / "bye").exists(), 20, "the old container ended of itself, in its grace period")
        self.await_ready(new)
        names = [name for _, name, _ in self.containers().values()]
        self.assertEqual(sorted(names), ["POD", "main"])

    def apply_while_down(self, pod: Json) -> None:
        """Change the store as if the cloud had done so just before the agent starts."""
        self.agent.kill9()
        file = SQLiteFile(self.directory / "store.db")
        try:
            key = self.keys.desired_object("pods", "default", pod["metadata"]["name"])
            file.txn([], [Put(key, json.dumps(pod).encode())], [])
        finally:
            file.close()
        self.start_agent()

    def test_cold_boot_of_ten_pods(self) -> None:
        pods = [pod_manifest(f"cold-{n}") for n in range(10)]
        self.apply(*pods)
        self.await_ready(*pods)
        ids = set(self.containers())
        self.agent.kill9()
        self.docker.power_cut()
        self.docker.start()
        began = time.monotonic()
        self.agent.start()

        def running() -> bool:
            return set(self.containers()) == ids

        wait_until(running, 60, "the same containers run", 0.1)
        print(f"\n10 pods run {time.monotonic() - began:.1f} s after the agent's start")
        wait_until(self.pods_known, 20, "the agent answers")
        self.await_ready(*pods)

    def test_probes_over_the_network(self) -> None:
        server = "mkdir /w; echo ok > /w/ok; httpd -p 8080 -h /w; sleep 3600"
        port = [{"name": "web", "containerPort": 8080}]
        period: Json = {"periodSeconds": 1, "failureThreshold": 2}
        http = pod_manifest(
            "http",
            command=["sh", "-c", server],
            ports=port,
            readinessProbe={"httpGet": {"path": "/ok", "port": "web"}, **period},
            livenessProbe={"tcpSocket": {"port": 8080}, "initialDelaySeconds": 2, **period},
        )
        broken = pod_manifest(
            "broken",
            command=["sh", "-c", server],
            readinessProbe={"httpGet": {"path": "/missing", "port": 8080}, **period},
            livenessProbe={"tcpSocket": {"port": 9}, "initialDelaySeconds": 1, **period},
            spec={"terminationGracePeriodSeconds": 0},
        )
        self.apply(http, broken)
        self.await_ready(http)

        def restarted() -> bool:
            return int(self.pods()["broken"]["containerStatuses"][0]["restartCount"]) >= 1

        wait_until(restarted, 30, "the liveness probe restarts the container")
        self.assertEqual(self.pods()["http"]["containerStatuses"][0]["restartCount"], 0)
        self.assertFalse(self.ready(broken))


class ManyPodsTests(AgentTestCase):
    # They go with the container engine, which is much faster than one by one.
    keep_containers = True

    def test_fifty_pods_cost_little_when_nothing_happens(self) -> None:
        pods = [pod_manifest(f"many-{n}", spec={"terminationGracePeriodSeconds": 0}) for n in range(MANY)]
        began = time.monotonic()
        self.apply(*pods)
        self.await_ready(*pods, seconds=150)
        print(f"\n{MANY} pods are ready after {time.monotonic() - began:.1f} s")
        time.sleep(2)
        before, since = self.cpu_seconds(), time.monotonic()
        time.sleep(6)
        percent = 100 * (self.cpu_seconds() - before) / (time.monotonic() - since)
        print(f"with {MANY} pods the idle agent takes {percent:.2f} % of a CPU and {self.rss() / 2**20:.0f} MiB")
        self.assertLess(percent, IDLE_CPU_PERCENT)

    def cpu_seconds(self) -> float:
        words = Path(f"/proc/{self.agent.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def rss(self) -> int:
        for line in Path(f"/proc/{self.agent.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")
