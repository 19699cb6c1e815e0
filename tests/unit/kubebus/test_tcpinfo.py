"""What the kernel tells of a connection."""

from __future__ import annotations

import socket

from twisted.trial.unittest import SynchronousTestCase

from kubebus.tcpinfo import acknowledged, path_of


class Wrapped:
    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)


class AcknowledgedTests(SynchronousTestCase):
    def test_a_connection_over_loopback(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname())
            self.addCleanup(client.close)
            peer, _ = server.accept()
            self.addCleanup(peer.close)
        transport = Wrapped(transport=Wrapped(socket=client))
        before = acknowledged(transport)
        assert before is not None
        client.sendall(bytes(1000))
        self.assertEqual(len(peer.recv(1000, socket.MSG_WAITALL)), 1000)
        peer.sendall(b"x")
        client.recv(1)
        after = acknowledged(transport)
        assert after is not None
        self.assertEqual(after - before, 1000)
        client.close()
        self.assertIsNone(acknowledged(transport))

    def test_no_socket(self) -> None:
        self.assertIsNone(acknowledged(None))
        self.assertIsNone(acknowledged(Wrapped(transport=None)))
        one, other = socket.socketpair()
        self.addCleanup(one.close)
        self.addCleanup(other.close)
        self.assertIsNone(acknowledged(Wrapped(socket=one)))


class PathTests(SynchronousTestCase):
    def test_of_a_connection(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
            path = path_of(client)
            assert path is not None and path.round_trip is not None
            self.assertTrue(0 <= path.round_trip < 1)
            self.assertTrue(path.sent >= 1)
            self.assertEqual(path.resent, 0)

    def test_before_there_is_a_round_trip(self) -> None:
        with socket.socket() as unconnected:
            path = path_of(unconnected)
            self.assertIsNone(path and path.round_trip)

    def test_what_is_no_tcp(self) -> None:
        one, other = socket.socketpair()
        with one, other:
            self.assertIsNone(path_of(one))
