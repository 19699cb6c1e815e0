"""Required affinity and anti-affinity between pods: which nodes they leave. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgectl.apiserver.selectors import selects

Obj = Mapping[str, Any]

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"

NO_AFFINITY = "node(s) didn't match pod affinity rules"
NO_ANTI_AFFINITY = "node(s) didn't match pod anti-affinity rules"
NO_EXISTING = "node(s) didn't satisfy existing pods anti-affinity rules"


def terms(pod: Obj, kind: str) -> Sequence[Obj]:
    """The required terms of ``podAffinity`` or ``podAntiAffinity``."""
    affinity = (pod["spec"].get("affinity") or {}).get(kind) or {}
    found: Sequence[Obj] = affinity.get(REQUIRED, ())
    return found


def concerns(term: Obj, owner: Obj, other: Obj) -> bool:
    """Whether a term of ``owner`` is about ``other``.

    A namespace selector that is empty means all namespaces; one with conditions is taken for none, since a pod does
    not carry its namespace's labels.
    """
    namespaces = set(term.get("namespaces", ()))
    if not namespaces and "namespaceSelector" not in term:
        namespaces = {owner["metadata"]["namespace"]}
    everywhere = term.get("namespaceSelector") == {}
    if not everywhere and other["metadata"]["namespace"] not in namespaces:
        return False
    return selects(term.get("labelSelector"), other["metadata"].get("labels"))


def _domain(node: Obj, term: Obj) -> str | None:
    value: str | None = node["metadata"].get("labels", {}).get(term["topologyKey"])
    return value


Placed = Sequence[tuple[Obj, Obj]]
"""Pods with the nodes they are on."""


class PodRules:
    """What one pod and the placed ones ask of each other; made once for a pod, asked for each node."""

    def __init__(self, pod: Obj, placed: Iterable[tuple[Obj, Obj]]) -> None:
        self._pod = pod
        self._near, self._far = terms(pod, "podAffinity"), terms(pod, "podAntiAffinity")
        self._placed: Placed = ()
        self._refused: set[tuple[str, str]] = set()
        placed = list(placed)
        if self._near or self._far:
            self._placed = placed
        for other, node in placed:
            for term in terms(other, "podAntiAffinity"):
                domain = _domain(node, term)
                if domain is not None and concerns(term, other, pod):
                    self._refused.add((term["topologyKey"], domain))

    def unfit(self, node: Obj) -> str | None:
        """Why the rules leave this node out, or ``None`` if they do not."""
        labels = node["metadata"].get("labels", {})
        if any(labels.get(key) == domain for key, domain in self._refused):
            return NO_EXISTING
        if any(self._company(term, node) for term in self._far):
            return NO_ANTI_AFFINITY
        if not all(self._near_enough(term, node) for term in self._near):
            return NO_AFFINITY
        return None

    def _company(self, term: Obj, node: Obj) -> bool:
        """Whether a pod that the term is about is in the node's domain."""
        domain = _domain(node, term)
        return domain is not None and any(
            _domain(where, term) == domain and concerns(term, self._pod, other) for other, where in self._placed
        )

    def _near_enough(self, term: Obj, node: Obj) -> bool:
        if _domain(node, term) is None:
            return False
        if self._company(term, node):
            return True
        # The first of a group that wants to be together may begin anywhere.
        alone = not any(concerns(term, self._pod, other) for other, _ in self._placed)
        return alone and concerns(term, self._pod, self._pod)
