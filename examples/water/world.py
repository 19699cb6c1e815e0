"""The utility's machines: three sites behind NAT with their field devices, the cloud with its etcd, and the plant."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from examples.demo.world import CHECKOUT, Edge, World
from examples.images import PYTHON, build_image
from examples.water.apps.registers import VALUES
from kubebus.adminclient import AdminClient, AdminError
from tests.lab.daemon import Daemon
from tests.lab.etcd import Etcd
from tests.lab.waiting import LabError

SITES = tuple(VALUES)
NAMESPACE = "water"
IMAGE = "water:example"
MANIFESTS = Path(__file__).parent / "manifests"
DEVICE_ADDRESS = "192.168.1.50"
DATA_PORT = 2379
DATA = "/kubebus/default/data"


def image() -> Path:
    """The one image of all applications: Python, pymodbus, and the modules of ``examples/water/apps``."""
    here = Path(__file__).parent
    files = {
        "/app/examples/water/__init__.py": here / "__init__.py",
        "/app/examples/water/apps": here / "apps",
    }
    return build_image("water", debs=PYTHON, wheels=["pymodbus==3.*"], files=files)


class WaterWorld(World):
    """Everything but what the story starts: the cloud's process, the agents, the pods.

    :param scale: how many seconds of the plant's go by in one of ours.
    """

    def __init__(self, scale: float) -> None:
        self.scale = scale
        super().__init__(
            SITES,
            cloud_options=("--store", "etcd://127.0.0.1:2379"),
            edge_options=("--data-port", str(DATA_PORT)),
        )
        try:
            self.etcd = self._kept.enter_context(Etcd(namespace=self.net.eip))
            rootfs = image()
            changes = ["ENV PYTHONPATH=/app", "ENV PYTHONUNBUFFERED=1", "ENV PATH=/usr/bin:/bin"]
            for edge in self.edges:
                edge.engine.load_image(IMAGE, rootfs, changes)
            self._start_plant()
        except BaseException:
            self.close()
            raise

    def _start_plant(self) -> None:
        self.plant_socket, self.plant_record = self.path / "plant.sock", self.path / "plant.jsonl"
        command = [sys.executable, "-m", "examples.water.plant", str(self.plant_socket), str(self.plant_record)]
        self.plant = Daemon("plant", [*command, "--scale", str(self.scale)], cwd=CHECKOUT)
        self._kept.callback(self.plant.close)
        self.plant.start()
        self.plant.wait_for("the plant waits", 30)
        self.devices = []
        for number, site in enumerate(SITES, 1):
            place = self.net.namespace(f"{site}-device")
            place.plug("eth0", self.net.switch, f"lan{number}", f"s{number}-dev", f"{DEVICE_ADDRESS}/24")
            command = [sys.executable, "-m", "examples.water.device", site, str(self.plant_socket)]
            device = Daemon(f"device-{site}", command, namespace=place, cwd=CHECKOUT)
            self._kept.callback(device.close)
            device.start()
            self.devices.append(device)
        for device in self.devices:
            device.wait_for("Modbus/TCP on port", 30)

    def go(self) -> None:
        """Let the plant's time run."""
        with closing(socket.socket(socket.AF_UNIX)) as line:
            line.connect(str(self.plant_socket))
            line.sendall(json.dumps({"go": True}).encode() + b"\n")

    def record(self) -> list[dict[str, Any]]:
        """Every sample of the plant so far; see ``plant.py``."""
        lines = self.plant_record.read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def now(self) -> float:
        """Seconds by the plant's clock, at its latest sample."""
        return float(self.record()[-1]["time"])

    def edge(self, name: str) -> Edge:
        return next(edge for edge in self.edges if edge.name == name)

    def in_cloud(self, prefix: str) -> dict[str, str]:
        """What the cloud's metadata has below ``DATA``/``prefix``, by the rest of the key."""
        return _found(self.cloud_socket, prefix)

    def at_site(self, edge: Edge, prefix: str) -> dict[str, str]:
        """The same of a site's."""
        return _found(edge.socket, prefix)

    def decisions(self, where: Edge | None = None) -> list[dict[str, Any]]:
        """The controller's decisions as the cloud, or the site, has them."""
        prefix = f"node.valve/{NAMESPACE}/decisions/"
        found = self.in_cloud(prefix) if where is None else self.at_site(where, prefix)
        return [json.loads(value) for _, value in sorted(found.items())]

    def readings(self, site: str) -> dict[int, dict[str, float]]:
        """A site's readings in the cloud, by number."""
        found: dict[int, dict[str, float]] = {}
        for hundred in self._hundreds():
            prefix = f"node.{site}/{NAMESPACE}/readings/{hundred:08}"
            for key, value in self.in_cloud(prefix).items():
                found[int(key.rpartition("/")[2])] = json.loads(value)
        return found

    def _hundreds(self) -> Iterator[int]:
        # A hundred at a time: an answer of the administration socket is limited.
        last: int = self.record()[-1]["number"]
        yield from range(last // 100 + 1)


def _found(administration: Path, prefix: str) -> dict[str, str]:
    # What `kubebus meta get --prefix` does, without a process for each question.
    query = urlencode({"prefix": f"{DATA}/{prefix}", "limit": 10_000})
    try:
        answer = AdminClient(str(administration)).get(f"/v1/meta/keys?{query}")
    except AdminError as error:
        raise LabError(str(error)) from error
    return {kv["key"]: kv["value"] for kv in answer["kvs"]}
