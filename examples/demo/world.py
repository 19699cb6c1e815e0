"""The machines of the story: the cloud's router and the devices, each a real process in its own namespace."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from kubebus.adminclient import AdminClient, AdminError
from tests.lab.daemon import Daemon
from tests.lab.engine import Engine
from tests.lab.internet import Internet, Site
from tests.lab.kubernetes import Kubectl
from tests.lab.lifetime import Closing
from tests.lab.namespace import checked
from tests.lab.state import Run
from tests.lab.waiting import LabError, wait_until

CHECKOUT = Path(__file__).parents[2]
DATA = "/kubebus/default/data"
"""Below it stands the application data, in the cloud and on each device."""
PROGRAMS = Path(sys.executable).parent
PORT = 443


def twistd(plugin: str, *options: str) -> list[str]:
    """The command line of a plugin in the foreground, without a pid file (each has its own machine)."""
    return [str(PROGRAMS / "twistd"), "--nodaemon", "--pidfile=", plugin, *options]


@dataclass
class Edge:
    """A device: its place, its Docker engine, and the ``edgenode`` process once it has joined."""

    name: str
    site: Site
    engine: Engine
    path: Path
    options: Sequence[str] = ()
    """More options of its agent."""
    agent: Daemon | None = None

    @property
    def socket(self) -> Path:
        return self.path / "edge.sock"

    def join(self, join_string: str) -> Daemon:
        """Start the agent for the first time, with what ``kubebus token create`` printed."""
        self.agent = self._daemon("--join", join_string)
        self.agent.start()
        return self.agent

    def boot(self) -> Daemon:
        """Start the agent again: from what stands on its disk, without a join string."""
        if self.agent is not None:
            self.agent.close()
        self.agent = self._daemon()
        self.agent.start()
        return self.agent

    def _daemon(self, *options: str) -> Daemon:
        command = twistd(
            "edgenode",
            *("--state-dir", str(self.path), "--node-name", self.name),
            *("--docker", self.engine.url, "--socket", str(self.socket)),
            *(*self.options, *options),
        )
        return Daemon(f"edgenode-{self.name}", command, namespace=self.site.node, cwd=CHECKOUT, env=_ENVIRONMENT)

    def containers(self, pod: str, name: str = "", *, everything: bool = False) -> list[ContainerView]:
        """A pod's containers by the engine, without its pause container: the living ones, or ``everything``.

        :param name: of one of its containers, if only that is wanted.
        """
        found = []
        with closing(self.engine.client()) as client:
            for container in client.api.containers(all=everything):
                labels = container["Labels"] or {}
                if labels.get("io.kubernetes.pod.name") != pod:
                    continue
                # The pause container, which holds the pod's network, is the one without a container name.
                its = labels.get("io.kubernetes.container.name", "POD")
                if its == name or (not name and its != "POD"):
                    inspected = client.api.inspect_container(container["Id"])
                    found.append(ContainerView(container["Id"], inspected["State"]["StartedAt"]))
        return found

    def execute(self, pod: str, *command: str, container: str = "") -> str:
        """Run a command in a pod's one container, or the one of this name, by the engine; its output."""
        (found,) = self.containers(pod, container)
        with closing(self.engine.client()) as client:
            handle = client.api.exec_create(found.id, list(command))
            output: bytes = client.api.exec_start(handle["Id"])
        return output.decode(errors="replace")

    def log(self, pod: str) -> str:
        """What the pod's container has written."""
        (container,) = self.containers(pod)
        with closing(self.engine.client()) as client:
            output: bytes = client.api.logs(container.id)
        return output.decode(errors="replace")

    def kubebus(self, *arguments: str) -> str:
        """Run the ``kubebus`` command on the device; what it printed."""
        return checked([str(PROGRAMS / "kubebus"), "--socket", str(self.socket), *arguments]).stdout

    def remove_containers(self) -> int:
        """Kill and remove every container on the device behind everybody's back; how many there were."""
        with closing(self.engine.client()) as client:
            containers = client.api.containers(all=True)
            for container in containers:
                client.api.remove_container(container["Id"], force=True)
        return len(containers)


_ENVIRONMENT = {"PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class ContainerView:
    """Two equal views are the same run of the same container."""

    id: str
    started: str


class World(Closing):
    """The whole of it. Engines run from the start; the cloud and the agents are started by the story.

    :param names: the nodes', one at each site.
    :param cloud_options: more options of the cloud's process.
    :param edge_options: more options of each agent.
    """

    def __init__(
        self,
        names: Sequence[str] = ("edge-1", "edge-2"),
        *,
        cloud_options: Sequence[str] = (),
        edge_options: Sequence[str] = (),
    ) -> None:
        self._kept = ExitStack()
        self._cloud_options, self._edge_options = cloud_options, edge_options
        try:
            self.path = Run.current().directory("demo")
            self.net = self._kept.enter_context(self._internet(len(names)))
            self.edges = [self._edge(name, place) for name, place in zip(names, self._places(), strict=True)]
            for edge in self.edges:
                edge.engine.launch()
            for edge in self.edges:
                edge.engine.ready()
            self.cloud = self._cloud()
            self.kubectl = Kubectl(self.path / "kubeconfig", namespace=self.net.eip)
        except BaseException:
            self.close()
            raise

    def _internet(self, nodes: int) -> Internet:
        return Internet(sites=nodes)

    def _places(self) -> Sequence[Site]:
        """Where the nodes are, each with one machine."""
        return self.net.sites

    def _edge(self, name: str, site: Site) -> Edge:
        engine = Engine(site.node)
        self._kept.callback(engine.close)
        path = self.path / name
        path.mkdir(mode=0o700)
        return Edge(name, site, engine, path, self._edge_options)

    def _cloud(self) -> Daemon:
        self.cloud_path = self.path / "cloud"
        self.cloud_path.mkdir(mode=0o700)
        advertised = [option for cidr in self.net.cloud_cidrs for option in ("--advertise", cidr)]
        command = twistd(
            "kubebus",
            *("--state-dir", str(self.cloud_path), "--public-address", self.net.eip_address),
            *("--listen-port", str(PORT), *advertised),
            *("--standalone", "--kubeconfig-out", str(self.path / "kubeconfig")),
            *("--socket", str(self.cloud_socket)),
            *self._cloud_options,
        )
        cloud = Daemon("kubebus", command, namespace=self.net.eip, cwd=CHECKOUT, env=_ENVIRONMENT)
        self._kept.callback(cloud.close)
        return cloud

    @property
    def cloud_socket(self) -> Path:
        return self.path / "cloud.sock"

    def kubebus(self, *arguments: str) -> str:
        """Run the ``kubebus`` command on the EIP VM; what it printed."""
        return checked([str(PROGRAMS / "kubebus"), "--socket", str(self.cloud_socket), *arguments]).stdout

    def start_cloud(self) -> float:
        """Start the cloud's process, and wait until its Kubernetes API answers; the seconds that took."""
        began = time.monotonic()
        self.cloud.start()
        self.cloud.wait_for(lambda: self.kubectl("get", "namespaces", timeout=10), 30)
        return time.monotonic() - began

    def node_ready(self, name: str) -> bool:
        """What the Kubernetes API says of the node's Ready condition."""
        return self.condition("node", name, "Ready") == "True"

    def condition(self, kind: str, name: str, condition: str) -> str:
        for each in self.kubectl.json("get", kind, name)["status"].get("conditions", []):
            if each["type"] == condition:
                status: str = each["status"]
                return status
        return "Unknown"

    def pod(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.kubectl.json("get", "pod", name)
        return found

    def pods(self) -> list[dict[str, Any]]:
        """All pods of the namespace ``default``, as the Kubernetes API has them."""
        found: list[dict[str, Any]] = self.kubectl.json("get", "pods")["items"]
        return found

    def pod_ip(self, name: str) -> str:
        address: str = self.pod(name)["status"]["podIP"]
        return address

    def wait_running(self, name: str, timeout: float = 60) -> dict[str, Any]:
        """Wait until the API shows the pod Running with all its containers ready; the pod."""

        def running() -> dict[str, Any] | None:
            pod = self.pod(name)
            status = pod["status"]
            ready = [container["ready"] for container in status.get("containerStatuses", [])]
            return pod if status.get("phase") == "Running" and ready and all(ready) else None

        found = wait_until(running, timeout, f"pod {name} Running and ready in the Kubernetes API", interval=0.2)
        assert found is not None
        return found

    def look_around(self) -> list[str]:
        """Commands for people."""
        enter = f"nsenter --net={self.net.eip.path}"
        socket = f"--socket {shlex.quote(str(self.cloud_socket))}"
        kubectl = f"{enter} kubectl --kubeconfig {shlex.quote(str(self.kubectl.kubeconfig))}"
        first = self.edges[0]
        return [
            f"{kubectl} get nodes,pods -o wide",
            f"{PROGRAMS / 'kubebus'} {socket} status",
            f"{enter} ping {self.pod_ip('web')}",
            f"nsenter --net={first.site.node.path} ip -brief address        # on the first device",
            f"DOCKER_HOST={first.engine.url} docker ps",
            f"tail -f {self.cloud.log} {' '.join(str(edge.agent.log) for edge in self.edges if edge.agent)}",
        ]

    def logs(self, but: str = "") -> str:
        """The ends of all logs but those that are named in ``but``, for a report of a failure."""
        daemons = [self.cloud, *(edge.agent for edge in self.edges if edge.agent)]
        return "\n".join(f"--- {daemon.log}\n{daemon.tail(25)}" for daemon in daemons if str(daemon.log) not in but)

    def close(self) -> None:
        """Take all of it down. May be repeated."""
        for edge in getattr(self, "edges", ()):
            if edge.agent is not None:
                edge.agent.close()
        self._kept.close()


def stored(administration: Path, prefix: str) -> list[dict[str, Any]]:
    """What ``kubebus meta get --prefix`` shows of a store, without a process for each question; in order of keys.

    :param administration: the daemon's socket.
    :raises LabError: if it does not answer.
    """
    query = urlencode({"prefix": prefix, "limit": 10_000})
    try:
        found: list[dict[str, Any]] = AdminClient(str(administration)).get(f"/v1/meta/keys?{query}")["kvs"]
    except AdminError as error:
        raise LabError(str(error)) from error
    return found


def application_data(administration: Path, prefix: str) -> dict[str, str]:
    """What a store has below ``DATA``/``prefix``, by key."""
    return {kv["key"]: kv["value"] for kv in stored(administration, f"{DATA}/{prefix}")}


def memory_of(pid: int) -> tuple[float, float]:
    """RSS and PSS of a process, in MB."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    values = {line.split(":")[0]: int(line.split()[1]) for line in rollup.splitlines() if line.endswith(" kB")}
    return values["Rss"] / 1024, values["Pss"] / 1024
