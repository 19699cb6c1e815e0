"""The utility's machines: three sites behind NAT with their field devices, the cloud with its etcd, and the plant."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from examples.demo.world import CHECKOUT, Edge, World, application_data, stored
from examples.images import PYTHON, build_image
from examples.water.apps.registers import VALUES
from tests.lab.daemon import Daemon
from tests.lab.etcd import Etcd
from tests.lab.lifetime import Starting
from tests.lab.namespace import Namespace
from tests.lab.state import Run

SITES = tuple(VALUES)
NAMESPACE = "water"
IMAGE = "water:example"
MANIFESTS = Path(__file__).parent / "manifests"
DEVICE_ADDRESS = "192.168.1.50"
DATA_PORT = 2379


def image() -> Path:
    """The one image of all applications: Python, pymodbus, and the modules of ``examples/water/apps``."""
    here = Path(__file__).parent
    files = {
        "/app/examples/metadata.py": here.parent / "metadata.py",
        "/app/examples/water/__init__.py": here / "__init__.py",
        "/app/examples/water/apps": here / "apps",
    }
    return build_image("water", debs=PYTHON, wheels=["pymodbus>=3.16,<4"], files=files)


class PlantRun(Starting):
    """The plant's process and its field devices' processes.

    :param places: where the devices are, in the order of ``SITES``.
    :param scale: how many seconds of the plant's go by in one of ours.
    :param first: the number of the first sample.
    """

    def __init__(self, path: Path, places: Sequence[Namespace], scale: float, first: int) -> None:
        self._socket, self._record = path / "plant.sock", path / "plant.jsonl"
        command = [sys.executable, "-m", "examples.water.plant", str(self._socket), str(self._record)]
        self.process = Daemon("plant", [*command, "--scale", f"{scale:g}", "--first", str(first)], cwd=CHECKOUT)
        self._devices = []
        for site, place in zip(SITES, places, strict=True):
            command = [sys.executable, "-m", "examples.water.device", site, str(self._socket)]
            self._devices.append(Daemon(f"device-{site}", command, namespace=place, cwd=CHECKOUT))

    def start(self) -> None:
        self.process.start()
        self.process.wait_for("the plant waits", 30)
        for device in self._devices:
            device.start()
        for device in self._devices:
            device.wait_for("Modbus/TCP on port", 30)
        self.process.wait_for(self.record, 30)

    def go(self) -> None:
        """Let the plant's time run."""
        with closing(socket.socket(socket.AF_UNIX)) as line:
            line.connect(str(self._socket))
            line.sendall(json.dumps({"go": True}).encode() + b"\n")

    def record(self) -> list[dict[str, Any]]:
        """Every sample of the plant so far; see ``plant.py``."""
        lines = self._record.read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        for each in (*self._devices, self.process):
            each.close()


class WaterWorld(World):
    """Everything but what the story starts: the cloud's process, the agents, the pods.

    :param scale: how many seconds of the plant's go by in one of ours.
    :param more: more options of each agent.
    """

    def __init__(self, scale: float, *more: str) -> None:
        self.scale = scale
        super().__init__(
            SITES,
            cloud_options=("--store", "etcd://127.0.0.1:2379"),
            edge_options=("--data-port", str(DATA_PORT), *more),
        )
        try:
            self.etcd = self._kept.enter_context(Etcd(namespace=self.net.eip))
            rootfs = image()
            changes = ["ENV PYTHONPATH=/app", "ENV PYTHONUNBUFFERED=1", "ENV PATH=/usr/bin:/bin"]
            for edge in self.edges:
                edge.engine.load_image(IMAGE, rootfs, changes)
            self._device_places = [self._device_place(number, site) for number, site in enumerate(SITES, 1)]
            self.plant = self.new_plant(scale)
        except BaseException:
            self.close()
            raise

    def _device_place(self, number: int, site: str) -> Namespace:
        place = self.net.namespace(f"{site}-device")
        place.plug("eth0", self.net.switch, f"lan{number}", f"s{number}-dev", f"{DEVICE_ADDRESS}/24")
        return place

    def new_plant(self, scale: float, first: int = 1) -> PlantRun:
        """A plant and its field devices, at the beginning of its first day, waiting to be let go."""
        return self._kept.enter_context(PlantRun(Run.current().directory("plant"), self._device_places, scale, first))

    def record(self) -> list[dict[str, Any]]:
        """Every sample of the plant so far; see ``plant.py``."""
        return self.plant.record()

    def now(self) -> float:
        """Seconds by the plant's clock, at its latest sample."""
        return float(self.record()[-1]["time"])

    def edge(self, name: str) -> Edge:
        return next(edge for edge in self.edges if edge.name == name)

    def in_cloud(self, prefix: str) -> dict[str, str]:
        """What the cloud's metadata has below ``DATA``/``prefix``, by the rest of the key."""
        return application_data(self.cloud_socket, prefix)

    def at_site(self, edge: Edge, prefix: str) -> dict[str, str]:
        """The same of a site's."""
        return application_data(edge.socket, prefix)

    def stamp(self, key: str, where: Edge | None = None) -> list[dict[str, Any]]:
        """The counter and origin of a key of the application data, in the cloud or at a site."""
        administration = self.cloud_socket if where is None else where.socket
        return stored(administration, f"/kubebus/default/sync/stamps/{key}")

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
