"""The namespaces that every tunnel is measured in: edges around a hub.

    e1 ── hub ── e2        172.31.<i>.2 ── 172.31.<i>.1
           │
           e3

The hub forwards between the edges for the raw measurement only; a tunnel's packets pass through the tunnel's own
process there, as they must where the edges are behind NAT.
"""

from __future__ import annotations

from types import TracebackType
from typing import ClassVar

from benchmarks.path import PathSpec
from benchmarks.relay import RelayLink
from tests.lab.namespace import Namespace


class Hub:
    """The hub's namespace and its edges'. Close it at the end.

    :cvar congestion: TCP's congestion control of the inner streams, and of tunnels that do not choose their own;
        ``None`` for that of the machine.
    """

    congestion: ClassVar[str | None] = None

    def __init__(self, edges: int = 2, path: PathSpec | None = None, congestion: str | None = None) -> None:
        """
        :param path: a bad path between each edge and the hub, made by a packet relay; a plain cable without it.
        :param congestion: another than :attr:`congestion`, which must be permitted.
        """
        self.namespace = Namespace("hub")
        self.edges = [Namespace(f"e{number}") for number in range(1, edges + 1)]
        self.relays: list[RelayLink] = []
        if wanted := congestion or self.congestion:
            for namespace in (self.namespace, *self.edges):
                namespace.sysctl("net/ipv4/tcp_congestion_control", wanted)
        self.namespace.forward()
        for number, edge in enumerate(self.edges, 1):
            if path is None:
                edge.veth("up0", self.namespace, f"u{number}", f"{self.edge_address(number)}/24")
                edge.ip(f"address add {self.edge_address6(number)}/64 dev up0")
                self.namespace.ip(f"address add {self.hub_address(number)}/24 dev u{number}")
                self.namespace.ip(f"address add {self._hub_address6(number)}/64 dev u{number}")
                edge.ip(f"route add ::/0 via {self._hub_address6(number)}")
            else:
                self.relays.append(
                    RelayLink(edge, "up0", self.edge_address(number), self.namespace, f"u{number}",
                              self.hub_address(number), path)
                )  # fmt: skip
            edge.ip(f"route add default via {self.hub_address(number)}")
        self.forward_plainly(False)

    @staticmethod
    def edge_address(number: int) -> str:
        """The address of edge ``number``, from 1, on its cable."""
        return f"172.31.{number}.2"

    @staticmethod
    def hub_address(number: int) -> str:
        return f"172.31.{number}.1"

    @staticmethod
    def edge_address6(number: int) -> str:
        """On its cable; a bad path has IPv4 only."""
        return f"fd31:0:0:{number}::2"

    @staticmethod
    def _hub_address6(number: int) -> str:
        return f"fd31:0:0:{number}::1"

    def forward_plainly(self, allowed: bool) -> None:
        """Whether packets between the cables pass without a tunnel."""
        verdict = "accept" if allowed else "drop"
        self.namespace.nft(
            "table inet bench\ndelete table inet bench\n"
            "table inet bench {\nchain forward {\ntype filter hook forward priority 0\n"
            f'iifname "u*" oifname "u*" {verdict}\n}}\n}}\n'
        )

    def stall(self, seconds: float) -> None:
        """Let nothing through the bad paths for a while."""
        for relay in self.relays:
            relay.stall(seconds)

    def close(self) -> None:
        for relay in self.relays:
            relay.close()
        for namespace in (*self.edges, self.namespace):
            namespace.close()

    def __enter__(self) -> Hub:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
