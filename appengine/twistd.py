# mypy: disallow-untyped-calls=False, disallow-subclassing-any=False
"""``twistd`` with ``edgenode`` as the only thing that it can run.

Which others there are Twisted finds out by importing what each of its plugins belongs to, ``unittest`` among them: 1.5
MB that an agent never needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.scripts.twistd import ServerOptions  # type: ignore[attr-defined]


class Options(ServerOptions):
    """The options of ``twistd``."""

    @property
    def subCommands(self) -> Iterator[tuple[str, None, Any, str]]:
        from twisted.plugins.edgenode_plugin import edgenode  # type: ignore[import-untyped]

        self.loadedPlugins = {edgenode.tapname: edgenode}
        yield edgenode.tapname, None, edgenode.options, edgenode.description
