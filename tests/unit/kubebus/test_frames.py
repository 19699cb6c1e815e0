"""The frame parser: whatever the cuts, whatever the bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from kubebus.frames import (
    CONTROL,
    HEADER_SIZE,
    LIMITS,
    PACKET,
    STREAM,
    PacketFrames,
    frame,
    frame_header,
    packet_bounds,
    packet_frames,
)
from kubebus.linkerrors import FrameTooLarge, LocalProtocolError, RemoteProtocolError, UnknownFrameType
from kubebus.testing_net import FrameParser

_FRAMES = st.lists(st.tuples(st.sampled_from([CONTROL, STREAM, PACKET]), st.binary(max_size=300)), max_size=8)


class FrameParserTests(SynchronousTestCase):
    def test_one_frame(self) -> None:
        self.assertEqual(frame(CONTROL, b"{}"), b"\x01\0\0\x02{}")
        self.assertEqual(list(FrameParser().feed(b"\x01\0\0\x02{}")), [(CONTROL, b"{}")])

    def test_unknown_type(self) -> None:
        frames = FrameParser().feed(frame(CONTROL, b"a") + b"\x09\0\0\0")
        self.assertEqual(next(frames), (CONTROL, b"a"))
        self.assertRaises(UnknownFrameType, next, frames)

    def test_limit_is_checked_before_the_payload_is_there(self) -> None:
        for kind, limit in LIMITS.items():
            parser = FrameParser()
            self.assertEqual(list(parser.feed((kind << 24 | limit).to_bytes(4, "big"))), [])
            too_large = (kind << 24 | limit + 1).to_bytes(4, "big")
            self.assertRaises(FrameTooLarge, list, FrameParser().feed(too_large))

    def test_our_own_frames_keep_the_limits(self) -> None:
        self.assertRaises(LocalProtocolError, frame_header, CONTROL, LIMITS[CONTROL] + 1)

    @given(_FRAMES, st.lists(st.integers(1, 50), min_size=1))
    def test_any_cut(self, frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
        data = b"".join(frame(kind, payload) for kind, payload in frames)
        parser, found, turn = FrameParser(), [], 0
        while data:
            size = cuts[turn % len(cuts)]
            turn += 1
            found += list(parser.feed(data[:size]))
            data = data[size:]
        self.assertEqual(found, frames)
        self.assertEqual(parser.buffered, 0)

    @given(_FRAMES, st.integers(0, 400), st.integers(0, 8))
    def test_packets_in_a_row(self, frames: list[tuple[int, bytes]], missing: int, first: int) -> None:
        """As many as lie whole from there on, as the parser finds them one by one."""
        encoded = [frame(kind, payload) for kind, payload in frames]
        at = sum(map(len, encoded[:first]))
        data = b"".join(encoded)
        data = data[: max(at, len(data) - missing)]
        expected = []
        for kind, payload in FrameParser().feed(data[at:]):
            if kind != PACKET:
                break
            expected.append(payload)
        bounds = packet_bounds(memoryview(data), at)
        self.assertEqual(bounds[0], at)
        self.assertEqual(PacketFrames(memoryview(data), bounds).payloads(), expected)

    def test_a_packet_that_is_too_long(self) -> None:
        good = frame(PACKET, b"good")
        head = (PACKET << 24 | LIMITS[PACKET] + 1).to_bytes(4, "big")
        self.assertRaises(FrameTooLarge, packet_bounds, memoryview(good + head), 0)
        largest = (PACKET << 24 | LIMITS[PACKET]).to_bytes(4, "big")
        self.assertEqual(packet_bounds(memoryview(good + largest), 0), [0, len(good)])

    @given(st.lists(st.binary(max_size=50)))
    def test_framed_and_back(self, payloads: list[bytes]) -> None:
        frames = packet_frames(payloads)
        self.assertEqual(frames.payloads(), payloads)
        self.assertEqual(list(FrameParser().feed(bytes(frames.buffer))), [(PACKET, each) for each in payloads])

    @given(st.lists(st.binary(max_size=200), max_size=20))
    def test_any_bytes(self, chunks: list[bytes]) -> None:
        """Nothing but a remote error escapes, and no more is buffered than one frame may have."""
        parser = FrameParser()
        for chunk in chunks:
            try:
                for _ in parser.feed(chunk):
                    pass
            except RemoteProtocolError:
                return
            self.assertLessEqual(parser.buffered, HEADER_SIZE + max(LIMITS.values()))
