"""What is measured, each part in a module of its own."""

from __future__ import annotations

from benchmarks.parts.badlink import BadLink, BadLinkCubic, SlowLink
from benchmarks.parts.base import Part
from benchmarks.parts.families import Families
from benchmarks.parts.footprint import Footprint
from benchmarks.parts.packets import Packets
from benchmarks.parts.peers import Peers
from benchmarks.parts.processes import Processes
from benchmarks.parts.profile import Profile
from benchmarks.parts.stopped import Stopped
from benchmarks.parts.throughput import Throughput

_ALL: tuple[type[Part], ...] = (
    Throughput, Packets, Families, Profile, Processes, Stopped, BadLink, BadLinkCubic, SlowLink, Peers, Footprint,
)  # fmt: skip
PARTS: dict[str, type[Part]] = {part.name: part for part in _ALL}

__all__ = ["PARTS", "Part"]
