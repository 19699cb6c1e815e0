"""An engine in a process of its own, to be killed: a store, an engine, and an administration socket; no network.

``python -m tests.integration.engine_agent DIRECTORY DOCKER-URL [quick]``; ``quick`` looks around every second.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from twisted.logger import globalLogBeginner, textFileLogObserver

from appengine.node import Pace
from appengine.service import Engine
from appengine.testing import FixedNetwork, place
from kubebus.admin import AdminService
from metasync.admin import meta_resource
from metasync.sqlite import SQLiteStore


def main(directory: Path, docker: str, pace: Pace) -> None:
    from twisted.internet import reactor as any_reactor

    reactor: Any = any_reactor
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)], redirectStandardIO=False)
    store = SQLiteStore.open(reactor, directory / "store.db")
    engine = Engine(
        reactor,
        store,
        "default",
        "edge-1",
        docker,
        FixedNetwork(place("10.192.7.0/24")),
        directory / "engine",
        pace=pace,
    )
    admin = AdminService(
        reactor,
        directory / "edge.sock",
        {"meta": meta_resource(store, dict), **engine.admin_resources()},
    )
    for service in (engine, admin):
        service.startService()
        reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Pace(1.0, 1.0) if "quick" in sys.argv[3:] else Pace())
