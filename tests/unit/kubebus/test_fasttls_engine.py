from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from kubebus.fastpath import direct, engine
from kubebus.fastpath.direct import DirectEngine
from kubebus.fastpath.engine import CHUNK, RECORD, ROOM, Engine, PublicEngine, choose_engine, gathered
from kubebus.fastpath.records import RecordEngine
from tests.unit.kubebus.fasttls import memory_pair

if TYPE_CHECKING:
    _Base = SynchronousTestCase
else:
    _Base = object


class EngineContract(_Base):
    """Two engines, in memory."""

    make: Any

    def setUp(self) -> None:
        client, server = memory_pair()
        self.client: Engine = self.make(client)
        self.server: Engine = self.make(server)

    def carry(self, source: Engine, target: Engine, step: int = CHUNK) -> None:
        while out := bytes(source.output()):
            for start in range(0, len(out), step):
                target.feed(out[start : start + step])

    def shake(self) -> None:
        done = False
        while not done:
            client = self.client.handshake()
            self.carry(self.client, self.server)
            done = self.server.handshake() and client
            self.carry(self.server, self.client)
        # TLS 1.3 tickets are read with the first data.
        self.assertEqual(bytes(self.client.read()), b"")

    def test_shakes_hands(self) -> None:
        self.assertFalse(self.client.handshake())
        self.assertFalse(self.server.handshake())
        self.shake()
        self.assertTrue(self.client.handshake())

    def test_carries_nothing_when_there_is_nothing(self) -> None:
        self.shake()
        self.assertEqual((bytes(self.client.output()), bytes(self.server.read())), (b"", b""))
        self.client.write(b"")
        self.assertEqual(bytes(self.client.output()), b"")

    def test_carries_a_full_chunk(self) -> None:
        self.shake()
        data = bytes(range(256)) * (CHUNK // 256)
        self.client.write(memoryview(data))
        self.carry(self.client, self.server)
        received = bytearray()
        while plain := self.server.read():
            received += plain
        self.assertEqual(received, data)
        self.assertFalse(self.server.ended)

    def test_what_does_not_fit_stays_for_the_next_read(self) -> None:
        self.shake()
        data = b"q" * CHUNK
        for _ in range(5):
            self.client.write(data)
            self.carry(self.client, self.server)
        received = bytearray()
        while plain := self.server.read():
            received += plain
        self.assertEqual(received, data * 5)

    def test_receives_piece_by_piece_what_was_cut_anywhere(self) -> None:
        self.shake()
        data = bytes(range(256)) * (CHUNK // 256)
        for step in (1, 5, 1000, 16405, CHUNK):
            # Single bytes of all would take long.
            sent = data[:100] if step < 5 else data
            self.client.write(sent)
            out = b""
            while part := bytes(self.client.output()):
                out += part
            received = bytearray()
            for start in range(0, len(out), step):
                piece = bytearray(out[start : start + step])
                received += self.server.receive(piece)
                # The engine has no more use for it.
                piece[:] = bytes(len(piece))
            self.assertEqual(received, sent)
        self.client.shutdown()
        self.assertEqual(bytes(self.server.receive(bytes(self.client.output()))), b"")
        self.assertTrue(self.server.ended)
        self.assertTrue(self.server.shutdown())

    def test_begins_with_what_was_kept(self) -> None:
        """However long that is, and wherever records are cut."""
        self.shake()
        data = bytes(range(256)) * (CHUNK // 256)
        for kept in (b"k", b"kept" * 10_000, bytes(ROOM)):
            for step in (16_000, CHUNK):
                self.client.write(data)
                out = b""
                while part := bytes(self.client.output()):
                    out += part
                answer = kept
                for start in range(0, len(out), step):
                    answer = bytes(self.server.receive(out[start : start + step], answer))
                    if len(answer) > ROOM:
                        break
                else:
                    self.assertEqual(answer, kept + data)
                    continue
                # More than can be kept: the rest without.
                rest = b"".join(
                    bytes(self.server.receive(out[at : at + step])) for at in range(start + step, len(out), step)
                )
                self.assertEqual(answer + rest, kept + data)

    def test_what_is_written_stays_as_it_is(self) -> None:
        self.shake()
        for size in (1, RECORD - 1, RECORD, RECORD + 1, 2 * RECORD, 3 * RECORD + 7, CHUNK):
            original = bytes(range(251)) * (CHUNK // 251 + 1)
            data = bytearray(original)
            self.server.write(memoryview(data)[5 : 5 + size])
            self.carry(self.server, self.client)
            received = bytearray()
            while plain := self.client.read():
                received += plain
            self.assertEqual((data, received), (original, original[5 : 5 + size]))

    def test_forged_data_is_an_error_of_receiving_too(self) -> None:
        self.shake()
        self.client.write(b"genuine")
        out = bytearray(self.client.output())
        out[-1] ^= 1
        self.assertRaises(SSL.Error, self.server.receive, out)

    def test_carries_single_bytes_of_ciphertext(self) -> None:
        self.shake()
        self.client.write(bytearray(b"piecemeal"))
        out = bytes(self.client.output())
        for number, _ in enumerate(out[:-1]):
            self.server.feed(out[number : number + 1])
            self.assertEqual(bytes(self.server.read()), b"")
        self.server.feed(out[-1:])
        self.assertEqual(bytes(self.server.read()), b"piecemeal")

    def test_the_last_words_come_with_the_end(self) -> None:
        self.shake()
        self.client.write(b"goodbye")
        self.assertFalse(self.client.shutdown())
        self.carry(self.client, self.server)
        self.assertEqual(bytes(self.server.read()), b"goodbye")
        self.assertEqual(bytes(self.server.read()), b"")
        self.assertTrue(self.server.ended)
        self.assertTrue(self.server.shutdown())
        self.carry(self.server, self.client)
        self.client.read()
        self.assertTrue(self.client.ended)

    def test_goes_on_when_it_has_settled(self) -> None:
        """At any time: before the first data, with some on its way, and later again."""
        self.shake()
        self.server.settle()
        self.client.write(b"early")
        self.carry(self.client, self.server)
        self.client.settle()
        self.assertEqual(bytes(self.server.read()), b"early")
        self.server.write(b"x" * CHUNK)
        self.server.settle()
        received = bytearray()
        while out := bytes(self.server.output()):
            received += self.client.receive(out)
        self.assertEqual(received, b"x" * CHUNK)
        self.client.settle()
        self.client.write(b"back")
        self.assertEqual(bytes(self.server.receive(bytes(self.client.output()))), b"back")
        self.client.shutdown()
        self.assertEqual(bytes(self.server.receive(bytes(self.client.output()))), b"")
        self.assertTrue(self.server.ended)
        self.assertTrue(self.server.shutdown())

    def test_what_has_settled_still_refuses_what_is_forged(self) -> None:
        self.shake()
        self.server.settle()
        self.client.write(b"genuine")
        out = bytearray(self.client.output())
        out[-1] ^= 1
        self.assertRaises(SSL.Error, self.server.receive, out)

    def test_forged_data_is_an_error(self) -> None:
        self.shake()
        self.client.write(b"genuine")
        out = bytearray(self.client.output())
        out[-1] ^= 1
        self.server.feed(out)
        self.assertRaises(SSL.Error, self.server.read)

    def test_nonsense_is_an_error(self) -> None:
        self.server.feed(b"SSH-2.0-OpenSSH_9.2\r\n")
        self.assertRaises(SSL.Error, self.server.handshake)

    def test_an_error_of_one_connection_is_none_of_the_next(self) -> None:
        self.test_forged_data_is_an_error()
        self.setUp()
        self.test_carries_a_full_chunk()


class PublicEngineTests(EngineContract, SynchronousTestCase):
    make = PublicEngine


class DirectEngineTests(EngineContract, SynchronousTestCase):
    make = DirectEngine


class MixedEngineTests(EngineContract, SynchronousTestCase):
    def setUp(self) -> None:
        client, server = memory_pair()
        self.client, self.server = PublicEngine(client), DirectEngine(server)


class RecordEngineTests(EngineContract, SynchronousTestCase):
    """OpenSSL at the client."""

    def setUp(self) -> None:
        client, server = memory_pair()
        self.client, self.server = DirectEngine(client), RecordEngine(server, DirectEngine)


class PublicRecordEngineTests(EngineContract, SynchronousTestCase):
    def setUp(self) -> None:
        client, server = memory_pair()
        self.client, self.server = PublicEngine(client), RecordEngine(server, PublicEngine)


class GatheringTests(SynchronousTestCase):
    @given(st.lists(st.integers(0, 5 * RECORD), max_size=12))
    def test_gives_the_same_bytes_in_full_records(self, sizes: list[int]) -> None:
        parts = [bytes([index]) * size for index, size in enumerate(sizes)]
        pieces = [bytes(piece) for piece in gathered(parts)]
        self.assertEqual(b"".join(pieces), b"".join(parts))
        for piece in pieces[:-1]:
            self.assertEqual(len(piece) % RECORD, 0)
        for piece in pieces:
            self.assertTrue(0 < len(piece) <= CHUNK)


class ChoiceTests(SynchronousTestCase):
    def test_the_direct_engine_works_with_the_libraries_installed(self) -> None:
        self.assertIs(choose_engine(), DirectEngine)

    def test_another_pyopenssl_gets_the_public_engine(self) -> None:
        with mock.patch.object(direct, "lib", object()):
            self.assertIs(choose_engine(), PublicEngine)

    def test_missing_names_get_the_public_engine(self) -> None:
        with mock.patch.dict("sys.modules", {"kubebus.fastpath.direct": None}):
            self.assertIs(engine.choose_engine(), PublicEngine)
