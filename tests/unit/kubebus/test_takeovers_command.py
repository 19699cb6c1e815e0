# mypy: disallow-untyped-calls=False
"""``kubebus takeovers`` over a UNIX socket."""

from __future__ import annotations

import json

from twisted.internet import reactor
from twisted.web.resource import IResource

from kubebus.admin import AdminService, status_resource
from tests.unit.kubebus.test_admin import AdminCase

HELD = {
    "uid": "u1",
    "namespace": "shop",
    "name": "till",
    "owner": "edge-1",
    "holder": "edge-1",
    "seconds": 12.3,
    "takenOver": None,
}
TAKEN = {
    "uid": "u2",
    "namespace": "shop",
    "name": "door",
    "owner": "edge-3",
    "holder": "edge-2",
    "seconds": 8.0,
    "takenOver": {"node": "edge-2", "uid": "u9", "ready": True},
}
FREE = {"uid": "u3", "owner": None, "holder": None, "seconds": None, "takenOver": None}


class TakeoversCommandTests(AdminCase):
    def serve(self) -> AdminService:
        self.takeovers: object = {
            "site": "hall",
            "members": ["edge-1", "edge-2", "edge-3"],
            "waitingFor": None,
            "pods": [HELD, TAKEN, FREE],
        }
        self.resources: dict[str, IResource] = {"takeover": status_resource(lambda: self.takeovers)}
        return self.listen()

    def listen(self) -> AdminService:
        service = AdminService(reactor, self.path, self.resources)
        service.startService()
        self.addCleanup(lambda: service.stopService())
        return service

    async def test_pods_and_who_runs_them(self) -> None:
        lines = (await self.output("takeovers")).splitlines()
        self.assertEqual(lines[:2], ["Site hall: edge-1, edge-2, edge-3", ""])
        self.assertEqual(lines[2].split(), ["POD", "OWNER", "LEASE", "FOR", "TAKEN", "OVER", "BY", "READY"])
        self.assertEqual(lines[3].split(), ["shop/till", "edge-1", "edge-1", "12s", "-", "-"])
        self.assertEqual(lines[4].split(), ["shop/door", "edge-3", "edge-2", "8s", "edge-2", "yes"])
        self.assertEqual(lines[5].split(), ["u3", "-", "nobody", "-", "-", "-"])
        self.assertEqual(json.loads(await self.output("takeovers", "--json")), self.takeovers)

    async def test_why_there_is_no_lease(self) -> None:
        why = "edge-2 has not been met yet"
        self.takeovers = {"site": "hall", "members": ["edge-1", "edge-2"], "waitingFor": why, "pods": []}
        text = await self.output("takeovers")
        self.assertIn(f"! no lease can be had now: {why}\n", text)
        self.assertTrue(text.endswith("\nno pods that may be taken over\n"))

    async def test_no_site(self) -> None:
        self.takeovers = {"site": None, "members": [], "waitingFor": None, "pods": []}
        self.assertIn("of no site", await self.output("takeovers"))

    async def test_a_daemon_without_pods(self) -> None:
        self.path = self.path.with_name("other.sock")
        self.resources = {}
        self.listen()
        self.assertIn("this daemon runs no pods", await self.failure("takeovers"))
