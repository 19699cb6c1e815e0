"""What is measured, each part in a module of its own."""

from __future__ import annotations

from benchmarks.parts.badlink import BadLink, SlowLink
from benchmarks.parts.base import Part
from benchmarks.parts.footprint import Footprint
from benchmarks.parts.packets import Packets
from benchmarks.parts.peers import Peers
from benchmarks.parts.stopped import Stopped
from benchmarks.parts.throughput import Throughput

PARTS: dict[str, type[Part]] = {
    part.name: part for part in (Throughput, Packets, Stopped, BadLink, SlowLink, Peers, Footprint)
}

__all__ = ["PARTS", "Part"]
