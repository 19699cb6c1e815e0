"""A site that is made when it is needed."""

from __future__ import annotations

from twisted.internet.interfaces import IAddress, IProtocol
from twisted.internet.protocol import Protocol
from twisted.trial import unittest

from kubebus.latesite import LateSite


class _Site:
    def buildProtocol(self, addr: IAddress | None) -> IProtocol | None:
        return Protocol()


class LateSiteTests(unittest.SynchronousTestCase):
    def test_it_is_made_once_and_not_before_it_is_used(self) -> None:
        made: list[_Site] = []

        def make() -> _Site:
            made.append(_Site())
            return made[-1]

        site = LateSite(make)
        site.doStart()
        self.assertEqual(made, [])
        self.assertIsInstance(site.buildProtocol(None), Protocol)
        self.assertIsInstance(site.buildProtocol(None), Protocol)
        self.assertEqual(len(made), 1)
        site.doStop()
