"""What is measured, each part in a module of its own."""

from __future__ import annotations

from benchmarks.parts.badlink import BadLink, SlowLink
from benchmarks.parts.base import Part
from benchmarks.parts.packets import Packets
from benchmarks.parts.throughput import Throughput

PARTS: dict[str, type[Part]] = {part.name: part for part in (Throughput, Packets, BadLink, SlowLink)}

__all__ = ["PARTS", "Part"]
