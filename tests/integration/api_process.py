"""An embedded control plane in a process of its own, for tests that treat it as a server: it can be killed.

``python -m tests.integration.api_process FOLDER PORT [STORE IDENTITY]``: the certificates are in FOLDER, and the store
is unless STORE names one that IDENTITY shares with others.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.lab.daemon import Daemon
from tests.lab.kubernetes import Kubectl
from tests.lab.state import Run

ROOT = Path(__file__).parents[2]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class EmbeddedApi:
    """The process. The ``with`` statement starts it, waits until it serves, and ends it."""

    def __init__(self, *shared: str) -> None:
        run = Run.current()
        self.path = run.directory("embedded-api")
        self.port = _free_port()
        self.admin_kubeconfig = self.path / "kubeconfig"
        command = [sys.executable, "-m", "tests.integration.api_process", str(self.path), str(self.port), *shared]
        self.daemon = Daemon("embedded-api", command, cwd=ROOT, run=run)
        self.kubectl = Kubectl(self.admin_kubeconfig)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.daemon.start()
        self.daemon.wait_for("the embedded Kubernetes API listens", 30)

    def version(self) -> tuple[int, int]:
        """Major and minor of the version it emulates."""
        from edgectl.apiserver.discovery import EMULATED

        return EMULATED[0], EMULATED[1]

    def kill9(self) -> None:
        self.daemon.kill9()

    def close(self) -> None:
        self.daemon.close()

    def __enter__(self) -> EmbeddedApi:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def main(folder: Path, port: int, store: str = "", identity: str | None = None) -> None:
    from twisted.internet import reactor as installed
    from twisted.internet.endpoints import TCP4ServerEndpoint
    from twisted.logger import globalLogBeginner, textFileLogObserver

    from edgectl.apiserver.identity import MASTERS, User
    from edgectl.apiserver.kubeconfig import write_kubeconfig
    from edgectl.apiserver.pki import ApiPki
    from edgectl.apiserver.service import EmbeddedControlPlane, ServingTLS
    from metasync.opening import open_store

    reactor: Any = installed
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    pki = ApiPki.load_or_create(folder / "pki", ["127.0.0.1", "localhost"])
    write_kubeconfig(folder / "kubeconfig", f"https://127.0.0.1:{port}", pki.ca.certificate, client=pki.admin)
    plane = EmbeddedControlPlane(
        reactor,
        open_store(reactor, store or f"sqlite:{folder / 'store.sqlite'}"),
        "default",
        TCP4ServerEndpoint(reactor, port, interface="127.0.0.1"),
        ServingTLS(pki.server.certificate, pki.server.key, pki.ca.certificate),
        tokens={"robot-token": User("robot", (MASTERS,)), "guest-token": User("guest")},
        identity=identity,
    )
    plane.startService()
    reactor.addSystemEventTrigger("before", "shutdown", plane.stopService)
    reactor.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
