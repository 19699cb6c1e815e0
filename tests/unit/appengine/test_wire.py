"""The wire formats of the kubelet API and of the engine's answers: whole, in pieces, and hostile."""

from __future__ import annotations

import json
import struct
import zlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from appengine.dockerstream import Chunks, Demultiplexer
from appengine.kubelethttp import HttpError, cut_request
from appengine.remotecommand import STDERR, STDIN, STDOUT, PlainChannels, SpdyChannels, WebSocketChannels, failure
from appengine.spdy import DICTIONARY, Opened, Received, Spdy, SpdyError
from appengine.websocket import Message, WebSocket, WebSocketError, accept_key


class Client:
    """The other side of SPDY, as kubectl's library writes it."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def open(self, stream: int, **headers: str) -> bytes:
        block = struct.pack(">I", len(headers))
        for name, value in headers.items():
            block += struct.pack(">I", len(name)) + name.encode() + struct.pack(">I", len(value)) + value.encode()
        packed = self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        payload = struct.pack(">IIBB", stream, 0, 0, 0) + packed
        return struct.pack(">HHI", 0x8003, 1, len(payload)) + payload

    def data(self, stream: int, data: bytes, fin: bool = False) -> bytes:
        return struct.pack(">II", stream, (1 if fin else 0) << 24 | len(data)) + data


class Peer:
    def __init__(self) -> None:
        self.seen: list[object] = []

    def ready(self) -> None:
        self.seen.append("ready")

    def stdin(self, data: bytes) -> None:
        self.seen.append(data)

    def stdin_closed(self) -> None:
        self.seen.append("eof")

    def resize(self, width: int, height: int) -> None:
        self.seen.append((width, height))

    def closed(self) -> None:
        self.seen.append("closed")


class SpdyTests(unittest.SynchronousTestCase):
    def test_streams_in_pieces(self) -> None:
        client, spdy = Client(), Spdy()
        wire = client.open(1, streamtype="error") + client.open(3, streamtype="stdin") + client.data(3, b"hello", True)
        events = [event for at in range(len(wire)) for event in spdy.feed(wire[at : at + 1])]
        self.assertEqual(
            events,
            [
                Opened(1, {"streamtype": "error"}, False),
                Opened(3, {"streamtype": "stdin"}, False),
                Received(3, b"hello", True),
            ],
        )

    def test_command_starts_when_all_its_channels_are_open(self) -> None:
        sent: list[bytes] = []
        peer, client = Peer(), Client()
        channels = SpdyChannels(sent.append, peer, frozenset({STDIN, STDOUT}))
        channels.received(client.open(1, streamtype="error") + client.open(3, streamtype="stdout"))
        self.assertEqual(peer.seen, [])
        channels.received(client.open(5, streamtype="stdin") + client.open(7, streamtype="nonsense"))
        self.assertEqual(peer.seen, ["ready"])
        channels.received(client.data(5, b"in") + client.data(5, b"", True))
        self.assertEqual(peer.seen[1:], [b"in", "eof"])
        channels.output(STDOUT, b"out")
        channels.output(STDERR, b"nobody asked for it")
        self.assertIn(struct.pack(">II", 3, 3) + b"out", sent)
        channels.finish(failure("exit status 3", 3))
        status = next(json.loads(each[8:]) for each in sent if each[8:9] == b"{")
        self.assertEqual(status["details"]["causes"], [{"reason": "ExitCode", "message": "3"}])

    def test_header_bomb(self) -> None:
        client, spdy = Client(), Spdy()
        with self.assertRaises(SpdyError):
            list(spdy.feed(client.open(1, x="a" * 10_000_000)))

    @given(st.binary(max_size=300))
    def test_nonsense(self, data: bytes) -> None:
        for prefix in (b"", struct.pack(">HH", 0x8003, 1)):
            try:
                list(Spdy().feed(prefix + data))
            except SpdyError:
                pass


class WebSocketTests(unittest.SynchronousTestCase):
    def test_the_example_of_the_standard(self) -> None:
        # RFC 6455, sections 1.3 and 5.7.
        self.assertEqual(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        wire = bytes.fromhex("818537fa213d7f9f4d5158")
        self.assertEqual(list(WebSocket().feed(wire)), [Message(b"Hello")])

    def test_unmasked_frames_are_refused(self) -> None:
        with self.assertRaises(WebSocketError):
            list(WebSocket().feed(bytes.fromhex("810548656c6c6f")))

    def test_channels(self) -> None:
        peer = Peer()
        channels = WebSocketChannels(lambda _: None, peer)
        for message in (b"\x00in", b"\x04" + json.dumps({"Width": 80, "Height": 24}).encode(), b"\xff\x00"):
            mask = b"\0\0\0\0"
            channels.received(bytes([0x82, 0x80 | len(message)]) + mask + message)
        self.assertEqual(peer.seen, [b"in", (80, 24), "eof"])

    @given(st.binary(max_size=300))
    def test_nonsense(self, data: bytes) -> None:
        try:
            list(WebSocket().feed(data))
        except WebSocketError:
            pass


class PlainTests(unittest.SynchronousTestCase):
    def test_frames_in_pieces(self) -> None:
        peer = Peer()
        channels = PlainChannels(lambda _: None, peer)
        wire = struct.pack(">BI", 0, 2) + b"in" + struct.pack(">BI", 255, 1) + b"\0"
        for at in range(len(wire)):
            channels.received(wire[at : at + 1])
        self.assertEqual(peer.seen, [b"in", "eof"])

    def test_too_long(self) -> None:
        channels = PlainChannels(lambda _: None, Peer())
        self.assertRaises(ValueError, channels.received, struct.pack(">BI", 0, 2**31))


class HttpTests(unittest.SynchronousTestCase):
    def test_request(self) -> None:
        wire = b"POST /exec/ns/p%2Fq/c?command=a&command=b%20c&tty=1 HTTP/1.1\r\nUpgrade: SPDY/3.1\r\n\r\nrest"
        cut = cut_request(bytearray(wire))
        assert cut is not None
        request, rest = cut
        self.assertEqual(request.path, ("exec", "ns", "p/q", "c"))
        self.assertEqual(request.query["command"], ["a", "b c"])
        self.assertTrue(request.flag("tty"))
        self.assertEqual((request.header("upgrade"), rest), ("SPDY/3.1", b"rest"))
        self.assertIsNone(cut_request(bytearray(wire[:40])))

    @given(st.binary(max_size=300))
    def test_nonsense(self, data: bytes) -> None:
        try:
            cut_request(bytearray(data + b"\r\n\r\n"))
        except HttpError:
            pass

    def test_strange_targets(self) -> None:
        for target in ("//[x", "/%zz?%zz", "/?a=%ff"):
            self.assertIsNotNone(cut_request(bytearray(f"GET {target} HTTP/1.1\r\n\r\n".encode())))

    def test_endless_head(self) -> None:
        self.assertRaises(HttpError, cut_request, bytearray(b"GET /" + b"a" * 70_000))


class EngineAnswerTests(unittest.SynchronousTestCase):
    @given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.integers(1, 7))
    def test_chunks_in_pieces(self, parts: list[bytes], step: int) -> None:
        wire = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        chunks = Chunks()
        out = b"".join(chunks.feed(wire[at : at + step]) for at in range(0, len(wire), step))
        self.assertEqual((out, chunks.finished), (b"".join(parts), True))

    @given(
        st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(min_size=1, max_size=50)), max_size=8), st.integers(1, 9)
    )
    def test_multiplexed_output_in_pieces(self, parts: list[tuple[int, bytes]], step: int) -> None:
        wire = b"".join(struct.pack(">BxxxI", stream, len(part)) + part for stream, part in parts)
        found = {1: b"", 2: b""}

        def received(stream: int, data: bytes) -> None:
            found[stream] += data

        split = Demultiplexer(received)
        for at in range(0, len(wire), step):
            split.feed(wire[at : at + step])
        for stream in (1, 2):
            self.assertEqual(found[stream], b"".join(part for which, part in parts if which == stream))
