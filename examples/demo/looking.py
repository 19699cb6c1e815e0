"""How the story looks at what came of it."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from ipaddress import ip_address, ip_network

from examples.demo.telling import NotAsTold
from examples.demo.world import Edge, World
from tests.lab.namespace import Namespace
from tests.lab.waiting import wait_until


def in_subnet(text: str, subnet: str) -> bool:
    try:
        return ip_address(text.partition("/")[0]) in ip_network(subnet)
    except ValueError:
        return False


class PhaseWatch:
    """``kubectl get pod NAME -w`` in the background, with the time of every phase it prints."""

    def __init__(self, world: World, name: str) -> None:
        self._command = world.kubectl.command(
            "get", "pods", "-w", f"--field-selector=metadata.name={name}", "-o", 'jsonpath={.status.phase}{"\\n"}'
        )
        self._seen: dict[str, float] = {}

    def __enter__(self) -> PhaseWatch:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._seen.setdefault(line.strip(), time.monotonic())

    def first(self, phase: str) -> float:
        """When the phase was first seen.

        :raises LabError: if it is not within two seconds.
        """
        return wait_until(lambda: self._seen.get(phase), 2, f"kubectl get -w to show {phase}") or 0.0

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()


def fetch(namespace: Namespace, address: str) -> str:
    """GET / of ``address`` from a machine."""
    return namespace.run(["timeout", "5", "busybox", "wget", "-q", "-O", "-", f"http://{address}/"]).stdout


class Following:
    """A command in the background, and what it has printed."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._lines: list[str] = []

    def text(self) -> str:
        return "".join(self._lines)

    def __enter__(self) -> Following:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self._process.stdout is not None
        self._lines.extend(iter(self._process.stdout.readline, ""))

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()


def pod_address_at(edge: Edge, pod: str) -> str:
    """The pod's IP as it is inside its container: without the cloud."""
    inside = edge.execute(pod, "ip", "-o", "-4", "address", "show", "eth0")
    found = re.search(r"inet (\S+)/", inside)
    if found is None:
        raise NotAsTold(f"expected an address in pod {pod}; seen: {inside}")
    return found.group(1)


def wait_serving(edge: Edge, pod: str) -> str:
    """Wait until the pod's web server answers its own device; the page."""

    def serving() -> str:
        return fetch(edge.site.node, pod_address_at(edge, pod)) if edge.containers(pod) else ""

    assert edge.agent is not None
    edge.agent.wait_for(serving, 40)
    return serving()


def told_running(world: World, pod: str, container: str) -> bool:
    """Whether the pod's status says that it is Running, ready, and in this container."""
    status = world.pod(pod)["status"]
    told = [(each["ready"], each.get("containerID")) for each in status.get("containerStatuses", [])]
    return status["phase"] == "Running" and told == [(True, container)]


def back(world: World, edge: Edge) -> bool:
    """Whether the node is Ready and packets pass between the router and the device."""
    if not world.node_ready(edge.name):
        return False
    address = edge.site.node.run(["ip", "-o", "-4", "address", "show", "dev", "kb0"]).stdout
    found = re.search(r"inet (\S+)/", address)
    return found is not None and world.net.eip.ping(found.group(1), timeout=1)
