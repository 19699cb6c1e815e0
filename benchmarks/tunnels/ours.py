"""Ours, as users run it: ``twistd kubebus`` at the hub, ``twistd edgenode --no-pods`` at the edges."""

from __future__ import annotations

from typing import ClassVar

from benchmarks.tunnels.base import Tunnel


class Kubebus(Tunnel):
    name: ClassVar[str] = "kubebus"

    @classmethod
    def missing(cls) -> str | None:
        return "not yet"

    def launch(self) -> None:
        raise NotImplementedError

    def address(self, edge: int) -> str:
        raise NotImplementedError


class KubebusBBR(Kubebus):
    name = "kubebus-bbr"
