"""A pod at an edge calls a real kube-apiserver in the cloud, as pods do: by its variables, with its own token."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.cluster_world import ClusterWorld, sleeper
from tests.lab.namespace import checked
from tests.lab.waiting import wait_until
from tests.lab.world import SharedWorld

MOUNT = "/var/run/api"
CALL = """
import http.client, json, socket, ssl, sys
given = json.load(sys.stdin)
context = ssl.create_default_context(cadata=given["ca"])
plain = socket.create_connection((given["host"], given["port"]), 10)
connection = http.client.HTTPSConnection("kubernetes.default.svc")
connection.sock = context.wrap_socket(plain, server_hostname="kubernetes.default.svc")
connection.request("GET", "/api/v1/namespaces/default/secrets", headers={"Authorization": "Bearer " + given["token"]})
print(connection.getresponse().read().decode())
"""
"""Run in the pod's network with what it was given (busybox has no TLS to speak of)."""


class ClusterPodApiTests(SharedWorld, SynchronousTestCase):
    world: ClusterWorld

    @classmethod
    def build_world(cls) -> None:
        cls.world = world = cls.keep(ClusterWorld(names=("edge-1",)))
        world.start_cloud()
        world.enrol()

    def test_a_pod_calls_the_api_as_its_service_account(self) -> None:
        world, (edge,) = self.world, self.world.edges
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "caller", "namespace": "default"}}
        pod = sleeper("caller", edge.name)
        token = {"path": "token", "expirationSeconds": 3600}
        projected = {"name": "api", "projected": {"sources": [{"serviceAccountToken": token}]}}
        pod["spec"] |= {"serviceAccountName": "caller", "volumes": [projected]}
        pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "api", "mountPath": MOUNT}]
        world.kubectl.apply(account, pod)
        world.wait_running("caller")
        variables = dict(line.partition("=")[::2] for line in edge.execute("caller", "env").splitlines())
        service = world.kubectl.json("get", "service", "kubernetes")["spec"]
        self.assertEqual(service["clusterIP"], variables["KUBERNETES_SERVICE_HOST"])
        self.assertEqual("443", variables["KUBERNETES_SERVICE_PORT"])
        given = {
            "host": variables["KUBERNETES_SERVICE_HOST"],
            "port": variables["KUBERNETES_SERVICE_PORT"],
            "token": edge.execute("caller", "cat", f"{MOUNT}/token"),
            "ca": world.server.authority.certificate.read_text(),
        }
        (container,) = edge.containers("caller")
        with closing(edge.engine.client()) as client:
            process = client.api.inspect_container(container.id)["State"]["Pid"]
        command = ["nsenter", "-t", str(process), "-n", sys.executable, "-c", CALL]
        told = partial(checked, command, input=json.dumps(given), check=False, timeout=15)
        # That it is let in and not allowed to do this tells that the API knows whose token it is.
        known = 'User "system:serviceaccount:default:caller" cannot list resource "secrets"'
        wait_until(lambda: known in json.loads(told().stdout or "{}").get("message", ""), 20, "the API to know the pod")
        self.assertIn(service["clusterIP"], edge.execute("caller", "nslookup", "kubernetes.default.svc.cluster.local"))
