"""pyroute2's ``IPRoute`` without the rest of pyroute2, which takes 5 MB more: conntrack, nftables, NDB and others.

``import pyroute2`` imports all of it, and so does the import of any module below it. Here an empty module stands for
the package meanwhile. Whoever asks that for one of the package's names gets the whole package after all. ``unittest``,
which pyroute2 imports for one ``Mock`` in a class of its own tests, is left out in the same way: 1 MB.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

_PACKAGE = "pyroute2"


class _Part(ModuleType):
    """Stands for a package whose ``__init__`` has not run. It runs when a name is missing."""

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        if (name.startswith("__") and name.endswith("__")) or spec is None or spec.loader is None:
            raise AttributeError(name)
        if PathFinder.find_spec(f"{_PACKAGE}.{name}", self.__path__) is not None:
            return importlib.import_module(f"{_PACKAGE}.{name}")
        # From here on it is the package itself, so this is not asked again for what it has.
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec.loader.exec_module(self)
        return getattr(self, name)


@contextmanager
def _without_unittest() -> Iterator[None]:
    """Whoever imports ``unittest`` gets an empty one, with a ``Mock`` that is none."""
    if "unittest" in sys.modules:
        yield
        return
    empty: Any = ModuleType("unittest")
    empty.mock = ModuleType("unittest.mock")
    empty.mock.Mock = object
    sys.modules["unittest"] = empty
    try:
        yield
    finally:
        del sys.modules["unittest"]


def _load() -> tuple[Any, Any]:
    spec = PathFinder.find_spec(_PACKAGE)
    if _PACKAGE not in sys.modules and spec is not None and spec.submodule_search_locations:
        part = _Part(_PACKAGE)
        part.__spec__, part.__file__ = spec, spec.origin
        part.__path__ = list(spec.submodule_search_locations)
        sys.modules[_PACKAGE] = part
    try:
        with _without_unittest():
            linux = importlib.import_module(f"{_PACKAGE}.iproute.linux")
            exceptions = importlib.import_module(f"{_PACKAGE}.netlink.exceptions")
        return linux.IPRoute, exceptions.NetlinkError
    except (ImportError, AttributeError):
        # Another pyroute2 than those known: as it is meant to be.
        for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
            del sys.modules[name]
        whole = importlib.import_module(_PACKAGE)
        return whole.IPRoute, whole.NetlinkError


IPRoute, NetlinkError = _load()
