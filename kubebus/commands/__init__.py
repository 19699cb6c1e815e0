"""The command groups of ``kubebus``: each module here adds its own.

A module has ``add_commands(commands)``, which gets what ``argparse.ArgumentParser.add_subparsers`` returns. Each
parser it makes sets ``run`` (``set_defaults(run=…)``): a function of ``(args, client, out)`` with the
:class:`kubebus.adminclient.AdminClient` and a :class:`kubebus.output.Output`, which returns the exit status or
``None`` for 0. It may raise :class:`kubebus.adminclient.AdminError`. Modules import only the standard library and
light modules of this package: ``kubebus`` must start quickly.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def command_modules() -> Iterator[ModuleType]:
    """All modules of this package, by name."""
    for module in sorted(iter_modules(__path__), key=lambda module: module.name):
        yield import_module(f"{__name__}.{module.name}")
