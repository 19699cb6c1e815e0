"""The manifests and the image for the cluster itself: accepted by a kube-apiserver, and running as they say."""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml
from twisted.trial.unittest import SynchronousTestCase

from examples.kubernetes.image import TAG, build
from tests.lab.engine import Engine
from tests.lab.internet import Internet
from tests.lab.kubernetes import KubeApiServer, kube_apiserver_program
from tests.lab.waiting import wait_until
from tests.lab.world import SharedWorld

MANIFESTS = Path(__file__).parents[2] / "examples" / "kubernetes"
ADDRESS = "10.10.0.10"
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


class InstallTests(SharedWorld, SynchronousTestCase):
    """One machine with a container engine and the API server: what the EIP node of a cluster is."""

    net: Internet
    server: KubeApiServer
    engine: Engine
    folder: Path

    @classmethod
    def build_world(cls) -> None:
        kube_apiserver_program()
        cls.folder = Path(cls.keep(tempfile.TemporaryDirectory()))
        cls.net = cls.keep(Internet(sites=0))
        cls.server = cls.keep(KubeApiServer(namespace=cls.net.eip, host=ADDRESS))
        cls.engine = cls.keep(Engine(cls.net.eip))
        cls.server.kubectl("apply", "-f", str(MANIFESTS / "rbac.yaml"))
        cls.server.kubectl("apply", "-n", "default", "-f", str(MANIFESTS / "namespace-access.yaml"))
        with closing(cls.engine.client()) as client, open(build(cls.folder / "kubebus.tar"), "rb") as image:
            client.api.load_image(image)

    def container(self, command: list[str], **host: Any) -> str:
        """A container of the image, as the host's network sees it; its ID."""
        with closing(self.engine.client()) as client:
            environment = {"KUBERNETES_SERVICE_HOST": ADDRESS, "KUBERNETES_SERVICE_PORT": "6443"}
            config = client.api.create_host_config(network_mode="host", **host)
            made = client.api.create_container(TAG, command, environment=environment, host_config=config)
            client.api.start(made["Id"])
        self.addCleanup(self.remove, made["Id"])
        return str(made["Id"])

    def remove(self, container: str) -> None:
        with closing(self.engine.client()) as client:
            client.api.remove_container(container, force=True)

    def logs(self, container: str) -> str:
        with closing(self.engine.client()) as client:
            return str(client.api.logs(container).decode())

    def execute(self, container: str, *command: str) -> tuple[int, str]:
        with closing(self.engine.client()) as client:
            handle = client.api.exec_create(container, list(command))["Id"]
            output = client.api.exec_start(handle).decode()
            return client.api.exec_inspect(handle)["ExitCode"], output

    def test_every_manifest_is_accepted(self) -> None:
        for path in sorted(MANIFESTS.glob("*.yaml")):
            with self.subTest(path.name):
                namespace = ("-n", "default") if path.name == "namespace-access.yaml" else ()
                self.server.kubectl("apply", "--dry-run=server", *namespace, "-f", str(path))
        self.server.kubectl("apply", "-f", str(MANIFESTS / "router.yaml"))
        found = self.server.kubectl.json("get", "deployment", "-n", "kubebus", "kubebus-router")
        self.assertEqual(1, found["spec"]["replicas"])

    def test_the_image_tells_of_its_options(self) -> None:
        container = self.container(["twistd", "kubebus", "--help"])
        wait_until(lambda: "--in-cluster" in self.logs(container), 30, "the help")
        with closing(self.engine.client()) as client:
            self.assertEqual(0, client.api.wait(container)["StatusCode"])

    def service_account(self) -> Path:
        """What a kubelet mounts into a pod of the account."""
        path = "/api/v1/namespaces/kubebus/serviceaccounts/kubebus/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        answer = self.server.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(request))
        mounted = self.folder / "serviceaccount"
        mounted.mkdir(exist_ok=True)
        (mounted / "token").write_text(json.loads(answer)["status"]["token"])
        (mounted / "ca.crt").write_bytes(self.server.authority.certificate.read_bytes())
        (mounted / "namespace").write_text("kubebus")
        return mounted

    def test_the_pod_of_the_manifest_stands_for_the_edge(self) -> None:
        """Run by the engine alone with what the manifest says: its command, options, rights and volumes."""
        options, deployment = yaml.safe_load_all((MANIFESTS / "router.yaml").read_text())
        spec = deployment["spec"]["template"]["spec"]
        (router,) = spec["containers"]
        self.assertEqual((TAG, True, "kubebus"), (router["image"], spec["hostNetwork"], spec["serviceAccountName"]))
        text = options["data"]["kubebus.toml"].replace("edge.example.com", ADDRESS)
        for name in ("config", "state", "run"):
            (self.folder / name).mkdir()
        (self.folder / "config" / "kubebus.toml").write_text(text)
        places = {"tun": "/dev/net/tun", **{name: str(self.folder / name) for name in ("config", "state", "run")}}
        mounts = {each["name"]: each["mountPath"] for each in router["volumeMounts"]}
        self.assertEqual(places.keys(), mounts.keys())
        binds = [f"{places[name]}:{path}" for name, path in mounts.items() if name != "tun"]
        # A machine that is a container itself cannot run privileged ones: the first container's program runs outside.
        (forwarding,) = spec["initContainers"]
        self.assertEqual(({"privileged": True}, TAG), (forwarding["securityContext"], forwarding["image"]))
        self.net.eip.run(
            ["sh", "-c", "echo 0 | tee /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding"]
        )
        self.net.eip.run([sys.executable, *forwarding["command"][1:]])
        self.assertEqual(
            {"allowPrivilegeEscalation": False, "capabilities": {"add": ["NET_ADMIN"]}}, router["securityContext"]
        )
        container = self.container(
            router["command"],
            cap_add=router["securityContext"]["capabilities"]["add"],
            security_opt=["no-new-privileges"],
            devices=[f"{places['tun']}:{mounts['tun']}:rwm"],
            binds=[*binds, f"{self.service_account()}:{SERVICE_ACCOUNT}:ro"],
        )
        wait_until(lambda: "edge controller is up" in self.logs(container), 60, "the controller to be up")
        with closing(self.engine.client()) as client:
            self.assertFalse(client.api.inspect_container(container)["HostConfig"]["Privileged"])
        probes = [router[kind]["exec"]["command"] for kind in ("startupProbe", "readinessProbe", "livenessProbe")]
        self.assertEqual(1, len({tuple(probe) for probe in probes}))
        code, told = self.execute(container, *probes[0])
        self.assertEqual(0, code, told)
        self.assertIn("10.250.0.1/", self.net.eip.run(["ip", "-4", "address", "show", "kb0"]).stdout)
        self.assertIn("dport 10250", self.net.eip.run(["nft", "list", "ruleset"]).stdout)
        lease = self.server.kubectl.json("get", "lease", "-n", "kubebus", "kubebus-default")
        self.assertTrue(lease["spec"]["holderIdentity"])
        code, token = self.execute(container, "kubebus", "token", "create")
        self.assertEqual(0, code, token)
        self.assertNotRegex(self.logs(container), "Traceback|Forbidden|#error")
        with closing(self.engine.client()) as client:
            client.api.stop(container, timeout=15)
        self.assertEqual(1, self.net.eip.run(["ip", "link", "show", "kb0"], check=False).returncode, "it cleans up")
