"""What the kernel tells of a connection."""

from __future__ import annotations

import socket

from twisted.trial.unittest import SynchronousTestCase

from kubebus.tcpinfo import acknowledged


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
