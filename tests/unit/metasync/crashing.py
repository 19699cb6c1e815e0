"""Both ends of a sync as processes that are killed over and over, under a write load; then the histories are compared.

``python -m tests.unit.metasync.crashing FOLDER KILLS SEED [etcd://HOST:PORT]``. With an etcd the cloud's end stands on
that, which is not killed; else on a file. The ends are forked from this process, which has
loaded everything but the reactor, so that a start costs milliseconds. Each writes transactions of three keys with one
number, and appends the number to a file once the store has acknowledged it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

import metasync.sqlite  # noqa: F401  (before the fork)
from metasync.client import SyncClientService
from metasync.interfaces import Store, StoreError, WatchObserver
from metasync.keys import NodeKeys
from metasync.model import Compare, EventType, KeyRange, Put, WatchBatch
from metasync.opening import open_store
from metasync.server import SyncServerFactory
from metasync.testing import Recorder

KEYS = NodeKeys("default", "n1")
SIDES = {"cloud": KEYS.desired.encode(), "edge": KEYS.reported.encode()}
"""What each side writes."""

NAMES = [b"a", b"b", b"c"]

WRITE_PAUSE = 0.008
"""Seconds; a longer history would only make each start slower."""

REST_SECONDS = 60
"""So long both sides may take to agree once nobody is killed any more."""


def run_cloud(folder: Path, port: int, url: str) -> None:
    from twisted.internet import reactor as _reactor

    from tests.unit.metasync.pairs import FakeAddress, FakePeer

    reactor: Any = _reactor
    store = open_store(reactor, url)
    factory = SyncServerFactory(reactor, store, "default")
    build = factory.buildProtocol
    factory.buildProtocol = lambda addr: build(FakeAddress(FakePeer()))  # type: ignore[method-assign]
    Deferred.fromCoroutine(factory.start()).addErrback(_fatal)
    reactor.listenTCP(port, factory, interface="127.0.0.1")
    _write(reactor, store, folder, "cloud")
    reactor.run(installSignalHandlers=False)


def run_edge(folder: Path, port: int, url: str) -> None:
    from twisted.internet import reactor as _reactor
    from twisted.internet.endpoints import TCP4ClientEndpoint

    reactor: Any = _reactor
    store = open_store(reactor, url)
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
    SyncClientService(reactor, endpoint, store, "default", "n1", jitter=lambda: 1.0, longest_wait=0.05).startService()
    _write(reactor, store, folder, "edge")
    reactor.run(installSignalHandlers=False)


def _write(reactor: Any, store: Store, folder: Path, side: str) -> None:
    acknowledged = os.open(folder / f"{side}.acknowledged", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    other = next(each for each in SIDES if each != side)
    store.watch(KeyRange.prefix(SIDES[other]), 0, _Tally(folder / f"{side}.applied"))
    last = folder / f"{side}.last"

    async def go() -> None:
        first = KeyRange.single(SIDES[side] + NAMES[0])
        found = (await store.range(first)).kvs
        number, revision = (int(found[0].value), found[0].mod_revision) if found else (0, 0)
        while not last.exists():
            number += 1
            # A write of the process that was killed before may still arrive: then this one does nothing.
            guard = Compare.unchanged(first.start, revision)
            done = await store.txn([guard], [Put(SIDES[side] + name, b"%d" % number) for name in NAMES])
            if not done.succeeded:
                found = (await store.range(first)).kvs
                number, revision = int(found[0].value), found[0].mod_revision
                continue
            revision = done.revision
            os.write(acknowledged, b"%d\n" % number)
            await deferLater(reactor, WRITE_PAUSE, lambda: None)

    Deferred.fromCoroutine(go()).addErrback(_fatal)


def _fatal(failure: Any) -> None:
    failure.printTraceback()
    os._exit(3)


class _Tally(WatchObserver):
    """The number of each batch that the sync has applied, for the killer to see how far it has come."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def batch(self, batch: WatchBatch) -> None:
        os.write(self._file, batch.events[0].kv.value + b"\n")

    def progress(self, revision: int) -> None:
        pass

    def failed(self, error: StoreError) -> None:
        pass


def fork(work: Callable[[Path, int, str], None], folder: Path, port: int, url: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        work(folder, port, url)
    finally:
        os._exit(4)


def crash(folder: Path, kills: int, seed: int, urls: dict[str, str]) -> None:
    random = Random(seed)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    work = {"cloud": run_cloud, "edge": run_edge}
    running = {side: fork(work[side], folder, port, urls[side]) for side in work}
    try:
        for _ in range(kills):
            side = random.choice(["cloud", "edge"])
            _pick_moment(folder, side, random)
            os.kill(running[side], signal.SIGKILL)
            _, status = os.waitpid(running[side], 0)
            if not os.WIFSIGNALED(status):
                raise AssertionError(f"the {side} ended by itself, with status {status}")
            running[side] = fork(work[side], folder, port, urls[side])
        for side in work:
            (folder / f"{side}.last").touch()
        _await_rest(folder)
    finally:
        for pid in running.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _await_rest(folder: Path) -> None:
    """Until each side has applied the last that the other one has acknowledged."""
    end = time.monotonic() + REST_SECONDS
    for source, target in (("cloud", "edge"), ("edge", "cloud")):
        while _last(folder / f"{target}.applied") < _last(folder / f"{source}.acknowledged"):
            if time.monotonic() > end:
                return  # the comparison will say what is missing
            time.sleep(0.05)
    time.sleep(0.5)  # a write that was never acknowledged may follow


def _last(file: Path) -> int:
    numbers = file.read_bytes().split() if file.exists() else []
    return int(numbers[-1]) if numbers else 0


def _pick_moment(folder: Path, side: str, random: Random) -> None:
    """While it starts, or after so many writes or applied deltas: whatever the machine's speed, all of them come."""
    moments = [("none", 0, 0.1), ("none", 0, 0.3), ("acknowledged", 40, 0.5), ("applied", 12, 1.3)]
    watched, most, seconds = random.choice(moments)
    file = folder / f"{side}.{watched}"
    wanted = _size(file) + random.randint(1, max(1, most))
    end = time.monotonic() + (seconds if most else random.uniform(0.0, seconds))
    while time.monotonic() < end and _size(file) < wanted:
        time.sleep(0.002)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


async def check(folder: Path, reactor: Any, urls: dict[str, str]) -> str:
    """Compare what both sides have been through.

    :raises AssertionError: naming the first thing that is wrong.
    """
    histories = {side: await _history(urls[side], reactor) for side in SIDES}
    report = []
    for source, prefix in SIDES.items():
        target = "edge" if source == "cloud" else "cloud"
        written = _numbers(histories[source], prefix)
        applied = _numbers(histories[target], prefix)
        acknowledged = [int(line) for line in (folder / f"{source}.acknowledged").read_text().split()]
        _require(written == list(range(1, len(written) + 1)), f"the {source}'s own history has gaps")
        _require(set(acknowledged) <= set(written), f"the {source} lost a write that it had acknowledged")
        _require(applied == sorted(set(applied)), f"the {target} applied a change twice, or an old one after a new one")
        _require(set(applied) <= set(written), f"the {target} has what the {source} never wrote")
        _require(applied[-1:] == written[-1:], f"the {target} ends at {applied[-1:]}, the {source} at {written[-1:]}")
        report.append(f"{source}: {len(written)} written, {len(acknowledged)} acknowledged, {len(applied)} applied")
    return "; ".join(report)


async def _history(url: str, reactor: Any) -> list[WatchBatch]:
    store = open_store(reactor, url)
    recorder = Recorder()
    now = (await store.txn((), [Put(KEYS.prefix.encode() + b"end", b"")])).revision  # an etcd tells no other progress
    store.watch(KeyRange.prefix(KEYS.prefix.encode()), 1, recorder)
    await recorder.until(lambda: recorder.reached >= now)
    await store.close()
    return recorder.batches


def _numbers(history: list[WatchBatch], prefix: bytes) -> list[int]:
    """The number of each revision that touches ``prefix``; all three keys must be there, and agree."""
    numbers = []
    for batch in history:
        events = [event for event in batch.events if event.kv.key.startswith(prefix)]
        if not events:
            continue
        values = {event.kv.value for event in events if event.type is EventType.PUT}
        whole = len(events) == len(NAMES) and len(values) == 1
        _require(whole, f"revision {batch.revision} is only a part: {events}")
        numbers.append(int(values.pop()))
    return numbers


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise AssertionError(what)


def main() -> None:
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    urls = {side: f"sqlite:{folder / side}.db" for side in SIDES}
    if len(sys.argv) > 4:
        urls["cloud"] = sys.argv[4]
        import metasync.etcd  # noqa: F401  (a second, which no start needs to take)
    crash(folder, kills, seed, urls)

    from twisted.internet.task import react

    async def report(reactor: Any) -> None:
        print(f"{kills} kills; {await check(folder, reactor, urls)}")

    react(lambda reactor: Deferred.fromCoroutine(report(reactor)))


if __name__ == "__main__":
    main()
