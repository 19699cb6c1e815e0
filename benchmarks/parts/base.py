"""What a part is to the runner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import ClassVar

from benchmarks.path import PathSpec
from benchmarks.tunnels import TUNNELS, Tunnel
from benchmarks.world import Hub


class Part(ABC):
    """A group of figures, taken of one subject at a time.

    :cvar subjects: whom it can be taken of.
    :cvar rounds: how often at most; ``None``: as often as asked.
    """

    name: ClassVar[str]
    what: ClassVar[str]
    subjects: ClassVar[tuple[str, ...]]
    rounds: ClassVar[int | None] = None

    def missing(self, subject: str) -> str | None:
        """Why ``subject`` cannot be measured here."""
        return TUNNELS[subject].missing()

    @abstractmethod
    def measure(self, subject: str, quick: bool) -> Mapping[str, float]:
        """Figures by the keys of their metrics.

        :raises tests.lab.waiting.LabError: if the subject does not work.
        """


class TunnelPart(Part):
    """Figures of a tunnel that is up, between so many :attr:`edges`, over a bad :attr:`path` if there is one."""

    subjects = tuple(TUNNELS)
    edges: ClassVar[int] = 2
    path: ClassVar[PathSpec | None] = None

    def measure(self, subject: str, quick: bool) -> Mapping[str, float]:
        with Hub(self.edges, self.path) as hub, self.tunnel(subject, hub) as tunnel:
            return self.take(tunnel, quick)

    @staticmethod
    def tunnel(subject: str, hub: Hub) -> AbstractContextManager[Tunnel]:
        return TUNNELS[subject](hub)

    @abstractmethod
    def take(self, tunnel: Tunnel, quick: bool) -> Mapping[str, float]:
        """Figures of the tunnel."""
