"""The records that a server protects by itself, against OpenSSL's and against ones that OpenSSL would never send."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from kubebus.fastpath import records
from kubebus.fastpath.direct import DirectEngine
from kubebus.fastpath.engine import CHUNK, RECORD
from kubebus.fastpath.records import RecordEngine, choose_server_engine, prepare
from tests.unit.kubebus.fasttls import memory_pair

_DATA, _ALERT, _HANDSHAKE = 23, 21, 22
_UPDATE, _UPDATE_TOO = b"\x18\0\0\1\0", b"\x18\0\0\1\1"


class Pair:
    """A client of OpenSSL's and a server after their handshake; ``forge`` makes records as the client would."""

    def __init__(self, suites: bytes = b"TLS_AES_128_GCM_SHA256", together: bytes = b"") -> None:
        _, server = memory_pair()
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_tls13_ciphersuites(suites)
        fresh: Any = SSL.Connection(context, None)
        fresh.set_connect_state()
        self.client, self.server = DirectEngine(fresh), RecordEngine(server, DirectEngine)
        self.client.handshake()
        self.carry(self.client, self.server.feed)
        assert not self.server.handshake()
        self.carry(self.server, self.client.feed)
        assert self.client.handshake()
        if together:
            self.client.write(together)
        self.server.feed(taken(self.client))
        assert self.server.handshake()
        opening: Any = self.server._opening
        self.suite, self.secret = fresh.get_cipher_name(), opening and opening._secret

    def carry(self, source: Any, take: Callable[[bytes], object]) -> None:
        take(taken(source))

    def say(self, data: bytes) -> bytes:
        """From client to server."""
        self.client.write(data)
        return bytes(self.server.receive(taken(self.client)))

    def hear(self, data: bytes) -> bytes:
        """From server to client."""
        self.server.write(data)
        self.client.feed(taken(self.server))
        return bytes(self.client.read())

    def forger(self) -> Callable[..., bytes]:
        keys = records._Keys(self.suite, self.secret)

        def forge(kind: int, content: bytes, padding: int = 0, header: int = _DATA) -> bytes:
            inner = content + bytes([kind]) + bytes(padding)
            head = bytes([header, 3, 3]) + (len(inner) + 16).to_bytes(2)
            return head + bytes(keys.run.encrypt(keys.nonce(), inner, head))

        forge.keys = keys  # type: ignore[attr-defined]
        return forge


def taken(engine: Any) -> bytes:
    out = b""
    while part := bytes(engine.output()):
        out += part
    return out


class RecordTests(SynchronousTestCase):
    def test_every_suite(self) -> None:
        for suite in records._SUITES:
            pair = Pair(suite.encode())
            self.assertEqual(pair.suite, suite)
            self.assertTrue(pair.server.settle())
            self.assertEqual(pair.hear(b"down " * 10_000), b"down " * 10_000)
            self.assertEqual(pair.say(b"up"), b"up")

    def test_what_came_with_the_end_of_the_handshake_is_read(self) -> None:
        pair = Pair(together=b"early bird")
        self.assertTrue(pair.server.settle())
        self.assertEqual(bytes(pair.server.read()), b"early bird")
        self.assertEqual(pair.say(b"next"), b"next")

    def test_the_handshake_may_come_byte_by_byte(self) -> None:
        client, server = memory_pair()
        one, two = DirectEngine(client), RecordEngine(server, DirectEngine)
        done = False
        while not done:
            finished = one.handshake()
            for byte in taken(one):
                two.feed(bytes([byte]))
                done = two.handshake() and finished
            one.feed(taken(two))
        one.read()
        one.write(b"x")
        self.assertEqual(bytes(two.receive(taken(one))), b"x")

    def test_a_context_that_was_not_prepared_stays_with_openssl(self) -> None:
        _, server = memory_pair()
        self.assertIsInstance(choose_server_engine()(server), RecordEngine)
        plain = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
        self.assertIsInstance(choose_server_engine()(plain), DirectEngine)

    def test_libraries_without_the_names_stay_with_openssl(self) -> None:
        self.patch(records, "AESGCM", object)
        context = SSL.Context(SSL.TLS_METHOD)
        prepare(context)
        self.assertIsInstance(choose_server_engine()(SSL.Connection(context, None)), DirectEngine)

    def test_a_suite_unknown_here_stays_with_openssl(self) -> None:
        self.patch(records, "_SUITES", {})
        pair = Pair(together=b"early")
        self.assertFalse(pair.server.settle())
        self.assertEqual(bytes(pair.server.read()), b"early")
        self.assertEqual(pair.say(b"up"), b"up")
        self.assertEqual(pair.hear(b"down"), b"down")
        pair.client.shutdown()
        self.assertEqual(bytes(pair.server.receive(taken(pair.client))), b"")
        self.assertTrue(pair.server.ended)
        self.assertTrue(pair.server.shutdown())

    def test_engines_that_write_by_turns_keep_apart(self) -> None:
        first, second = Pair(), Pair()
        for number in range(5):
            first.server.write(b"first %d " % number)
            second.server.write(b"second %d " % number)
        for pair, name in ((first, b"first"), (second, b"second")):
            pair.client.feed(taken(pair.server))
            self.assertEqual(bytes(pair.client.read()), b"".join(b"%s %d " % (name, each) for each in range(5)))

    def test_much_may_be_written_before_it_is_taken(self) -> None:
        pair = Pair()
        for _ in range(4):
            pair.server.write(b"m" * CHUNK)
        out = taken(pair.server)
        received = b"".join(bytes(pair.client.receive(out[at : at + CHUNK])) for at in range(0, len(out), CHUNK))
        self.assertEqual(received, b"m" * 4 * CHUNK)

    def test_sends_no_tickets(self) -> None:
        """Nobody may use them. The first record under the lasting keys is the first data."""
        pair = Pair()
        self.assertEqual(taken(pair.server), b"")
        self.assertEqual(pair.hear(b"first"), b"first")

    def test_records_that_say_nothing_are_judged_as_they_come(self) -> None:
        """They come between the flights of the client. What nobody judges would pile up."""
        client, server = memory_pair()
        one, two = DirectEngine(client), RecordEngine(server, DirectEngine)
        one.handshake()
        two.feed(taken(one))
        self.assertFalse(two.handshake())
        two.feed(b"\x14\3\3\0\1\1")
        self.assertFalse(two.handshake())
        two.feed(b"\x14\3\3\0\1\2" + b"\x14\3")
        self.assertRaises(SSL.Error, two.handshake)

    def test_a_heap_of_records_that_say_nothing_is_judged_at_its_beginning(self) -> None:
        _, server = memory_pair()
        engine = RecordEngine(server, DirectEngine)
        engine.feed(b"\x14\3\3\0\1\1" * 20000)
        self.assertRaises(SSL.Error, engine.handshake)
        inbox: Any = engine._inbox
        self.assertGreater(len(inbox), 6 * 19990)

    def test_takes_new_keys_before_the_old_ones_are_worn_out(self) -> None:
        pair = Pair()
        sealing: Any = pair.server._sealing
        before = sealing._secret
        # OpenSSL counts too: this many must really have been sent.
        self.patch(records, "_UPDATE_AFTER", sealing.count + 10)
        for number in range(35):
            self.assertEqual(pair.hear(b"%d" % number), b"%d" % number)
        self.assertNotEqual(sealing._secret, before)
        self.assertLess(sealing.count, 10)


class ForgedTests(SynchronousTestCase):
    """What a client may send that is no OpenSSL."""

    def refused(self, why: str, *forged: bytes, alert: int, pair: Pair) -> None:
        error = self.assertRaises(SSL.Error, pair.server.receive, b"".join(forged))
        self.assertIn(why, str(error))
        # The client is told, by an alert that it understands.
        pair.client.feed(taken(pair.server))
        told = self.assertRaises(SSL.Error, pair.client.read)
        self.assertIn({10: "unexpected message", 20: "bad record mac", 22: "record overflow"}[alert], str(told))

    def test_padding_is_taken_off(self) -> None:
        pair = Pair()
        forge = pair.forger()
        forged = forge(_DATA, b"a", 100) + forge(_DATA, b"b\0", 1) + forge(_DATA, b"") + forge(_DATA, b"", 5)
        self.assertEqual(bytes(pair.server.receive(forged + forge(_DATA, b"c"))), b"ab\0c")

    def test_full_records_are_borne_and_longer_ones_not(self) -> None:
        pair = Pair()
        forge = pair.forger()
        self.assertEqual(bytes(pair.server.receive(forge(_DATA, b"f" * RECORD))), b"f" * RECORD)
        self.refused("record length", forge(_DATA, b"f" * (RECORD + 1)), alert=22, pair=pair)

    def test_the_client_may_change_its_keys(self) -> None:
        pair = Pair()
        pair.hear(b"before")
        forge = pair.forger()
        keys: Any = forge.keys  # type: ignore[attr-defined]
        update = forge(_HANDSHAKE, _UPDATE)
        keys.update()
        self.assertEqual(bytes(pair.server.receive(update + forge(_DATA, b"new"))), b"new")
        self.assertEqual(taken(pair.server), b"")
        # And ask for the same.
        before: Any = pair.server._sealing
        secret = before._secret
        update = forge(_HANDSHAKE, _UPDATE_TOO)
        keys.update()
        self.assertEqual(bytes(pair.server.receive(update + forge(_DATA, b"newer"))), b"newer")
        self.assertEqual(pair.hear(b"answer"), b"answer")
        self.assertNotEqual(before._secret, secret)

    def test_asking_for_new_keys_again_and_again_makes_no_heap_of_answers(self) -> None:
        """Also of one that reads nothing, and sends data in between, so that it counts as no idle talk."""
        pair = Pair()
        pair.hear(b"before")
        forge = pair.forger()
        keys: Any = forge.keys  # type: ignore[attr-defined]
        for _ in range(100):
            update = forge(_HANDSHAKE, _UPDATE_TOO)
            keys.update()
            self.assertEqual(bytes(pair.server.receive(update + forge(_DATA, b"x"))), b"x")
        self.assertEqual(taken(pair.server), b"")
        sealing: Any = pair.server._sealing
        secret = sealing._secret
        # Once for all of them, and not again.
        self.assertEqual(pair.hear(b"answer"), b"answer")
        self.assertNotEqual(sealing._secret, secret)
        secret = sealing._secret
        self.assertEqual(pair.hear(b"more"), b"more")
        self.assertEqual(sealing._secret, secret)

    def test_no_new_keys_after_the_end(self) -> None:
        pair = Pair()
        pair.server.shutdown()
        taken(pair.server)
        pair.server.receive(pair.forger()(_HANDSHAKE, _UPDATE_TOO))
        self.assertEqual(taken(pair.server), b"")

    def test_padding_costs_little(self) -> None:
        pair = Pair()
        forge = pair.forger()
        forged = [forge(_DATA, b"x", RECORD - 1) for _ in range(400)]
        begun = time.process_time()
        for each in forged:
            self.assertEqual(bytes(pair.server.receive(each)), b"x")
        # 6.5 MB: 10 ms by whole records, 400 ms and more byte by byte.
        self.assertLess(time.process_time() - begun, 0.1)

    def test_old_keys_are_worth_nothing(self) -> None:
        pair = Pair()
        forge = pair.forger()
        pair.server.receive(forge(_HANDSHAKE, _UPDATE))
        self.refused("decryption failed", forge(_DATA, b"old"), alert=20, pair=pair)

    def test_a_record_cannot_be_played_again(self) -> None:
        pair = Pair()
        forged = pair.forger()(_DATA, b"once")
        self.assertEqual(bytes(pair.server.receive(forged)), b"once")
        self.refused("decryption failed", forged, alert=20, pair=pair)

    def test_the_header_is_protected(self) -> None:
        pair = Pair()
        forged = bytearray(pair.forger()(_DATA, b"genuine"))
        forged[2] ^= 1
        self.refused("decryption failed", bytes(forged), alert=20, pair=pair)

    def test_what_nobody_asked_for_is_refused(self) -> None:
        for kind, content in (
            (_HANDSHAKE, b"\x01\0\0\0"),
            (_HANDSHAKE, _UPDATE + _UPDATE),
            (_HANDSHAKE, b"\x18\0\0\1\2"),
            (_HANDSHAKE, _UPDATE[:3]),
            (_ALERT, b"\1"),
            (20, b"\1"),
            (99, b"?"),
            (0, b""),
        ):
            pair = Pair()
            self.refused("unexpected message", pair.forger()(kind, content), alert=10, pair=pair)
        for header in (20, 21, 22, 99):
            pair = Pair()
            self.refused("unexpected message", pair.forger()(_DATA, b"x", header=header), alert=10, pair=pair)

    def test_too_short_for_a_tag(self) -> None:
        pair = Pair()
        self.refused("record length", b"\x17\3\3\0\x10" + bytes(16), alert=22, pair=pair)

    def test_changing_keys_for_ever_is_no_conversation(self) -> None:
        pair = Pair()
        forge = pair.forger()
        keys: Any = forge.keys  # type: ignore[attr-defined]
        flood = []
        for _ in range(40):
            flood.append(forge(_HANDSHAKE, _UPDATE))
            keys.update()
        self.refused("without data", *flood, alert=10, pair=pair)

    def test_alerts(self) -> None:
        pair = Pair()
        forge = pair.forger()
        self.assertEqual(
            bytes(pair.server.receive(forge(_ALERT, b"\1\x5a") + forge(_DATA, b"still here"))), b"still here"
        )
        closed = forge(_DATA, b"bye") + forge(_ALERT, b"\1\0") + b"anything at all"
        self.assertEqual(bytes(pair.server.receive(closed)), b"bye")
        self.assertTrue(pair.server.ended)
        other = Pair()
        self.assertRaises(SSL.Error, other.server.receive, other.forger()(_ALERT, b"\2\x28"))
