"""The edge's metadata, put together: a real store, socket and client."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from base64 import b64encode
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from kubebus.adminclient import AdminClient
from kubebus.latesite import LateSite
from metasync.keys import data_prefix
from metasync.model import KeyRange
from metasync.service import GATEWAY_SOCKET, EdgeMetadata
from metasync.sqlite import SQLiteStore

reactor: Any = _reactor


class EdgeMetadataTests(TestCase):
    async def test_theGatewayWorksWithoutACloud(self) -> None:
        with tempfile.TemporaryDirectory() as name:  # a socket's path must be short
            folder = Path(name)
            store = SQLiteStore.open(reactor, folder / "store.db")
            nowhere = UNIXClientEndpoint(reactor, str(folder / "none"))
            service = EdgeMetadata(reactor, store, nowhere, "default", "n1", folder, LateSite, [("127.0.0.1", 0)])
            service.startService()
            put = {"key": b64encode(b"a").decode(), "value": b64encode(b"1").decode()}
            client = AdminClient(str(folder / GATEWAY_SOCKET))
            answer = await deferToThread(client.post, "/v3/kv/put", put)
            self.assertIn("revision", answer["header"])
            (kv,) = (await store.range(KeyRange.prefix(data_prefix("default").encode()))).kvs
            self.assertTrue(kv.key.endswith(b"data/all/a"))
            self.assertFalse(service.sync.connected)
            await service.stopService()
            again = EdgeMetadata(reactor, store, nowhere, "default", "n1", folder, LateSite)
            self.assertEqual(again.tokens.issue("shop"), service.tokens.issue("shop"))
            await store.close()


class LightnessTests(SynchronousTestCase):
    def test_theEdgeLoadsNothingOfTheCloud(self) -> None:
        script = (
            "import sys, json, metasync.service, metasync.admin, metasync.sqlite, metasync.opening;"
            "print(json.dumps(sorted(set(sys.modules) & {'grpc', 'etcd3', 'treq', 'google.protobuf', 'edgectl'})))"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        self.assertEqual(json.loads(done.stdout), [])
