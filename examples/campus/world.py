"""The campus's machines: three edge nodes and three cameras on one LAN behind NAT, the cloud, and a node in it."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from examples.demo.world import CHECKOUT, DATA, Edge, World, application_data
from examples.images import PYTHON, build_image
from kubebus.adminclient import AdminClient
from tests.lab.daemon import Daemon
from tests.lab.internet import Internet, Nat, Site
from tests.lab.namespace import Namespace
from tests.lab.waiting import LabError, wait_until

EDGES = ("edge-1", "edge-2", "edge-3")
CLOUD = "cloud-1"
SITE = "campus"
SITE_PORT = 4443
DATA_PORT = 2379
MANIFEST = Path(__file__).parent / "manifests/campus.yaml"
PLACEMENTS = {"balanced": ("here", "site", "cloud"), "all edge": ("here", "site"), "all cloud": ("cloud",)}

UPLINK = "8mbit"
POOR = "500kbit"
"""What goes out of the site, as tc(8) writes it. A frame has 154 kbit."""


class _NoNat(Nat):
    """The cloud's machines are behind none."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace


def images() -> dict[str, Path]:
    """The balancer's image, as any deployment would have it; and the detector's: Python and NumPy."""
    here = Path(__file__).parent
    files = {
        "/app/examples/metadata.py": here.parent / "metadata.py",
        "/app/examples/campus/__init__.py": here / "__init__.py",
        "/app/examples/campus/apps": here / "apps",
    }
    return {
        "balancer:example": build_image(
            "balancer", debs=PYTHON, wheels=["twisted"], files={"/app/balancer": CHECKOUT / "appengine" / "balancer"}
        ),
        "campus:example": build_image("campus", debs=(*PYTHON, "libstdc++6"), wheels=["numpy"], files=files),
    }


class CampusWorld(World):
    """Everything but what the story starts: the cloud's process, the agents, the pods; the cameras wait.

    :param more: more options of each agent.
    """

    def __init__(self, *more: str) -> None:
        self.powered_since: dict[str, float] = {}
        super().__init__(
            (*EDGES, CLOUD),
            edge_options=("--heartbeat", "10s", "--probe", "2s", "--data-port", str(DATA_PORT), *more),
        )
        try:
            self.site = self.net.sites[0]
            for edge in self.edges:
                if edge.name in EDGES:
                    edge.options = (*edge.options, "--site-listen", str(SITE_PORT))
            self._load_images()
            self.uplink(UPLINK)
            self.cameras = [self._camera(number) for number in range(1, len(EDGES) + 1)]
        except BaseException:
            self.close()
            raise

    def _internet(self, nodes: int) -> Internet:
        return Internet(sites=1, nodes_per_site=len(EDGES))

    def _places(self) -> Sequence[Site]:
        site = self.net.sites[0]
        at_site = [Site(site.name, site.public_address, site.nat, [node]) for node in site.nodes]
        return [*at_site, Site("cloud", self.net.vm_address, _NoNat(self.net.vm), [self.net.vm])]

    def _load_images(self) -> None:
        changes = ["ENV PYTHONPATH=/app", "ENV PYTHONUNBUFFERED=1", "ENV PATH=/usr/bin:/bin"]
        found = images()

        def load(edge: Edge) -> None:
            for reference, rootfs in found.items():
                edge.engine.load_image(reference, rootfs, changes)

        with ThreadPoolExecutor(len(self.edges)) as pool:
            list(pool.map(load, self.edges))

    def _camera(self, number: int) -> Daemon:
        place = self.net.namespace(f"camera-{number}")
        place.plug("eth0", self.net.switch, "lan1", f"s1-cam{number}", f"192.168.1.{50 + number}/24")
        self._control(number).write_text(json.dumps({"rate": 0}))
        # Its own node first, then its neighbours.
        order = [(number - 1 + step) % len(EDGES) for step in range(len(EDGES))]
        balancers = [f"{self.address(index)}:8080" for index in order]
        files = [str(self._control(number)), str(self.path / f"camera-{number}.jsonl")]
        command = [sys.executable, "-m", "examples.campus.camera", str(number), *files, *balancers]
        camera = Daemon(f"camera-{number}", command, namespace=place, cwd=CHECKOUT)
        self._kept.callback(camera.close)
        camera.start()
        return camera

    def _control(self, number: int) -> Path:
        return self.path / f"camera-{number}.json"

    def address(self, index: int) -> str:
        """Of the edge node on its LAN."""
        return f"192.168.1.{11 + index}"

    def edge(self, name: str) -> Edge:
        return next(edge for edge in self.edges if edge.name == name)

    def rates(self, rates: Sequence[float]) -> None:
        """Tell the cameras how many frames a second to send."""
        for number, rate in enumerate(rates, 1):
            fresh = self._control(number).with_suffix(".new")
            fresh.write_text(json.dumps({"rate": rate}))
            fresh.rename(self._control(number))

    def uplink(self, rate: str) -> None:
        """How much goes out of the site."""
        shape = f"tc qdisc replace dev wan root tbf rate {rate} burst 16kb latency 400ms"
        self.site.nat.namespace.run(shape.split())

    def frames(self) -> list[dict[str, Any]]:
        """What came of every frame so far, with its camera."""
        return [{**frame, "camera": camera} for camera, frames in self.by_camera().items() for frame in frames]

    def by_camera(self) -> dict[str, list[dict[str, Any]]]:
        found = {}
        for number in range(1, len(EDGES) + 1):
            path = self.path / f"camera-{number}.jsonl"
            lines = path.read_text().split("\n")[:-1] if path.exists() else []
            found[f"camera-{number}"] = [json.loads(line) for line in lines]
        return found

    def settled(self, until: float) -> bool:
        """Whether all frames taken before a time have an outcome: each camera has a later one, and none is missing."""
        for frames in self.by_camera().values():
            numbered = {each["number"]: each["time"] for each in frames if "number" in each}
            first_after = min((number for number, at in numbered.items() if at >= until), default=None)
            if first_after is None or not set(range(1, first_after)) <= set(numbered):
                return False
        return True

    def node(self, name: str) -> dict[str, Any]:
        """What an edge node's agent tells of itself."""
        status: dict[str, Any] = AdminClient(str(self.edge(name).socket)).get("/v1/status")
        return status

    def neighbours(self, name: str) -> set[str]:
        """To whom an edge node has a link of its own."""
        return {each["name"] for each in self.node(name)["site"]["neighbours"] if each["connected"]}

    def errand(self, name: str, *arguments: str) -> dict[str, Any]:
        """Run ``apps/errand.py`` in the pod of an edge node; its answer.

        :raises LabError: if it is none.
        """
        command = ("python3.11", "-m", "examples.campus.apps.errand", *arguments)
        output = self.edge(name).execute(self.vision[name], *command, container="clerk")
        try:
            answer: dict[str, Any] = json.loads(output)
        except ValueError:
            raise LabError(f"errand {' '.join(arguments)} at {name}: {output}") from None
        return answer

    def errands(self, arguments: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
        """The same on several nodes at once."""
        with ThreadPoolExecutor(len(arguments)) as pool:
            answers = pool.map(lambda name: self.errand(name, *arguments[name]), arguments)
            return dict(zip(arguments, answers, strict=True))

    def site_data(self, prefix: str, at: str = "") -> dict[str, str]:
        """What an edge node, or else the cloud, has of the site's data below a prefix; values are JSON."""
        below = f"site.{SITE}/default/"
        socket = self.edge(at).socket if at else self.cloud_socket
        found = application_data(socket, below + prefix)
        return {key.removeprefix(f"{DATA}/{below}"): value for key, value in found.items()}

    def power_off(self, name: str) -> None:
        """A node loses its power: its agent, its engine, its containers, and whatever else runs there."""
        victim = self.edge(name)
        assert victim.agent is not None
        victim.agent.kill9()
        victim.engine.power_cut()
        for pid in victim.site.node.processes():
            os.kill(pid, signal.SIGKILL)

    def power_on(self, name: str) -> Daemon:
        """It boots: engine and agent start from what stands on its disk."""
        self.powered_since[name] = time.time()
        victim = self.edge(name)
        victim.engine.start(90)
        return victim.boot()

    def cable(self, name: str, *, plugged: bool) -> None:
        """The cable of an edge node to the LAN."""
        self.net.switch.ip(f"link set s1-e{EDGES.index(name) + 1} {'up' if plugged else 'down'}")

    def balancer(self, index: int) -> dict[str, Any]:
        """What the balancer of an edge node tells of itself, asked by a machine on its LAN."""
        url = f"http://{self.address(index)}:8080/status"
        asked = self.site.nat.namespace.run(["timeout", "3", "busybox", "wget", "-q", "-O", "-", url])
        found: dict[str, Any] = json.loads(asked.stdout)
        return found

    def workers_up(self, index: int, place: str) -> int:
        return sum(worker["up"] for worker in self.balancer(index)["workers"] if worker["place"] == place)

    def place_work(self, placement: str) -> None:
        """Have all balancers follow another policy: the same, with some of its places."""
        wanted = list(PLACEMENTS[placement])
        config = self.kubectl.json("get", "configmap", "balancing")
        policy = json.loads(config["data"]["policy.json"])
        policy["places"] = [place for place in self.policy["places"] if place["name"] in wanted]
        patch = {"data": {"policy.json": json.dumps(policy)}}
        self.kubectl("patch", "configmap", "balancing", "--type=merge", "-p", json.dumps(patch))
        for index in range(len(EDGES)):
            what = f"{EDGES[index]} to follow the policy {placement!r}"
            wait_until(partial(self._follows, index, wanted), 60, what, interval=0.3)

    def _follows(self, index: int, places: list[str]) -> bool:
        told = self.balancer(index)
        return told["places"] == places and {worker["place"] for worker in told["workers"]} == set(places)

    powered_since: dict[str, float]
    """When a node that had lost its power got it back, seconds since the epoch."""
    policy: dict[str, Any]
    """As in the manifest; read from the cloud once it is there."""
    vision: dict[str, str]
    """The names of the pods at the edge, by their nodes."""
