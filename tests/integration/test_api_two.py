"""Two embedded control planes on one etcd: each serves the API, one runs scheduler and controllers."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, ClassVar

from twisted.trial.unittest import SynchronousTestCase

from examples.demo.world import CHECKOUT, twistd
from tests.integration.api_process import EmbeddedApi
from tests.integration.test_api_kubectl import READY, node
from tests.lab.daemon import Daemon
from tests.lab.etcd import Etcd
from tests.lab.internet import Internet
from tests.lab.kubernetes import Kubectl
from tests.lab.namespace import Namespace
from tests.lab.state import Run
from tests.lab.waiting import wait_until
from tests.lab.world import SharedWorld


def deployment(name: str) -> dict[str, Any]:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "busybox"}]}}
    spec = {"replicas": 3, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


class TwoTests(SharedWorld, SynchronousTestCase):
    first: ClassVar[EmbeddedApi]
    second: ClassVar[EmbeddedApi]

    @classmethod
    def build_world(cls) -> None:
        etcd = cls.keep(Etcd())
        store = re.sub("^http", "etcd", etcd.urls[0])
        cls.first = cls.keep(EmbeddedApi(store, "first"))
        cls.second = cls.keep(EmbeddedApi(store, "second"))

    def leads(self, api: EmbeddedApi) -> bool:
        return "leads kubebus-control-plane" in api.daemon.tail(1000)

    def holder(self, api: EmbeddedApi) -> str:
        path = "jsonpath={.spec.holderIdentity}"
        return api.kubectl("get", "lease", "-n", "kube-system", "kubebus-control-plane", "-o", path)

    def deploy(self, api: EmbeddedApi, name: str) -> None:
        api.kubectl("apply", "-f", "-", input=json.dumps(deployment(name)))
        bound = "jsonpath={.items[*].spec.nodeName}"
        wait_until(
            lambda: api.kubectl("get", "pods", "-l", f"app={name}", "-o", bound) == "edge-a edge-a edge-a",
            40,
            f"the pods of {name} to be made and bound",
        )

    def test_one_stands_by_and_takes_over(self) -> None:
        wait_until(lambda: self.leads(self.first), 10, "the first to lead")
        self.first.kubectl("create", "-f", "-", input=json.dumps(node("edge-a")))
        patch = json.dumps(READY)
        self.second.kubectl("patch", "node", "edge-a", "--subresource=status", "--type=merge", "-p", patch)
        self.deploy(self.second, "one")
        self.assertFalse(self.leads(self.second))
        self.assertEqual("first", self.holder(self.second))
        self.first.kill9()
        self.deploy(self.second, "two")
        self.assertEqual("second", self.holder(self.second))
        self.first.start()
        self.assertEqual("second", self.holder(self.first))
        self.deploy(self.first, "three")
        self.assertEqual("second", self.holder(self.first))
        names = self.first.kubectl("get", "pods", "-o", "name").split()
        self.assertEqual(9, len(names), "nobody has made pods twice")


class SharedAuthorityTests(SynchronousTestCase):
    """Two ``twistd kubebus --standalone`` on one etcd: nothing but the network's own ca.pem is copied by hand."""

    def start(self, name: str, namespace: Namespace, address: str) -> Path:
        """A router's process that is up; its state directory."""
        state = self.folder / name
        state.mkdir(mode=0o700, exist_ok=True)
        command = twistd(
            "kubebus",
            *("--state-dir", str(state), "--router-name", name, "--public-address", address, "--standalone"),
            *("--store", f"etcd://{self.net.vm_address}:{self.etcd.port}", "--api-address", address),
            *("--socket", str(self.folder / f"{name}.sock")),
        )
        daemon = Daemon(name, command, namespace=namespace, cwd=CHECKOUT, env={"PYTHONPATH": str(CHECKOUT)})
        self.addCleanup(daemon.close)
        daemon.start()
        daemon.wait_for("The embedded Kubernetes API is up", 40)
        return state

    def setUp(self) -> None:
        self.folder = Run.current().directory("shared")
        self.net = Internet(sites=0)
        self.addCleanup(self.net.close)
        self.etcd = Etcd(namespace=self.net.vm, host=self.net.vm_address)
        self.addCleanup(self.etcd.close)
        self.etcd.start()

    def test_clients_of_one_are_clients_of_the_other(self) -> None:
        eip, vm = "10.10.0.10", self.net.vm_address
        first = self.start("first", self.net.eip, eip)
        (self.folder / "second").mkdir(mode=0o700)
        shutil.copy(first / "ca.pem", self.folder / "second")
        second = self.start("second", self.net.vm, vm)
        for state in (first, second):
            for address in (eip, vm):
                kubectl = Kubectl(state / "kubeconfig", namespace=self.net.vm)
                namespaces = kubectl("--server", f"https://{address}:6443", "get", "namespaces", "-o", "name")
                self.assertIn("namespace/default", namespaces)
        stored = self.etcd.ctl("get", "--print-value-only", "/kubebus/default/api/-/shared/kubernetes")
        self.assertIn("BEGIN CERTIFICATE", stored)
        self.assertNotIn("PRIVATE KEY", stored)
