"""Two embedded control planes on one etcd: each serves the API, one runs scheduler and controllers."""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.api_process import EmbeddedApi
from tests.integration.test_api_kubectl import READY, node
from tests.lab.etcd import Etcd
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
