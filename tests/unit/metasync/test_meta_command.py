"""``kubebus meta`` against the admin resource, over a real UNIX socket."""

from __future__ import annotations

import tempfile
from io import StringIO
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from kubebus.adminclient import AdminClient
from kubebus.cli import make_parser
from kubebus.output import Output
from metasync.admin import meta_resource
from metasync.memory import MemoryStore
from metasync.server import SyncServerFactory

reactor: Any = _reactor


class MetaCommandTests(TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()  # a socket's path must be short
        self.addCleanup(folder.cleanup)
        self.path = str(Path(folder.name) / "s")
        store = MemoryStore(reactor)
        root, v1 = Resource(), Resource()
        root.putChild(b"v1", v1)
        v1.putChild(b"meta", meta_resource(store, SyncServerFactory(reactor, store, "default").status))
        port = reactor.listenUNIX(self.path, Site(root))
        self.addCleanup(port.stopListening)

    async def run_command(self, *words: str) -> str:
        args = make_parser().parse_args(["meta", *words])
        stream = StringIO()
        await deferToThread(args.run, args, AdminClient(self.path), Output(stream))
        return stream.getvalue()

    async def test_putGetDelete(self) -> None:
        self.assertEqual(await self.run_command("put", "/a/1", "one"), "revision 2\n")
        await self.run_command("put", "/a/2", "two")
        self.assertEqual(await self.run_command("get", "/a/1"), "one\n")
        self.assertEqual(await self.run_command("get", "--prefix", "/a/"), "/a/1\none\n/a/2\ntwo\n")
        self.assertEqual(await self.run_command("get", "--prefix", "--keys-only", ""), "/a/1\n/a/2\n")
        self.assertEqual(await self.run_command("del", "--prefix", "/a/"), "2 deleted at revision 4\n")
        self.assertEqual(await self.run_command("get", "/a/1", "--revision", "2"), "one\n")

    async def test_status(self) -> None:
        self.assertIn("no sync session", await self.run_command("status"))
