# mypy: disallow-untyped-calls=False
"""The sync against ``etcdctl make-mirror``: first sync, and 100 changed keys after a disconnect.

``python -m benchmarks.metasync_mirror [--keys N] [--size BYTES] [--no-mirror]``. Needs etcd and etcdctl. Both start
from the same etcd with N keys. The sync goes to a node's SQLite store, the mirror to a second etcd. A mirror that was
stopped begins anew: it keeps no place, and writes key by key, so that it takes minutes where the sync takes seconds.
Bytes are counted on the wire in both directions. The sync's memory is how far the resident set of this process, which
has both of its ends and etcd's client, rose above where it stood when the measurement began.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread
from twisted.protocols.portforward import ProxyClientFactory, ProxyFactory, ProxyServer

from metasync.client import SyncClientService
from metasync.etcd import EtcdStore
from metasync.keys import NodeKeys
from metasync.model import Delete, KeyRange, Put
from metasync.server import SyncServerFactory
from metasync.sqlite import SQLiteStore
from tests.lab.etcd import Etcd
from tests.unit.metasync.loopback import Loopback, until

PREFIX = NodeKeys("default", "n1").desired.encode()
CHANGES = 100
_SECONDS_A_KEY = 0.05
"""A mirror writes key by key, and each of its writes is synced to the disk."""

LAST = PREFIX + b"~"
"""The last key of all: a mirror that copies in the order of keys brings it last."""


class CountingProxy:
    """Counts what goes through it, to a server on this host."""

    def __init__(self, reactor: Any, port: int) -> None:
        self.bytes = 0
        counter = self

        class Server(ProxyServer):
            def dataReceived(self, data: bytes) -> None:
                counter.bytes += len(data)
                super().dataReceived(data)

        class Client(ProxyClientFactory.protocol):  # type: ignore[misc,valid-type]
            def dataReceived(self, data: bytes) -> None:
                counter.bytes += len(data)
                super().dataReceived(data)

        class Clients(ProxyClientFactory):
            protocol = Client
            noisy = False

        Server.clientProtocolFactory = Clients
        factory = ProxyFactory("127.0.0.1", port)
        factory.protocol = Server
        factory.noisy = False
        self.port = reactor.listenTCP(0, factory, interface="127.0.0.1")


class Mirror:
    """``etcdctl make-mirror`` to a second etcd, through a counting proxy."""

    def __init__(self, reactor: Any, source: Etcd, target: Etcd) -> None:
        self.proxy = CountingProxy(reactor, target.port)
        self._source, self._target = source, target
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["etcdctl", f"--endpoints={self._source.urls[0]}", "make-mirror", "--prefix", PREFIX.decode()]
        command.append(f"127.0.0.1:{self.proxy.port.getHost().port}")
        self._process = subprocess.Popen(
            command, env={**os.environ, "ETCDCTL_API": "3"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


class Bench:
    def __init__(self, reactor: Any, keys: int, size: int, mirror: bool = True) -> None:
        self.mirror = mirror
        self.reactor = reactor
        self.keys, self.size = keys, size
        self.random = Random(1)
        self._round = 0

    def value(self) -> bytes:
        """As compressible as a Kubernetes object: half of it is words, half is noise in hex."""
        noise = self.random.randbytes(self.size // 4).hex()
        words = '{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"app":"web"},"annotations":{}}}' * 99
        return (noise + words)[: self.size].encode()

    async def run(self, folder: Path) -> None:
        source, target = Etcd(), Etcd()
        try:
            await deferToThread(source.start)
            await deferToThread(target.start)
            await self._measure(folder, source, target)
        finally:
            source.close()
            target.close()

    async def _measure(self, folder: Path, source: Etcd, target: Etcd) -> None:
        cloud = EtcdStore.open(self.reactor, f"etcd://127.0.0.1:{source.port}")
        second = EtcdStore.open(self.reactor, f"etcd://127.0.0.1:{target.port}")
        edge = SQLiteStore.open(self.reactor, folder / "edge.db")
        await self._fill(cloud)
        server = SyncServerFactory(self.reactor, cloud, "default")
        await server.start()
        link = Loopback(self.reactor, server)
        client = SyncClientService(
            self.reactor, link.endpoint, edge, "default", "n1", jitter=lambda: 1.0, longest_wait=0.2
        )
        mirror = Mirror(self.reactor, source, target)

        await self._timed("first sync", "kubebus", lambda: link.bytes, cloud, edge, client.startService)
        await self._timed("first sync", "make-mirror", lambda: mirror.proxy.bytes, cloud, second, mirror.start)
        for compacted in (False, True):
            what = f"{CHANGES} changed keys" + (", compacted meanwhile" if compacted else "")
            link.away = True
            link.cut()
            mirror.stop()
            await self._change(cloud)
            if compacted:
                await deferToThread(source.compact)
            server.stop()  # a new server remembers nothing of the recent past
            link.server = server = SyncServerFactory(self.reactor, cloud, "default")
            await server.start()
            await self._timed(what, "kubebus", lambda: link.bytes, cloud, edge, lambda: setattr(link, "away", False))
            await self._timed(what, "make-mirror", lambda: mirror.proxy.bytes, cloud, second, mirror.start)
        mirror.stop()
        await (client.stopService() or _nothing())
        await link.close()
        await mirror.proxy.port.stopListening()
        server.stop()
        for store in (edge, cloud, second):
            await store.close()

    async def _fill(self, cloud: EtcdStore) -> None:
        began = time.monotonic()
        for at in range(0, self.keys, 500):
            ops = [Put(PREFIX + b"%06d" % i, self.value()) for i in range(at, min(at + 500, self.keys))]
            await cloud.txn((), ops)
        print(f"{self.keys} keys of {self.size} bytes written in {time.monotonic() - began:.1f} s", flush=True)

    async def _change(self, cloud: EtcdStore) -> None:
        """A hundred keys, one revision each; of ten of them a deletion."""
        for number in range(CHANGES):
            key = PREFIX + b"%06d" % self.random.randrange(self.keys)
            await cloud.txn((), [Delete.single(key) if number % 10 == 9 else Put(key, self.value())])

    async def _timed(self, what: str, who: str, count: Any, cloud: Any, copy: Any, start: Any) -> None:
        if who == "make-mirror" and not self.mirror:
            return
        before, began = count(), time.monotonic()
        self._round += 1
        await cloud.txn((), [Put(LAST, b"%d" % self._round)])
        resident = forget_peak()
        start()
        longest = 300 + self.keys * _SECONDS_A_KEY
        await until(self.reactor, lambda: self._arrived(copy), f"{what} by {who}", longest)
        taken = time.monotonic() - began
        mark = KeyRange.prefix(PREFIX)
        surplus = (await copy.range(mark, limit=1)).count - (await cloud.range(mark, limit=1)).count
        left = f"   ({surplus} deleted keys still there)" if surplus else ""
        memory = f"   +{(peak() - resident) >> 20} MiB resident" if who == "kubebus" else ""
        print(f"{what:40} {who:12} {(count() - before) / 1e6:10.3f} MB {taken:8.2f} s{memory}{left}", flush=True)

    async def _arrived(self, copy: Any) -> bool:
        found = (await copy.range(KeyRange.single(LAST))).kvs
        return bool(found) and found[0].value == b"%d" % self._round


def forget_peak() -> int:
    """Let the peak of this process's resident set begin anew. Returns what it is now, in bytes (``proc(5)``)."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:"))


async def _nothing() -> None:
    pass


def main(reactor: Any, *arguments: str) -> Deferred[None]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--no-mirror", action="store_true", help="the sync alone")
    parser.add_argument("--size", type=int, default=1000)
    args = parser.parse_args(arguments)

    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            await Bench(reactor, args.keys, args.size, not args.no_mirror).run(Path(folder))

    return Deferred.fromCoroutine(run())


if __name__ == "__main__":
    react(main, sys.argv[1:])
