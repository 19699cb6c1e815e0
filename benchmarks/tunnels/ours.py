"""Ours, as users run it: ``twistd kubebus`` at the hub, ``twistd edgenode`` at the edges."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import ClassVar

from benchmarks import imports
from benchmarks.tunnels.base import Tunnel
from tests.lab.daemon import Daemon
from tests.lab.namespace import Namespace, checked
from tests.lab.waiting import wait_until

CHECKOUT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
PORT = 443


def twistd(plugin: str, *options: str, namespace: Namespace) -> Daemon:
    """One of our two programs, not started yet."""
    return Daemon(
        plugin,
        [str(PROGRAMS / "twistd"), "--nodaemon", "--pidfile=", plugin, *options],
        namespace=namespace,
        cwd=CHECKOUT,
        env={"PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1", **compiled()},
    )


@cache
def compiled() -> dict[str, str]:
    """The environment in which Python finds everything compiled, as it does where it was started before: compiling
    leaves 5 MB behind."""
    folder = Path(tempfile.gettempdir()) / "kubebus-benchmarks-bytecode"
    env = {"PYTHONPYCACHEPREFIX": str(folder), "PYTHONDONTWRITEBYTECODE": ""}
    for options in (["-OO", "-m", imports.__name__], ["-m", imports.__name__, "--plain"]):
        command = [str(PROGRAMS / "python"), *options]
        subprocess.run(command, cwd=CHECKOUT, env={**os.environ, **env}, check=True, capture_output=True)
    return env


def kubebus(socket: Path, *arguments: str) -> str:
    """What the command ``kubebus`` prints."""
    return checked([str(PROGRAMS / "kubebus"), "--socket", str(socket), *arguments]).stdout


class Kubebus(Tunnel):
    name: ClassVar[str] = "kubebus"
    hub_options: tuple[str, ...] = ()

    def launch(self) -> None:
        addresses = [self.hub.hub_address(number) for number in range(1, len(self.hub.edges) + 1)]
        public = [option for address in addresses for option in ("--public-address", address)]
        self.hub_process = twistd(
            "kubebus",
            *("--state-dir", str(self.folder / "hub"), "--socket", str(self.socket), "--listen-port", str(PORT)),
            *(*public, *self.hub_options),
            namespace=self.hub.namespace,
        )
        self.hub_process.start()
        self.hub_process.wait_for(lambda: kubebus(self.socket, "status"), 30)
        for number, edge in enumerate(self.hub.edges, 1):
            token = kubebus(self.socket, "token", "create", "--node", f"e{number}").strip().splitlines()[-1]
            process = twistd(
                "edgenode",
                *("--state-dir", str(self.folder / f"e{number}"), "--socket", str(self.folder / f"e{number}.sock")),
                *("--join", token, "--node-name", f"e{number}", *self.options_of(number)),
                namespace=edge,
            )
            self.edge_processes.append(process)
            process.start()
        # In turn, so that each has the address that belongs to its number, but started together.
        for number in range(1, len(self.hub.edges) + 1):
            wait_until(lambda number=number: self.address(number), 30, f"edge {number} has joined")  # type: ignore[misc]

    def options_of(self, number: int) -> tuple[str, ...]:
        """More options of edge ``number``, from 1."""
        return ("--no-pods",)

    @property
    def socket(self) -> Path:
        return self.folder / "hub.sock"

    def address(self, edge: int) -> str:
        return self._addresses(edge)[0]

    def address6(self, edge: int) -> str:
        return self._addresses(edge)[1]

    def _addresses(self, edge: int) -> list[str]:
        nodes = json.loads(kubebus(self.socket, "--json", "status"))["nodes"]
        (node,) = [node for node in nodes if node["name"] == f"e{edge}" and node["connected"]]
        return [str(each) for each in node["addresses"]]
