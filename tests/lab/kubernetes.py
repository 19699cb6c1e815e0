"""A real kube-apiserver over a real etcd, and the real kubectl.

The server's program is named by ``KUBE_APISERVER``; 1.20 and later are known to work. There is no controller manager
and no scheduler: a test that needs a Pod bound binds it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import SkipTest

from tests.lab.daemon import Daemon
from tests.lab.etcd import Etcd, free_ports
from tests.lab.lifetime import Starting
from tests.lab.namespace import Namespace, checked
from tests.lab.pki import Authority, KeyPair, signing_keys
from tests.lab.state import Run

ADMIN_GROUP = "system:masters"
SERVICE_CIDR = "10.96.0.0/24"

_FIRST_SERVED = {
    (1, 20): "node.k8s.io/v1",
    (1, 21): "policy/v1",
    (1, 23): "autoscaling/v2",
    (1, 29): "flowcontrol.apiserver.k8s.io/v1",
}
"""Which API tells a server from its predecessors (https://kubernetes.io/docs/reference/using-api/deprecation-guide/)."""


class Kubectl:
    """The real ``kubectl`` with one kubeconfig.

    :param namespace: the network namespace it runs in.
    :param program: which kubectl.
    """

    def __init__(self, kubeconfig: Path, *, namespace: Namespace | None = None, program: str = "kubectl") -> None:
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        self.program = program

    def command(self, *arguments: str) -> list[str]:
        """The command line, for a process that goes on (``get --watch``, ``logs -f``)."""
        # Its cache of the API is per address: other servers had the same one in earlier runs.
        cache = self.kubeconfig.parent / f"{self.kubeconfig.name}.cache"
        command = [self.program, f"--kubeconfig={self.kubeconfig}", f"--cache-dir={cache}", *arguments]
        return command if self.namespace is None else self.namespace.command(command)

    def run(
        self, *arguments: str, input: str | None = None, check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """:raises LabError: if ``check`` and it fails; with its output."""
        return checked(self.command(*arguments), check=check, input=input, timeout=timeout)

    def __call__(self, *arguments: str, input: str | None = None, timeout: float = 60) -> str:
        """Run it; what it printed.

        :raises LabError: if it fails.
        """
        return self.run(*arguments, input=input, timeout=timeout).stdout

    def apply(self, *objects: dict[str, Any]) -> str:
        """``kubectl apply -f -`` of the objects (as JSON)."""
        document = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        return self("apply", "-f", "-", input=json.dumps(document))

    def json(self, *arguments: str) -> Any:
        """``kubectl … -o json``, parsed."""
        return json.loads(self(*arguments, "-o", "json"))


class KubeApiServer(Starting):
    """kube-apiserver with RBAC, client certificates and service account keys; its etcd is its own unless given.

    Made stopped; :meth:`start` and the ``with`` statement start it.

    :param namespace: where it runs (and its own etcd).
    :param host: its address; another than loopback needs a namespace that has it.
    :raises unittest.SkipTest: if ``KUBE_APISERVER`` names no program.
    """

    def __init__(
        self,
        *,
        etcd: Etcd | None = None,
        namespace: Namespace | None = None,
        host: str = "127.0.0.1",
        options: Sequence[str] = (),
        run: Run | None = None,
    ) -> None:
        program = kube_apiserver_program()
        self.run_of = run or Run.current()
        self.namespace = namespace
        self.host = host
        self._own_etcd = etcd is None
        self.etcd = etcd or Etcd(namespace=namespace, run=self.run_of)
        self.path = self.run_of.directory("apiserver")
        self.port = free_ports(1)[0] if namespace is None else 6443
        self.authority = Authority(self.path, "kubernetes")
        self.server_pair = self.authority.issue(
            "kube-apiserver", hosts=[host, "localhost", "kubernetes.default.svc", "10.96.0.1"]
        )
        self.kubelet_client_pair = self.authority.issue("kube-apiserver-kubelet-client", organizations=[ADMIN_GROUP])
        self.admin_pair = self.authority.issue("admin", organizations=[ADMIN_GROUP])
        self.admin_kubeconfig = self.write_kubeconfig("admin", self.admin_pair)
        private, public = signing_keys(self.path, "service-accounts")
        command = [
            *(program, f"--bind-address={host}", f"--advertise-address={_advertised(host)}"),
            *(f"--secure-port={self.port}", f"--etcd-servers={','.join(self.etcd.urls)}"),
            *(f"--tls-cert-file={self.server_pair.certificate}", f"--tls-private-key-file={self.server_pair.key}"),
            *(f"--client-ca-file={self.authority.certificate}", "--authorization-mode=Node,RBAC"),
            *("--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={public}"),
            *(f"--service-account-signing-key-file={private}", f"--service-cluster-ip-range={SERVICE_CIDR}"),
            f"--kubelet-certificate-authority={self.authority.certificate}",
            f"--kubelet-client-certificate={self.kubelet_client_pair.certificate}",
            f"--kubelet-client-key={self.kubelet_client_pair.key}",
            # Nobody makes the service accounts that this would ask for.
            *("--disable-admission-plugins=ServiceAccount", "--allow-privileged=true"),
            *options,
        ]
        if self.etcd.authority is not None and self.etcd.client is not None:
            command += [f"--etcd-cafile={self.etcd.authority.certificate}"]
            command += [f"--etcd-certfile={self.etcd.client.certificate}", f"--etcd-keyfile={self.etcd.client.key}"]
        self.daemon = Daemon("kube-apiserver", command, namespace=namespace, run=self.run_of)
        self.kubectl = Kubectl(self.admin_kubeconfig, namespace=namespace)

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}"

    def write_kubeconfig(self, user: str, pair: KeyPair) -> Path:
        """A kubeconfig for whom the certificate names; its path."""
        path = self.path / f"{user}.kubeconfig"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "lab",
                    "cluster": {"server": self.url, "certificate-authority": str(self.authority.certificate)},
                }
            ],
            "users": [
                {"name": user, "user": {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}}
            ],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
            "current-context": "lab",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(config, indent=1))
        return path

    def start(self, timeout: float = 60) -> None:
        """Start it (and its own etcd), and wait until it is ready and has the namespace ``default``."""
        if self._own_etcd:
            self.etcd.start()
        if not self.daemon.alive:
            self.daemon.start()
        self.daemon.wait_for(self._ready, timeout)

    def _ready(self) -> bool:
        self.kubectl("get", "--raw", "/readyz", timeout=5)
        self.kubectl("get", "namespace", "default", timeout=5)
        return True

    def version(self) -> tuple[int, int]:
        """Major and minor of the server. Of a build that was not told its version: the lowest it can be."""
        told: str = json.loads(self.kubectl("get", "--raw", "/version"))["gitVersion"]
        major, minor = (int(part) for part in told.removeprefix("v").split(".")[:2])
        if major:
            return major, minor
        served = self.kubectl("api-versions").split()
        return max((version for version, group in _FIRST_SERVED.items() if group in served), default=(1, 19))

    def kill9(self) -> None:
        self.daemon.kill9()

    def stop(self) -> None:
        self.daemon.stop(70)

    def close(self) -> None:
        """Kill it, and its own etcd. May be repeated."""
        self.daemon.close(grace=0)
        if self._own_etcd:
            self.etcd.close()
        shutil.rmtree(self.path, ignore_errors=True)


def kube_apiserver_program() -> str:
    """What ``KUBE_APISERVER`` names.

    :raises unittest.SkipTest: if that is no program; says what to do.
    """
    program = os.environ.get("KUBE_APISERVER", "")
    if not program:
        raise SkipTest("KUBE_APISERVER is not set: set it to the path of a kube-apiserver to run this")
    if not os.access(program, os.X_OK):
        raise SkipTest(f"KUBE_APISERVER={program} is no program: set it to the path of a kube-apiserver")
    return program


def _advertised(host: str) -> str:
    """An address that the server accepts to advertise: not loopback."""
    return "198.51.100.10" if host.startswith("127.") else host
