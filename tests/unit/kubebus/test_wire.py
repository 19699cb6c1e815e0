# mypy: disallow-untyped-calls=False
"""The messages of enrolment: whatever a peer makes up, nothing escapes and nothing grows without bound."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from kubebus.ca import Authority, InvalidRequest, issue_node, new_key, requested_key, signing_request
from kubebus.credentials import Credentials
from kubebus.enrol import GrantProtocol
from kubebus.identity import PeerIdentity, Role
from kubebus.join import AskProtocol
from kubebus.joinstring import HostPort
from kubebus.tokens import Refusal, Refused
from kubebus.wire import (
    MAX_MESSAGE,
    BadMessage,
    Grant,
    JoinRequest,
    RenewRequest,
    decode_answer,
    encode_refusal,
)

NODE = PeerIdentity("default", Role.NODE, "edge-1")
KEY = new_key()
AUTHORITY = Authority.create("kubebus default", 1.8e9)
GRANT = Grant(
    issue_node(AUTHORITY, NODE, KEY.public_key(), 1.9e9),
    (AUTHORITY.certificate,),
    (HostPort("203.0.113.1", 443),),
    1.8e9,
)
REQUEST = JoinRequest("default", "edge-1", "0a1b2c3d", "secret", signing_request(KEY, NODE).decode())

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=30),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=8,
)


def altered(message: bytes) -> st.SearchStrategy[bytes]:
    """A message with one field changed, left out or added."""
    fields = json.loads(message)
    names = st.sampled_from([*fields, "other"])

    def alter(change: tuple[str, Any, bool]) -> bytes:
        name, value, remove = change
        changed = {**fields, name: value}
        if remove:
            del changed[name]
        return json.dumps(changed).encode()

    return st.tuples(names, json_values, st.booleans()).map(alter)


class MessageTests(SynchronousTestCase):
    def test_round_trips(self) -> None:
        self.assertEqual(JoinRequest.decode(REQUEST.encode()), REQUEST)
        self.assertEqual(RenewRequest.decode(RenewRequest("x").encode()), RenewRequest("x"))
        self.assertEqual(decode_answer(GRANT.encode()), GRANT)
        with self.assertRaises(Refused) as caught:
            decode_answer(encode_refusal(Refusal.NAME_TAKEN, "no"))
        self.assertEqual((caught.exception.refusal, str(caught.exception)), (Refusal.NAME_TAKEN, "no"))

    def test_refusal_of_a_newer_router(self) -> None:
        with self.assertRaises(Refused) as caught:
            decode_answer(b'{"version":1,"refused":"bad-weather","message":"ra\\u0007in"}')
        self.assertEqual(str(caught.exception), "ra in")

    def test_secret_is_not_shown(self) -> None:
        self.assertNotIn("secret", repr(REQUEST).replace("'edge-1'", ""))

    def test_messages_name_the_field(self) -> None:
        for change, pattern in (
            ({"version": 2}, "its version is '2'"),
            ({"version": True}, "its version"),
            ({"token": "../../x"}, "'token' must be"),
            ({"node": "A"}, "node name 'A' is not valid"),
            ({"network": "a/b"}, "network name"),
            ({"secret": 5}, "'secret' must be a text"),
            ({"request": "x" * 20000}, "'request' must be a text of at most"),
            ({"secret": "\ud800"}, "'secret' is not valid text"),
        ):
            message = json.dumps({**json.loads(REQUEST.encode()), **change}).encode()
            with self.assertRaisesRegex(BadMessage, pattern):
                JoinRequest.decode(message)

    def test_answers_name_the_field(self) -> None:
        for change, pattern in (
            ({"bundle": []}, "'bundle' is empty"),
            ({"bundle": ["x"] * 17}, "'bundle' must be a list of at most 16"),
            ({"bundle": ["x"]}, "'bundle' is not a PEM certificate"),
            ({"certificate": ""}, "'certificate' is not a PEM"),
            ({"routers": ["a b"]}, "'routers'"),
            ({"time": "now"}, "'time'"),
            ({"time": 1e300}, "'time'"),
        ):
            message = json.dumps({**json.loads(GRANT.encode()), **change}).encode()
            with self.assertRaisesRegex(BadMessage, pattern):
                decode_answer(message)

    @given(st.binary(max_size=300) | json_values.map(lambda v: json.dumps(v).encode()) | altered(REQUEST.encode()))
    def test_any_request(self, message: bytes) -> None:
        for decode in (JoinRequest.decode, RenewRequest.decode):
            try:
                decode(message)
            except BadMessage:
                pass

    @given(st.binary(max_size=300) | altered(GRANT.encode()) | altered(encode_refusal(Refusal.REVOKED, "x")))
    def test_any_answer(self, message: bytes) -> None:
        try:
            decode_answer(message)
        except (BadMessage, Refused):
            pass

    @given(st.binary(max_size=300) | st.text(max_size=300).map(lambda t: t.encode("utf-8", "replace")))
    def test_any_certificate_request(self, pem: bytes) -> None:
        der_like = b"-----BEGIN CERTIFICATE REQUEST-----\n" + pem + b"\n-----END CERTIFICATE REQUEST-----\n"
        for request in (pem, der_like):
            self.assertRaises(InvalidRequest, requested_key, request)

    @given(
        st.binary(max_size=300) | altered(Credentials(NODE, KEY, GRANT.certificate, GRANT.bundle, (), 0, "t").encode())
    )
    def test_any_credentials_file(self, content: bytes) -> None:
        try:
            Credentials.decode(content)
        except ValueError:
            pass


class FragmentTests(SynchronousTestCase):
    """Both ends take bytes in any pieces, answer once, and hold at most one message."""

    def server(self) -> tuple[GrantProtocol, StringTransport, list[bytes]]:
        seen: list[bytes] = []

        async def grant(message: bytes) -> Grant:
            seen.append(message)
            JoinRequest.decode(message)
            return GRANT

        transport = StringTransport()
        protocol = GrantProtocol(Clock(), "peer", grant)
        protocol.makeConnection(transport)
        return protocol, transport, seen

    @settings(deadline=None)
    @given(st.lists(st.binary(max_size=400), max_size=10))
    def test_any_bytes_to_the_router(self, pieces: list[bytes]) -> None:
        protocol, transport, seen = self.server()
        for piece in pieces:
            protocol.dataReceived(piece)
            self.assertLessEqual(len(protocol._unprocessed), MAX_MESSAGE + 4)
        self.assertLessEqual(len(seen), 1)
        self.assertEqual(transport.value()[:1] not in (b"",), bool(seen) or transport.disconnecting)
        protocol.connectionLost()

    @given(st.integers(1, 700))
    def test_a_request_in_pieces(self, size: int) -> None:
        protocol, transport, seen = self.server()
        message = REQUEST.encode()
        wire = len(message).to_bytes(4, "big") + message + b"more"
        for at in range(0, len(wire), size):
            protocol.dataReceived(wire[at : at + size])
        self.assertEqual(seen, [message])
        self.assertEqual(decode_answer(transport.value()[4:]), GRANT)
        self.assertTrue(transport.disconnecting)

    def test_a_router_that_never_stops(self) -> None:
        protocol, transport, _ = self.server()
        protocol.dataReceived((MAX_MESSAGE + 1).to_bytes(4, "big"))
        self.assertTrue(transport.disconnecting)
        self.assertIn(b"65537 bytes is too long", transport.value())

    @given(st.lists(st.binary(max_size=400), max_size=10))
    def test_any_bytes_to_the_edge(self, pieces: list[bytes]) -> None:
        protocol = AskProtocol(Clock(), b"request")
        protocol.makeConnection(StringTransport())
        for piece in pieces:
            protocol.dataReceived(piece)
        protocol.connectionLost()
        self.failureResultOf(protocol.answer)

    def test_silence_ends(self) -> None:
        clock = Clock()
        protocol = AskProtocol(clock, b"request")
        protocol.makeConnection(StringTransport())
        clock.advance(30)
        self.assertIn("within 30 s", str(self.failureResultOf(protocol.answer).value))
        server, transport, _ = self.server()
        server._reactor.advance(30)  # type: ignore[attr-defined]
        self.assertTrue(transport.disconnected)
