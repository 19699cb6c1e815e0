# mypy: disallow-untyped-calls=False
"""An edge node that claims pods and runs none: it notes what it is told of its leases, and stops at once when asked.

``python -m tests.integration.lease_process NOTES UID=OWNER,… OPTION…``, with the options of ``twistd edgenode``. NOTES
gets a JSON line for each event, with the time that all namespaces of a machine share.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from twisted.logger import globalLogBeginner, textFileLogObserver

from appengine.takeover.agreement import Agreement
from appengine.tap import device
from appengine.tap.options import Options
from metasync.steady import steady


class Notes:
    """A lease watcher."""

    def __init__(self, path: Path, leases: Agreement, claims: dict[str, str]) -> None:
        self._path, self._leases, self._claims = path, leases, claims

    def note(self, what: str, uid: str) -> None:
        line = {"at": self._leases.now(), "what": what, "uid": uid, "until": self._leases.held_until(uid)}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def lease_gained(self, uid: str) -> None:
        self.note("gained", uid)

    def leases_renewed(self) -> None:
        for uid in self._claims:
            if self._leases.held_until(uid) is not None:
                self.note("renewed", uid)

    def lease_ending(self, uid: str, stop_by: float) -> None:
        self.note("ending", uid)

    def lease_wanted_back(self, uid: str) -> None:
        self.note("released", uid)
        self._leases.release(uid)


class ClaimingNode(device.DeviceNode):
    notes: Path
    claims: dict[str, str]

    def add(self, part: Any) -> None:
        super().add(part)
        if isinstance(part, Agreement):
            part.watch(Notes(self.notes, part, self.claims))
            for uid, owner in self.claims.items():
                part.claim(uid, owner=owner)


def main(notes: str, claims: str, *arguments: str) -> None:
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)], redirectStandardIO=False)
    options = Options()
    options.parseOptions(list(arguments))
    from twisted.internet import reactor as real

    reactor: Any = real
    steady(reactor)
    node = ClaimingNode(reactor, options)
    node.notes = Path(notes)
    node.claims = {uid: owner for uid, _, owner in (each.partition("=") for each in claims.split(","))}
    node.startService()
    reactor.addSystemEventTrigger("before", "shutdown", node.stopService)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
