"""``twistd edgenode``: the one place where the device side's packages are put together."""

from __future__ import annotations

import importlib

from twisted.application.service import IService

from appengine.lean import replace_twistd
from appengine.tap.options import Options

__all__ = ["Options", "makeService"]


def makeService(options: Options) -> IService:
    replace_twistd()
    # The reactor is chosen by twistd's --reactor before this runs; importing it earlier would choose it for good.
    reactor = importlib.import_module("twisted.internet.reactor")
    from appengine.tap.device import DeviceNode
    from metasync.steady import steady

    # First of all: whatever is timed from here on must not stop when somebody sets the clock back.
    steady(reactor)
    service: IService = DeviceNode(reactor, options)
    return service
