"""What a tunnel is to the benchmark."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import ClassVar, Self

from benchmarks.world import Hub
from tests.lab.daemon import Daemon
from tests.lab.state import Run
from tests.lab.waiting import LabError, wait_until


class Tunnel(ABC):
    """A tunnel between all edges of a hub, through a process at the hub. Used as a context manager."""

    name: ClassVar[str]

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.hub_process: Daemon | None = None
        self.edge_processes: list[Daemon] = []
        self.folder = Run.current().directory(f"bench-{self.name}")

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot be measured on this machine."""
        return None

    @abstractmethod
    def launch(self) -> None:
        """Start its processes."""

    @abstractmethod
    def address(self, edge: int) -> str:
        """The address of edge ``edge``, from 1, inside the tunnel."""

    def address6(self, edge: int) -> str | None:
        """Its IPv6 address there; ``None`` if the tunnel carries IPv4 only."""
        return None

    def ready(self, timeout: float = 40) -> None:
        """Wait until every edge reaches every other."""
        edges = range(1, len(self.hub.edges) + 1)
        for one in edges:
            for other in edges:
                if one < other:
                    wait_until(
                        lambda one=one, other=other: self.hub.edges[one - 1].ping(self.address(other)),  # type: ignore[misc]
                        timeout,
                        f"{self.name}: edge {one} reaches edge {other}",
                    )

    def log_tails(self) -> str:
        return "\n".join(f"--- {process.name}\n{process.tail(5)}" for process in self.processes())

    def processes(self) -> list[Daemon]:
        """All of its processes that were made."""
        return [process for process in (self.hub_process, *self.edge_processes) if process is not None]

    def close(self) -> None:
        for process in self.processes():
            process.close()

    def __enter__(self) -> Self:
        try:
            self.launch()
            self.ready()
        except LabError as error:
            tails = self.log_tails()
            self.close()
            raise LabError(f"{str(error).splitlines()[0]}\n{tails}") from error
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
