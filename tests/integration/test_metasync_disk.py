"""The embedded store on a disk that fills, and on one that can only be read."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import maybeDeferred
from twisted.trial.unittest import TestCase

from metasync.client import SyncClientService
from metasync.interfaces import StoreError, StoreUnavailable
from metasync.keys import NodeKeys
from metasync.memory import MemoryStore
from metasync.model import KeyRange, Put
from metasync.server import SyncServerFactory
from metasync.session import SyncSession
from metasync.sqlite import SQLiteStore
from tests.unit.metasync.loopback import Loopback, until

reactor: Any = _reactor


class _Lines:
    """Stands for a logger."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, line: str, **fields: Any) -> None:
        self.lines.append(line.format(**fields))


class DiskTests(TestCase):
    def setUp(self) -> None:
        self.disk = Path(tempfile.mkdtemp())
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(self.disk)], check=True)
        self.addCleanup(self._unmount)
        self.path = self.disk / "store.db"

    def _unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.disk)], check=True)
        shutil.rmtree(self.disk, ignore_errors=True)

    def remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.disk)], check=True)

    async def fill(self, store: SQLiteStore) -> tuple[int, str]:
        """Write until it fails. The last revision that was acknowledged, and what the store said then."""
        last = 1
        for number in range(2000):
            try:
                last = (await store.txn((), [Put(b"%06d" % number, bytes(5000))])).revision
            except StoreUnavailable as error:
                return last, str(error)
        raise AssertionError("it never filled")

    async def test_aFullDisk(self) -> None:
        """What was acknowledged stays, reads go on, and writes too once there is room."""
        store = SQLiteStore.open(reactor, self.path)
        last, reason = await self.fill(store)
        self.assertIn("the disk is full", reason)
        found = await store.range(KeyRange.prefix(b""))
        self.assertEqual((found.revision, len(found.kvs)), (last, last - 1))
        self.remount("size=8m")
        again = await store.txn((), [Put(b"more", bytes(5000))])
        self.assertEqual(again.revision, last + 1)
        await store.close()
        store = SQLiteStore.open(reactor, self.path)
        self.assertEqual((await store.range(KeyRange.prefix(b""), limit=1)).count, last)
        await store.close()

    async def test_aFullDiskAtThePowerCut(self) -> None:
        store = SQLiteStore.open(reactor, self.path)
        last, _ = await self.fill(store)
        copies = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, copies)
        for file in self.disk.iterdir():
            shutil.copy(file, copies)
        await store.close()
        store = SQLiteStore.open(reactor, copies / "store.db")
        self.assertEqual((await store.range(KeyRange.prefix(b""), limit=1)).count, last - 1)
        await store.close()

    async def test_theDiskFillsDuringASync(self) -> None:
        """What does not fit is not there in part, and comes once there is room; the status says why it waits."""
        cloud, store = MemoryStore(reactor), SQLiteStore.open(reactor, self.path)
        server = SyncServerFactory(reactor, cloud, "default")
        await server.start()
        link = Loopback(reactor, server)
        client = SyncClientService(reactor, link.endpoint, store, "default", "n1", longest_wait=1.0)
        desired = KeyRange.prefix(NodeKeys("default", "n1").desired.encode())
        await cloud.txn((), [Put(desired.start + b"first", b"1")])
        await cloud.txn((), [Put(desired.start + b"large/%d" % i, os.urandom(40_000)) for i in range(30)])
        await cloud.txn((), [Put(desired.start + b"last/%d" % i, os.urandom(40_000)) for i in range(30)])
        client.startService()

        async def there() -> int:
            return (await store.range(desired, limit=1)).count

        self.patch(SyncSession, "log", log := _Lines())
        try:
            await until(reactor, lambda: "the disk is full" in str(log.lines), "the log says why")
            self.assertIn(await there(), (0, 1, 31))
            self.remount("size=16m")

            async def all_there() -> bool:
                return await there() == 61

            await until(reactor, all_there, "all of it")
        finally:
            await maybeDeferred(client.stopService)
            server.stop()
            await link.close()
            await store.close()

    async def test_aDiskThatBecomesReadOnly(self) -> None:
        """A disk is made read-only under a running node: a clear error, and reads go on."""
        store = SQLiteStore.open(reactor, self.path)
        await store.txn((), [Put(b"a", b"1")])
        await store.close()
        self.remount("ro")
        error = self.assertRaises(StoreError, SQLiteStore.open, reactor, self.path)
        self.assertIn("read-only", str(error))
        self.remount("rw")
        store = SQLiteStore.open(reactor, self.path)
        self.assertEqual((await store.range(KeyRange.single(b"a"))).kvs[0].value, b"1")
        await store.close()
