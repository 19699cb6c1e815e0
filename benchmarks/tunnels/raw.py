"""Plain forwarding by the hub's kernel: what the machine can do."""

from __future__ import annotations

from benchmarks.tunnels.base import Tunnel


class Raw(Tunnel):
    name = "raw"

    def launch(self) -> None:
        self.hub.forward_plainly(True)

    def address(self, edge: int) -> str:
        return self.hub.edge_address(edge)

    def address6(self, edge: int) -> str:
        return self.hub.edge_address6(edge)

    def close(self) -> None:
        self.hub.forward_plainly(False)
        super().close()
