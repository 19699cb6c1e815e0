"""Where the packets of one read go: each way out gets its own, in order, and as one where they lie together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from kubebus.frames import PacketFrames, packet_frames
from kubebus.runs import Runs


class Way:
    """Remembers what it got, and how."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.queued: list[bytes] = []
        self.writes = 0

    def send_packet(self, payload: bytes) -> bool:
        self.queued.append(payload)
        return True

    def send_frames(self, frames: PacketFrames, first: int, last: int) -> None:
        self.sent += frames.payloads()[first:last]
        self.writes += 1

    def flush(self) -> None:
        self.sent += self.queued
        self.queued.clear()
        self.writes += 1


class RunsTests(SynchronousTestCase):
    @given(st.lists(st.integers(-1, 2), max_size=12), st.booleans())
    def test_everyone_gets_its_own_in_order(self, ways: list[int], answered: bool) -> None:
        """:param ways: which way out each packet has; ``-1`` for none."""
        payloads = [bytes([number]) * (number + 1) for number in range(len(ways))]
        frames = packet_frames(payloads)
        outlets = [Way(), Way(), Way()]
        runs = Runs(frames)
        for index, way in enumerate(ways):
            if way >= 0:
                runs.add(outlets[way], index)
        if answered:
            outlets[0].send_packet(b"an answer")
            runs.flush.add(outlets[0])
        runs.send()
        for number, outlet in enumerate(outlets):
            expected = [payload for payload, way in zip(payloads, ways, strict=True) if way == number]
            self.assertEqual([each for each in outlet.sent if each != b"an answer"], expected)
            self.assertEqual(outlet.queued, [])
        self.assertEqual(b"an answer" in outlets[0].sent, answered)

    @given(st.lists(st.integers(0, 1), min_size=1, max_size=12))
    def test_one_write_for_each_way_out(self, ways: list[int]) -> None:
        frames = packet_frames([b"x"] * len(ways))
        outlets = [Way(), Way()]
        runs = Runs(frames)
        for index, way in enumerate(ways):
            runs.add(outlets[way], index)
        runs.send()
        self.assertEqual([outlet.writes for outlet in outlets], [int(0 in ways), int(1 in ways)])
