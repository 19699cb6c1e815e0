"""Devices behind NAT, ``twistd kubebus`` on the EIP VM, and a real kube-apiserver on another VM of the cloud.

The API server reaches the devices as any kubelet: by the cloud's route to the EIP VM. There is no controller manager:
tests do what it would.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from examples.demo.world import _ENVIRONMENT, CHECKOUT, PORT, World, twistd
from tests.lab.daemon import Daemon
from tests.lab.kubernetes import KubeApiServer, Kubectl, kube_apiserver_program
from tests.lab.waiting import wait_until

ACCOUNT = "system:serviceaccount:kubebus:kubebus"
MANIFESTS = CHECKOUT / "examples" / "kubernetes"


class ClusterWorld(World):
    """:ivar server: the API server, reached from the EIP VM by ``kubectl``. The controller has the manifests' rights.

    :param more: more options of ``twistd kubebus``.
    :param names: of the nodes, one at each site.
    """

    def __init__(self, *more: str, names: Sequence[str] = ("edge-1", "edge-2")) -> None:
        # Before anything is built: it may be that there is none.
        kube_apiserver_program()
        super().__init__(names, cloud_options=more, edge_options=("--heartbeat", "2", "--probe", "1", "--redial", "2"))
        self.kubectl = self.server.kubectl

    def _cloud(self) -> Daemon:
        self.cloud_path = self.path / "cloud"
        self.cloud_path.mkdir(mode=0o700)
        self.server = KubeApiServer(
            namespace=self.net.vm,
            host=self.net.vm_address,
            # For kubelets it trusts the cluster's CA, as it does by default.
            options=["--kubelet-preferred-address-types=InternalIP"],
        )
        self._kept.enter_context(self.server)
        for manifest in ("rbac.yaml", "kubelet-serving.yaml"):
            self.server.kubectl("apply", "-f", str(MANIFESTS / manifest))
        self.server.kubectl("apply", "-n", "default", "-f", str(MANIFESTS / "namespace-access.yaml"))
        account = self.server.write_kubeconfig("kubebus", self.server.authority.issue(ACCOUNT))
        command = twistd(
            "kubebus",
            *("--state-dir", str(self.cloud_path), "--public-address", self.net.eip_address),
            *("--listen-port", str(PORT), "--socket", str(self.cloud_socket)),
            *(option for cidr in self.net.cloud_cidrs for option in ("--advertise", cidr)),
            *("--kubeconfig", str(account), "--namespace", "default"),
            *("--kubelet-client-ca", str(self.server.authority.certificate), "--kubelet-serving-signer"),
            *self._cloud_options,
        )
        cloud = Daemon("kubebus", command, namespace=self.net.eip, cwd=CHECKOUT, env=_ENVIRONMENT)
        self._kept.callback(cloud.close)
        return cloud

    def start_cloud(self) -> float:
        self.cloud.start()
        self.cloud.wait_for("edge controller is up", 30)
        return 0.0

    def enrol(self) -> None:
        """Let every device join."""
        for edge in self.edges:
            edge.join(self.kubebus("token", "create", "--node", edge.name).strip().splitlines()[-1])
        for edge in self.edges:
            # By the daemon, whose log then tells what went wrong.
            self.cloud.wait_for(partial(self.registered, edge.name), 60)

    def registered(self, name: str) -> bool:
        found = self.kubectl.run("get", "node", name, check=False).returncode == 0
        return found and self.condition("node", name, "EdgeConnected") == "True"

    def sign(self, name: str) -> str:
        """Approve the node's request for a serving certificate, and do what the cluster's signer does; its name."""

        def asked() -> dict[str, Any] | None:
            found: list[dict[str, Any]] = self.kubectl.json("get", "csr")["items"]
            return next((each for each in found if each["metadata"]["name"].startswith(f"kubebus-{name}-")), None)

        request = wait_until(asked, 20, f"node {name} to ask for a serving certificate")
        assert request is not None
        path = f"/apis/certificates.k8s.io/v1/certificatesigningrequests/{request['metadata']['name']}"
        self.kubectl("certificate", "approve", request["metadata"]["name"])
        request = json.loads(self.kubectl("get", "--raw", path))
        signed = self.server.authority.sign(base64.b64decode(request["spec"]["request"]))
        request["status"]["certificate"] = base64.b64encode(signed).decode()
        self.kubectl("replace", "--raw", f"{path}/status", "-f", "-", input=json.dumps(request))
        return str(request["metadata"]["name"])

    def allocate(self, name: str, *cidrs: str) -> None:
        """What node-ipam of kube-controller-manager does."""
        self.kubectl("patch", "node", name, "-p", json.dumps({"spec": {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)}}))

    def wait_condition(self, name: str, kind: str, reason: str, seconds: float = 30) -> dict[str, Any]:
        """Until a Node's condition has that reason; the condition."""

        def found() -> dict[str, Any] | None:
            conditions: list[dict[str, Any]] = self.kubectl.json("get", "node", name)["status"].get("conditions", [])
            return next((c for c in conditions if (c["type"], c.get("reason")) == (kind, reason)), None)

        condition = wait_until(found, seconds, f"{kind} of node {name} to be {reason}")
        assert condition is not None
        return condition


def sleeper(name: str, node: str, grace: int = 1, command: str = "trap exit TERM; while :; do sleep 1; done") -> Any:
    """A pod bound to the node (nobody schedules here)."""
    container = {"name": "main", "image": "busybox:lab", "command": ["sh", "-c", command]}
    spec = {"nodeName": node, "terminationGracePeriodSeconds": grace, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


__all__ = ["ACCOUNT", "MANIFESTS", "ClusterWorld", "Kubectl", "sleeper"]
