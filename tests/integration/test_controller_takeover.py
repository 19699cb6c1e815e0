"""A pod that a node of the same site takes over, as a real kube-apiserver and the embedded control plane show it."""

from __future__ import annotations

from tests.integration import controller_takeover_case
from tests.integration.controller_case import EmbeddedCase, LeastRightsCase


class RealTests(LeastRightsCase, controller_takeover_case.TakeoverStory):
    """Towards a real kube-apiserver, with no more rights than examples/kubernetes gives."""


class EmbeddedTests(EmbeddedCase, controller_takeover_case.TakeoverStory):
    """Towards the embedded control plane."""
