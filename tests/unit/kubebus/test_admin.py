# mypy: disallow-untyped-calls=False
"""The administration socket with its real client: ``kubebus`` commands over a UNIX socket."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from kubebus import cli
from kubebus.addresses import AddressPlan
from kubebus.admin import AdminService, BadRequest, JSONResource, status_resource
from kubebus.adminclient import AdminClient, AdminError
from kubebus.joinstring import HostPort, JoinString
from kubebus.memberadmin import NodesResource, TokensResource
from kubebus.members import Members
from kubebus.output import Output, ago, duration, size
from kubebus.testing import MemoryRegistry

ROUTERS = (HostPort("203.0.113.10", 443),)
CA_HASH = "ab" * 32
LINK = {
    "address": "198.51.100.7:50000",
    "since": 10.0,
    "last_seen": 20.0,
    "rtt": 0.0123,
    "received_bytes": 12345,
    "sent_bytes": 999,
    "dropped": 2,
    "backlog": 0,
    "streams": 1,
}
TUN = {"name": "kb0", "mtu": 1400, "read": 1, "read_bytes": 1500, "written": 1, "written_bytes": 10, "refused": 0}
NODE = {
    "name": "edge-1",
    "addresses": ["10.250.0.2"],
    "pod_subnets": ["10.192.0.0/24"],
    "connected": True,
    "revoked": False,
    "since": 10.0,
    "last_seen": 20.0,
    "spoofed": 1,
    "malformed": 0,
    "unroutable": 0,
    "away": 0,
    "link": LINK,
}
AT_R2 = {**NODE, "name": "edge-3", "router": "r2", "link": None}
ROUTER_STATUS = {
    "network": "default",
    "router": "r1",
    "addresses": ["10.250.0.1"],
    "pools": ["10.250.0.0/16"],
    "advertised": [],
    "refused": ["10.0.0.0/8 is not routed: it is this host's own"],
    "tun": TUN,
    "routers": [{"name": "r2", "addresses": ["198.51.100.2:443"], "connected": True, "rtt": 0.002}],
    "nodes": [NODE, {**NODE, "name": "edge-2", "connected": False, "link": None, "last_seen": None}, AT_R2],
    "sync": {"pending": 3, "connected": True, "lag": 5.0},
}
EDGE_STATUS = {
    "network": "default",
    "node": "edge-1",
    "connected": False,
    "router": None,
    "since": 10.0,
    "error": "Connection was refused",
    "addresses": ["10.250.0.2"],
    "pod_subnets": ["10.192.0.0/24"],
    "routes": ["10.250.0.0/16"],
    "refused": [],
    "tun": None,
    "link": None,
    "foreign": 0,
    "malformed": 0,
    "lost": 0,
    "certificate": {"expires_in_seconds": 86400.0 * 90, "authorities": ["0123"]},
}


class AdminCase(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = self.directory / "run" / "admin.sock"
        self.registry = MemoryRegistry()
        self.now = 1000.0
        ula = IPv6Network("fd00:1:2::/48")
        self.members = Members("default", self.registry, AddressPlan(ula), lambda: self.now)
        self.status: object = ROUTER_STATUS
        self.links: Mapping[str, Mapping[str, object]] = {}
        self.forever: Deferred[object] = Deferred()
        self.waiting: Deferred[None] = Deferred()
        self.service = self.serve()

    def serve(self) -> AdminService:
        resources = {
            "tokens": TokensResource(self.members, lambda: ROUTERS, lambda: CA_HASH),
            "nodes": NodesResource(self.members, lambda: self.links),
            "status": status_resource(lambda: self.status),
            "broken": JSONResource(GET=self._broken, POST=self._refuse),
            "forever": JSONResource(GET=self._wait_forever),
            "echo": JSONResource(PUT=lambda body, query: [body, dict(query)]),
        }
        service = AdminService(reactor, self.path, resources)
        service.startService()
        self.addCleanup(lambda: service.stopService())
        return service

    def _wait_forever(self, body: object, query: Mapping[str, str]) -> object:
        self.waiting.callback(None)
        return self.forever

    def _broken(self, body: object, query: Mapping[str, str]) -> object:
        raise ZeroDivisionError("oops")

    def _refuse(self, body: object, query: Mapping[str, str]) -> object:
        raise BadRequest("not like this")

    async def run_command(self, *args: str) -> tuple[int, str, str]:
        """Exit status, output and errors of one ``kubebus`` command."""

        def run() -> tuple[int, str, str]:
            out, err = io.StringIO(), io.StringIO()
            with mock.patch("sys.stdout", out), mock.patch("sys.stderr", err):
                status = cli.main(["--socket", str(self.path), *args])
            return status, out.getvalue(), err.getvalue()

        return await deferToThread(run)

    async def output(self, *args: str) -> str:
        status, out, err = await self.run_command(*args)
        self.assertEqual((status, err), (0, ""))
        return out

    async def failure(self, *args: str) -> str:
        status, out, err = await self.run_command(*args)
        self.assertEqual((status, out), (1, ""))
        return err


class TokenCommandTests(AdminCase):
    async def test_create_list_revoke(self) -> None:
        self.assertEqual(await self.output("token", "list"), "no tokens\n")
        create = ("token", "create", "--node", "edge-1", "--site", "hall", "--expires", "30m")
        word = (await self.output(*create)).strip()
        join = JoinString.decode(word)
        self.assertEqual((join.network, join.routers, join.ca_hash), ("default", ROUTERS, CA_HASH))
        self.assertEqual((join.node, join.expires_at), ("edge-1", 2800.0))
        self.assertIn(f"{join.token}  edge-1", await self.output("token", "list"))
        await self.members.enrol(join.token, join.secret, "edge-1", "a" * 64)
        self.assertRegex(await self.output("token", "list"), "edge-1 +hall +used by edge-1")
        self.assertIn("  hall  ", await self.output("node", "list"))
        self.assertEqual(await self.output("token", "revoke", join.token), f"token {join.token} revoked\n")
        self.assertEqual(
            await self.failure("token", "revoke", join.token),
            f"kubebus: there is no token '{join.token}' ('kubebus token list' shows all)\n",
        )

    async def test_making_one_does_not_read_the_others(self) -> None:
        self.patch(self.registry, "list", lambda kind: self.fail(f"all {kind} were read"))
        for _ in range(3):
            await self.output("token", "create")

    async def test_json(self) -> None:
        created = json.loads(await self.output("--json", "token", "create"))
        self.assertEqual(created["expiresAt"], 1000.0 + 86400)
        listed = json.loads(await self.output("token", "list", "--json"))["tokens"]
        self.assertEqual([token["id"] for token in listed], [created["id"]])
        self.assertNotIn("joinString", listed[0])

    async def test_wrong_values(self) -> None:
        self.assertIn("node name 'Edge' is not valid", await self.failure("token", "create", "--node", "Edge"))
        self.assertIn("site name 'A b' is not valid", await self.failure("token", "create", "--site", "A b"))
        self.assertIn("from 1 second to 365 days", await self.failure("token", "create", "--expires", "400d"))


class NodeCommandTests(AdminCase):
    async def test_list_revoke_remove(self) -> None:
        self.assertEqual(await self.output("node", "list"), "no nodes\n")
        token, secret = await self.members.create_token()
        await self.members.enrol(token.id, secret, "edge-1", "a" * 64)
        self.links = {"edge-1": {"connected": True}}
        line = (await self.output("node", "list")).splitlines()[1]
        self.assertEqual(line.split()[:3], ["edge-1", "connected", "10.250.0.2,fd00:1:2::2"])
        self.assertIn("'kubebus node revoke edge-1' first", await self.failure("node", "remove", "edge-1"))
        self.assertEqual(await self.output("node", "revoke", "edge-1"), "node edge-1 revoked\n")
        self.assertIn("revoked", await self.output("node", "list"))
        self.assertEqual(await self.output("node", "remove", "edge-1"), "node edge-1 removed\n")
        self.assertIn("there is no node 'edge-1'", await self.failure("node", "revoke", "edge-1"))
        self.assertIn("there is no node 'a/../b?'", await self.failure("node", "revoke", "a/../b?"))


class StatusCommandTests(AdminCase):
    async def test_router(self) -> None:
        text = await self.output("status")
        self.assertIn("Router r1 of network default: 2 of 3 nodes connected", text)
        row = next(line for line in text.splitlines() if line.startswith("edge-1 "))
        for word in ("connected", "10.250.0.2", "10.192.0.0/24", "12.3 ms", "12k", "999", "  3"):
            self.assertIn(word, row)
        self.assertRegex(text, r"edge-2 +away .* never +- +- +- +1\n")
        self.assertRegex(text, r"edge-3 +at r2 ")
        self.assertIn("router r2 at 198.51.100.2:443: connected, 2.0 ms", text)
        self.assertIn("! 10.0.0.0/8 is not routed", text)
        self.assertRegex(text, r"sync:\n  pending: +3\n  connected: yes\n  lag: +5s\n")
        self.assertEqual(json.loads(await self.output("status", "--json")), ROUTER_STATUS)

    async def test_edge(self) -> None:
        self.status = EDGE_STATUS
        text = await self.output("status")
        self.assertIn("Node edge-1 of network default: not connected", text)
        self.assertRegex(text, r"reason: +Connection was refused")
        self.assertRegex(text, r"certificate:\n  expires in: +90d\n  authorities: +0123\n")
        self.status = {**EDGE_STATUS, "connected": True, "router": "r1", "link": LINK, "tun": TUN}
        text = await self.output("status")
        self.assertIn("connected to router r1", text)
        self.assertRegex(text, r"round trip: +12.3 ms")
        self.assertNotIn("refused", text)

    async def test_site(self) -> None:
        direct = {"name": "edge-2", "endpoints": ["192.168.1.12:7443"], "connected": True, "error": None}
        gone = {"name": "edge-3", "endpoints": [], "connected": False, "error": "nobody is there"}
        counted = {"spoofed": 2, "malformed": 1}
        site = {
            "name": "hall",
            "revision": 7,
            "endpoints": ["192.168.1.11:7443"],
            "neighbours": [{**direct, **counted, "link": LINK}, {**gone, **counted, "link": None}],
        }
        self.status = {**EDGE_STATUS, "site": site}
        text = await self.output("status")
        self.assertIn("Site hall, roster 7: this node listens at 192.168.1.11:7443", text)
        self.assertRegex(text, r"edge-2 +direct .* 12.3 ms ")
        self.assertRegex(text, r"edge-3 +by router .* 3\n")
        self.assertIn("edge-3: nobody is there", text)

    async def test_status_to_come(self) -> None:
        self.status = succeed(EDGE_STATUS)
        self.assertIn("Node edge-1", await self.output("status"))


class SocketTests(AdminCase):
    async def test_for_root_only(self) -> None:
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o600)
        self.assertEqual(os.stat(self.path.parent).st_mode & 0o777, 0o700)

    async def test_a_living_daemon_is_not_replaced(self) -> None:
        other = AdminService(reactor, self.path, {})
        with self.assertRaisesRegex(OSError, f"another daemon is serving {self.path}"):
            other.startService()
        self.assertIn("Router r1", await self.output("status"))

    async def test_the_socket_of_a_dead_daemon_is_replaced(self) -> None:
        await (self.service.stopService() or succeed(None))
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(self.path))
        self.service = self.serve()
        self.assertIn("Router r1", await self.output("status"))

    async def test_a_file_in_the_way_is_kept(self) -> None:
        await (self.service.stopService() or succeed(None))
        self.path.write_text("precious")
        with self.assertRaisesRegex(FileExistsError, "is in the way"):
            self.serve()
        self.assertEqual(self.path.read_text(), "precious")

    async def test_nobody_there(self) -> None:
        await (self.service.stopService() or succeed(None))
        self.assertEqual(
            await self.failure("status"),
            f"kubebus: no daemon is serving {self.path}: is it running on this host? (--socket names another place)\n",
        )


class ResourceTests(AdminCase):
    async def ask(self, method: str, path: str, body: object = None) -> Any:
        return await deferToThread(AdminClient(str(self.path)).request, method, path, body)

    async def assertError(self, status: int, pattern: str, method: str, path: str, body: object = None) -> None:
        try:
            await self.ask(method, path, body)
        except AdminError as error:
            self.assertEqual(error.status, status)
            self.assertRegex(str(error), pattern)
        else:
            self.fail("no error")

    async def test_body_and_query(self) -> None:
        self.assertEqual(await self.ask("PUT", "/v1/echo?a=1&a=2", {"x": "ü"}), [{"x": "ü"}, {"a": "2"}])

    async def test_errors(self) -> None:
        await self.assertError(404, "this daemon has no /v1/nothing", "GET", "/v1/nothing")
        await self.assertError(404, "this daemon has no /v1/nodes/x/y", "GET", "/v1/nodes/x/y")
        await self.assertError(405, "use PUT here", "GET", "/v1/echo")
        await self.assertError(400, "not like this", "POST", "/v1/broken")
        await self.assertError(500, "ZeroDivisionError.*the daemon's log", "GET", "/v1/broken")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        await self.assertError(400, "names and 'lifetime' a number", "POST", "/v1/tokens", {"lifetime": "x"})
        self.registry.unavailable = True
        await self.assertError(503, "registry is unavailable", "GET", "/v1/nodes")

    async def test_body_that_is_no_json(self) -> None:
        def ask() -> None:
            AdminClient(str(self.path)).open("PUT", "/v1/echo", b"{").close()

        try:
            await deferToThread(ask)
        except AdminError as error:
            self.assertIn("not JSON", str(error))
        else:
            self.fail("no error")

    async def test_a_client_that_leaves_cancels_its_request(self) -> None:
        gone: Deferred[None] = Deferred()
        self.forever = Deferred(lambda _: gone.callback(None))
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.path))
        connection.sendall(b"GET /v1/forever HTTP/1.1\r\nHost: x\r\n\r\n")
        await self.waiting
        connection.close()
        await gone


class CommandLineTests(SynchronousTestCase):
    """The command without a daemon."""

    def test_starts_without_twisted(self) -> None:
        code = (
            "import sys; from kubebus import cli; cli.make_parser(); "
            "print([m for m in ('twisted', 'cryptography', 'OpenSSL', 'asyncio') if m in sys.modules])"
        )
        root = str(Path(cli.__file__).parents[1])
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
        self.assertEqual(done.stdout, "[]\n")

    def test_help_of_every_command(self) -> None:
        for args in (["--help"], ["token", "--help"], ["token", "create", "--help"], ["status", "--help"]):
            out = io.StringIO()
            with mock.patch("sys.stdout", out), self.assertRaises(SystemExit) as caught:
                cli.main(args)
            self.assertEqual(caught.exception.code, 0)
            self.assertIn("usage: kubebus", out.getvalue())

    def test_wrong_usage(self) -> None:
        for args in ([], ["token"], ["nonsense"], ["token", "create", "--expires", "soon"]):
            with mock.patch("sys.stderr", io.StringIO()), self.assertRaises(SystemExit) as caught:
                cli.main(args)
            self.assertEqual(caught.exception.code, 2)

    def test_words(self) -> None:
        self.assertEqual(
            [duration(s) for s in (-1, 5, 119, 120, 7199, 7200, 9000, 172800)],
            ["0s", "5s", "119s", "2m", "119m", "2h", "2h30m", "2d"],
        )
        self.assertEqual([ago(100, 40), ago(100, None)], ["60s ago", "never"])
        self.assertEqual([size(n) for n in (0, 999, 1234, 45_600, 7_800_000)], ["0", "999", "1.2k", "46k", "7.8M"])

    def test_table(self) -> None:
        stream = io.StringIO()
        Output(stream).table(("A", "LONG"), [("xyz", 1)], "none")
        self.assertEqual(stream.getvalue(), "A    LONG\nxyz  1\n")
