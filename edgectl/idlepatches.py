"""Patches of a status that changed nothing, so as not to send them again. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

_MAX = 20_000


class IdlePatches:
    """The API server spells some values its own way (``1024Mi`` becomes ``1Gi``), so a comparison with what it shows
    can find a difference for ever. Such a patch leaves the resource version as it was: then it is kept in mind here,
    with what it was to change, until one of the two is another.
    """

    def __init__(self) -> None:
        self._idle: OrderedDict[str, tuple[Any, Any]] = OrderedDict()

    def sent(self, key: str, patch: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """``patch`` was sent, and has made the object ``after`` of ``before``."""
        self._idle.pop(key, None)
        if after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]:
            self._idle[key] = _what(patch, before)
            if len(self._idle) > _MAX:
                self._idle.popitem(last=False)

    def repeats(self, key: str, patch: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
        """Whether this patch of the same values changed nothing the last time."""
        return key in self._idle and self._idle[key] == _what(patch, current)

    def forget(self, key: str) -> None:
        self._idle.pop(key, None)


def _what(patch: Mapping[str, Any], item: Mapping[str, Any]) -> tuple[Any, Any]:
    status = item.get("status") or {}
    return patch["status"], {name: status.get(name) for name in patch["status"]}
