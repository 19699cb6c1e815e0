# mypy: disallow-untyped-calls=False
"""A node that says it is another: ``python -m tests.integration.hostile_process STATE VICTIM POD-UID``.

It has the key of the node whose state directory STATE is, and a sync that asks for VICTIM's prefixes and has reports
of VICTIM's to give. It prints what it got, as JSON, once its sync has been up for a while.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from benchmarks.fleet_nodes import FleetNode
from kubebus.credentials import Keyring
from metasync.keys import NodeKeys
from metasync.memory import MemoryStore
from metasync.model import KeyRange, Put

reactor: Any = installed_reactor
FORGED = "forged-by-another"


async def run(state: Path, victim: str, uid: str) -> None:
    store = MemoryStore(reactor)
    keyring = Keyring(state / "identity")
    keys = NodeKeys(keyring.present.identity.network, victim)
    status = {"phase": "Failed", "message": FORGED}
    report = {"metadata": {"namespace": "default", "name": "victim", "uid": uid}, "status": status, "gone": True}
    node = {"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "Forged", "message": FORGED}]}}
    await store.txn([], [Put(keys.reported_pod("default", "victim", uid), json.dumps(report).encode())])
    await store.txn([], [Put(keys.reported_node, json.dumps(node).encode())])
    hostile = FleetNode(keyring, state, store, victim)
    hostile.startService()
    await hostile.link.when_connected()
    answers = {}
    for service in ("kubelet/1", "metasync/1"):
        try:
            await hostile.link.router_endpoint(service).connect(Factory.forProtocol(Protocol))
            answers[service] = "open"
        except Exception as error:
            answers[service] = f"{type(error).__name__}: {error}"
    # Long enough for several sessions of the sync: nothing tells when nothing will come.
    await deferLater(reactor, 6.0)
    found = await store.range(KeyRange.prefix(b"/"))
    held = {kv.key.decode(): kv.value.decode("utf-8", "replace") for kv in found.kvs}
    print(json.dumps({"services": answers, "store": held, "sync": str(hostile.sync.status())}), flush=True)


def main() -> None:
    def ended(result: Any) -> None:
        if result is not None:
            print(result.getTraceback(), file=sys.stderr)
        reactor.stop()

    arguments = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(run(*arguments)).addBoth(ended))
    reactor.run()


if __name__ == "__main__":
    main()
