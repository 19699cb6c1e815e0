"""Pods and what is around them on the device: gRPC servers, a registry with a password, a folder of manifests."""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from typing import Any
from urllib.parse import quote

from tests.integration.engine_world import pod_manifest
from tests.integration.registry import CREDENTIALS
from tests.integration.test_engine_agent import AgentTestCase
from tests.lab.daemon import Daemon
from tests.lab.engine import BUSYBOX
from tests.lab.images import busybox_rootfs
from tests.lab.waiting import wait_until

REGISTRY_PORT, GRPC_PORT = 5000, 50051
MANIFEST = """\
apiVersion: v1
kind: Pod
metadata:
  name: local
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: {image}
    command: [sh, -c, "echo {word} > /word; sleep 3600"]
"""


class OutsideTests(AgentTestCase):
    arguments = ("quick",)

    def server(self, module: str, *arguments: str) -> None:
        daemon = Daemon(
            module, [sys.executable, "-m", f"tests.integration.{module}", *arguments], namespace=self.namespace
        )
        self.addCleanup(daemon.close)
        daemon.start()
        daemon.wait_for("serving", 30)

    def state(self, name: str) -> dict[str, Any]:
        """The first container's."""
        status = self.pods().get(name, {}).get("containerStatuses") or [{}]
        found: dict[str, Any] = status[0]
        return found

    def waiting(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.state(name).get("state", {}).get("waiting") or {}
        return found

    def test_grpc_probes(self) -> None:
        serving = self.directory / "serving"
        serving.touch()
        self.server("grpc_health", str(GRPC_PORT), str(serving))
        # The address that the node has by its network.
        self.namespace.ip("address replace 10.250.0.2/32 dev lo")

        def pod(name: str, **probe: Any) -> dict[str, Any]:
            probe = {"periodSeconds": 1, "failureThreshold": 1, **probe}
            spec = {"hostNetwork": True, "terminationGracePeriodSeconds": 0}
            return pod_manifest(name, spec=spec, readinessProbe=probe)

        known = pod("known", grpc={"port": GRPC_PORT, "service": "app"})
        unknown = pod("unknown", grpc={"port": GRPC_PORT, "service": "other"})
        deaf = pod("deaf", grpc={"port": 9})
        self.apply(known, unknown, deaf)
        self.await_ready(known)

        def told(name: str) -> str:
            items = self.client.get("/v1/kubelet/pods")["items"]
            (events,) = [item["events"] for item in items if item["metadata"]["name"] == name]
            return " ".join(event["message"] for event in events if event["reason"] == "Unhealthy")

        serving.unlink()
        wait_until(lambda: not self.ready(known), 20, "a server that does not serve makes its pod unready")
        serving.touch()
        self.await_ready(known)
        for name in ("unknown", "deaf"):
            wait_until(lambda name=name: "Readiness probe failed" in told(name), 20, f"{name} is probed")  # type: ignore[misc]
        self.assertFalse(self.ready(unknown))
        self.assertFalse(self.ready(deaf))

    def test_image_from_a_registry_that_asks_for_a_password(self) -> None:
        self.server("registry", str(REGISTRY_PORT), str(busybox_rootfs()))

        def secret(name: str, user: str, password: str) -> None:
            auth = b64encode(f"{user}:{password}".encode()).decode()
            document = json.dumps({"auths": {f"127.0.0.1:{REGISTRY_PORT}": {"auth": auth}}})
            value = {
                "metadata": {"name": name, "namespace": "default"},
                "type": "kubernetes.io/dockerconfigjson",
                "data": {".dockerconfigjson": b64encode(document.encode()).decode()},
            }
            key = quote(self.keys.desired_object("secrets", "default", name).decode(), safe="")
            with self.client.open("PUT", f"/v1/meta/keys?key={key}", json.dumps(value).encode()):
                pass

        secret("right", *CREDENTIALS)
        secret("wrong", CREDENTIALS[0], "guess")

        def pod(name: str, *secrets: str) -> dict[str, Any]:
            spec = {"terminationGracePeriodSeconds": 0, "imagePullSecrets": [{"name": each} for each in secrets]}
            return pod_manifest(name, image=f"127.0.0.1:{REGISTRY_PORT}/private/app:{name}", spec=spec)

        without, wrong, right = pod("without"), pod("wrong", "wrong"), pod("right", "wrong", "missing", "right")
        self.apply(without, wrong, right)
        self.await_ready(right)
        for name in ("without", "wrong"):
            wait_until(lambda name=name: self.waiting(name).get("reason") == "ImagePullBackOff", 20, f"{name} waits")  # type: ignore[misc]
            self.assertIn(
                "no basic auth credentials" if name == "without" else "unauthorized", self.waiting(name)["message"]
            )
        image_id = self.state("right")["imageID"]
        self.assertTrue(image_id.startswith("sha256:") or "@sha256:" in image_id, image_id)

    def test_static_pods(self) -> None:
        folder = self.directory / "engine" / "manifests"
        folder.mkdir()

        def write(word: str) -> None:
            (folder / ".new").write_text(MANIFEST.format(image=BUSYBOX, word=word))
            (folder / ".new").rename(folder / "local.yaml")

        def main() -> list[str]:
            return [key for key, (pod, name, _) in self.containers().items() if (pod, name) == ("local-edge-1", "main")]

        (folder / "broken.yaml").write_text("kind: [")
        write("first")
        wait_until(lambda: len(main()) == 1, 30, "the static pod runs")
        (first,) = main()
        self.await_ready({"metadata": {"name": "local-edge-1"}})
        self.agent.kill9()
        self.start_agent()
        self.await_ready({"metadata": {"name": "local-edge-1"}})
        self.assertEqual(main(), [first], "it is adopted like any other")
        write("second")
        wait_until(lambda: len(main()) == 1 and main() != [first], 30, "a changed manifest makes a new pod")
        (folder / "local.yaml").unlink()
        wait_until(lambda: not main(), 30, "without its manifest the pod ends")


del AgentTestCase
