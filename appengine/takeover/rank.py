"""Who comes first to take a pod over: the same order at every node, without a word between them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256


def ranked(uid: str, nodes: Iterable[str]) -> list[str]:
    """The nodes in the order of their turn for this pod.

    Rendezvous hashing: pods of a dead node spread over all others, and the turns of the rest do not change when one
    node comes or goes.
    """
    return sorted(nodes, key=lambda node: (sha256(f"{uid} {node}".encode()).digest(), node))
