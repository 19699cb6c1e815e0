"""Probes: what results come to, and what is done about it."""

from __future__ import annotations

import struct

from twisted.trial import unittest

from appengine.grpchealth import _Check, frame, request
from appengine.httpget import HttpTarget
from appengine.probes import ProbeKind, ProbeSpec, ProbeState
from appengine.runtime import ExecResult
from tests.unit.appengine.world import EngineWorld, Json, pod_manifest


def probe(**fields: int) -> Json:
    return {"exec": {"command": ["check"]}, "periodSeconds": 1, **fields}


class StateTests(unittest.SynchronousTestCase):
    def test_thresholds_count_in_a_row(self) -> None:
        state = ProbeState(ProbeSpec.of(ProbeKind.READINESS, {"successThreshold": 2, "failureThreshold": 3}))
        settled = [
            state.result(result) for result in (True, False, True, True, False, False, True, False, False, False)
        ]
        self.assertEqual(settled, [False, False, False, True, False, False, False, False, False, True])
        self.assertFalse(state.passing)

    def test_liveness_passes_until_it_fails(self) -> None:
        state = ProbeState(ProbeSpec.of(ProbeKind.LIVENESS, {"failureThreshold": 2, "successThreshold": 5}))
        self.assertTrue(state.passing)
        self.assertEqual([state.result(False), state.result(False), state.result(False)], [False, True, True])


class ProbingTests(EngineWorld):
    def setUp(self) -> None:
        super().setUp()
        self.healthy = True
        self.runtime.execs = lambda name, command: ExecResult(0 if self.healthy else 1, b"ill")

    def test_liveness_restarts(self) -> None:
        pod = pod_manifest(livenessProbe=probe(failureThreshold=2))
        self.apply(pod)
        first = self.named().id
        self.settle(5)
        self.assertEqual(self.named().id, first)
        self.healthy = False
        for _ in range(20):
            self.settle(0.25)
            if self.runtime.signals:
                break
        self.healthy = True
        self.settle(3)
        self.assertEqual(self.container_status(pod)["restartCount"], 1)
        self.assertEqual(self.runtime.signals, [("main", "SIGTERM")])

    def test_readiness_shows_and_does_not_restart(self) -> None:
        self.healthy = False
        pod = pod_manifest(readinessProbe=probe(failureThreshold=1))
        self.apply(pod)
        self.settle(3)
        self.assertEqual(self.condition(pod, "Ready"), "False")
        self.healthy = True
        self.settle(2)
        self.assertEqual(self.condition(pod, "Ready"), "True")
        self.healthy = False
        self.settle(2)
        self.assertEqual(self.condition(pod, "Ready"), "False")
        self.assertEqual(self.container_status(pod)["restartCount"], 0)

    def test_startup_holds_the_others_back(self) -> None:
        self.healthy = False
        pod = pod_manifest(startupProbe=probe(failureThreshold=10), livenessProbe=probe(failureThreshold=1))
        self.apply(pod)
        self.settle(5)
        self.assertEqual(self.container_status(pod)["started"], False)
        self.assertEqual(self.container_status(pod)["restartCount"], 0)
        self.healthy = True
        self.settle(2)
        self.assertEqual(self.container_status(pod)["started"], True)
        self.healthy = False
        self.settle(3)
        self.assertEqual(self.container_status(pod)["restartCount"], 1)

    def test_sidecar_must_have_started_before_the_rest(self) -> None:
        self.healthy = False
        side = {
            "name": "side",
            "image": "busybox:lab",
            "restartPolicy": "Always",
            "startupProbe": probe(failureThreshold=30),
        }
        self.apply(pod_manifest(spec={"initContainers": [side]}))
        self.settle(3)
        self.assertNotIn("main", [view.name for view in self.runtime.containers.values()])
        self.healthy = True
        self.settle(3)
        self.assertTrue(self.named().running)

    def test_initial_delay(self) -> None:
        self.apply(pod_manifest(livenessProbe=probe(initialDelaySeconds=10)))
        self.settle(8)
        self.assertEqual(self.runtime.commands, [])
        self.settle(4)
        self.assertNotEqual(self.runtime.commands, [])

    def test_a_new_agent_does_not_doubt_what_was_ready(self) -> None:
        pod = pod_manifest(readinessProbe=probe(initialDelaySeconds=5), startupProbe=probe())
        self.apply(pod)
        self.settle(8)
        self.assertEqual(self.condition(pod, "Ready"), "True")
        self.stop()
        self.start()
        self.assertEqual(self.condition(pod, "Ready"), "True")

    def test_trouble_of_the_engine_is_not_the_containers(self) -> None:
        pod = pod_manifest(livenessProbe=probe(failureThreshold=1))
        self.apply(pod)
        self.runtime.cut()
        self.settle(5)
        self.runtime.mend()
        self.settle(3)
        self.assertEqual(self.container_status(pod)["restartCount"], 0)


class WireTests(unittest.SynchronousTestCase):
    def test_http_request(self) -> None:
        get = {
            "path": "healthz",
            "port": "web",
            "scheme": "HTTPS",
            "httpHeaders": [{"name": "Host", "value": "a.example"}, {"name": "X", "value": "1\r\nY: 2"}],
        }
        target = HttpTarget.of(get, [{"name": "web", "containerPort": 8443}], "fd00::1")
        self.assertEqual((target.host, target.port, target.tls), ("fd00::1", 8443, True))
        lines = target.request().decode().split("\r\n")
        self.assertEqual(lines[0], "GET /healthz HTTP/1.1")
        self.assertIn("Host: a.example", lines)
        self.assertIn("X: 1  Y: 2", lines)

    def test_grpc_answers(self) -> None:
        from twisted.internet.defer import Deferred
        from twisted.internet.testing import StringTransport

        from appengine.grpchealth import GrpcUnhealthy

        for status, healthy in ((1, True), (2, False)):
            done: Deferred[None] = Deferred()
            check = _Check(request("h:1", "svc"), done)
            transport = StringTransport()
            check.makeConnection(transport)
            self.assertTrue(transport.value().startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
            message = b"\x08" + bytes([status])
            body = b"\0" + struct.pack(">I", len(message)) + message
            answer = frame(4, 0, 0, b"") + frame(6, 0, 0, b"12345678") + frame(1, 4, 1, b"\x88") + frame(0, 0, 1, body)
            for at in range(0, len(answer), 5):
                check.dataReceived(answer[at : at + 5])
            self.assertIn(frame(4, 1, 0, b""), transport.value())
            self.assertIn(frame(6, 1, 0, b"12345678"), transport.value())
            if healthy:
                self.successResultOf(done)
            else:
                self.failureResultOf(done, GrpcUnhealthy)
