"""What a part is to the runner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import ClassVar

from benchmarks.path import PathSpec
from benchmarks.traffic import missing
from benchmarks.tunnels import TUNNELS, Tunnel
from benchmarks.world import Hub


class Part(ABC):
    """A group of figures, taken of one subject at a time.

    :cvar subjects: whom it can be taken of.
    :cvar rounds: how often at most; ``None``: as often as asked.
    :cvar congestion: TCP's congestion control in its namespaces; ``None`` for that of the run.
    :cvar seconds: that one subject takes in one round, and with ``--quick``, on a machine of two cores.
    """

    name: ClassVar[str]
    what: ClassVar[str]
    subjects: ClassVar[tuple[str, ...]]
    rounds: ClassVar[int | None] = None
    seconds: ClassVar[tuple[float, float]] = (30, 15)
    congestion: ClassVar[str | None] = None

    def missing(self, subject: str) -> str | None:
        """Why ``subject`` cannot be measured here."""
        return TUNNELS[subject].missing()

    def expected(self, subject: str, quick: bool) -> float:
        """Seconds that :meth:`measure` will take, roughly."""
        return self.seconds[quick]

    def note(self) -> str:
        """What there is to say beside the figures, once all are taken."""
        return ""

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

    def missing(self, subject: str) -> str | None:
        return super().missing(subject) or missing("iperf3", "ping")

    def measure(self, subject: str, quick: bool) -> Mapping[str, float]:
        with Hub(self.edges, self.path, self.congestion) as hub, self.tunnel(subject, hub) as tunnel:
            return self.take(tunnel, quick)

    @staticmethod
    def tunnel(subject: str, hub: Hub) -> AbstractContextManager[Tunnel]:
        return TUNNELS[subject](hub)

    @abstractmethod
    def take(self, tunnel: Tunnel, quick: bool) -> Mapping[str, float]:
        """Figures of the tunnel."""
