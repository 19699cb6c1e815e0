"""One contract, kept by the embedded control plane and by a real kube-apiserver with a real etcd."""

from __future__ import annotations

import re
from typing import ClassVar

from twisted.trial.unittest import SynchronousTestCase

from edgectl.testing import ApiClient
from edgectl.testing_contract import (
    ApplyContract,
    DiscoveryContract,
    ListContract,
    ObjectContract,
    PatchContract,
    WatchContract,
)
from edgectl.testing_contract_kinds import (
    LeaseContract,
    NamespaceContract,
    NodeContract,
    PodContract,
    ServiceContract,
    WorkloadContract,
)
from tests.integration.api_process import EmbeddedApi
from tests.lab.kubernetes import KubeApiServer
from tests.lab.world import SharedWorld


class Contract(
    SharedWorld,
    ObjectContract,
    PatchContract,
    ListContract,
    WatchContract,
    PodContract,
    NamespaceContract,
    NodeContract,
    LeaseContract,
    WorkloadContract,
    ApplyContract,
    ServiceContract,
    DiscoveryContract,
    SynchronousTestCase,
):
    """All parts of the contract, each test in a namespace of its own."""

    server: ClassVar[EmbeddedApi | KubeApiServer]

    @classmethod
    def build_client(cls) -> None:
        cls.client = ApiClient(cls.server.admin_kubeconfig)
        cls.version = cls.server.version()

    def setUp(self) -> None:
        super().setUp()
        test = self.id().rpartition(".")[2].removeprefix("test_")
        self.namespace = re.sub(r"[^a-z0-9]+", "-", test.lower())[:60].strip("-")
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        answer = self.client.request("POST", "/api/v1/namespaces", namespace)
        self.assertEqual(answer.code, 201, answer.body)
        self.addCleanup(self.client.request, "DELETE", f"/api/v1/namespaces/{self.namespace}")


class EmbeddedTests(Contract):
    @classmethod
    def build_world(cls) -> None:
        cls.server = cls.keep(EmbeddedApi())
        cls.build_client()


class RealTests(Contract):
    @classmethod
    def build_world(cls) -> None:
        cls.server = cls.keep(KubeApiServer())
        cls.build_client()


del Contract
