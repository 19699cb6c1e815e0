"""Keeps peers from filling the log. What counts the lines is handed in: the network has it, and this package not."""

from __future__ import annotations

from typing import Protocol


class LogLimit(Protocol):
    """So many lines of a kind, then only now and then one (:class:`kubebus.loglimit.LogLimit`)."""

    def more(self, kind: str) -> str | None:
        """``None``: leave the line out. Else what to put behind it.

        :param kind: made from verified names only: there are as many as nodes.
        """


class Unlimited:
    """Every line is written: where the other end is trusted."""

    def more(self, kind: str) -> str | None:
        return ""


UNLIMITED = Unlimited()
