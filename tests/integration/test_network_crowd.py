"""Two hundred nodes join one router over real sockets."""

from __future__ import annotations

import time

from twisted.trial import unittest

from tests.integration import network_crowd
from tests.integration.network_lab import NetworkLab, Process
from tests.lab.waiting import wait_until

COUNT = 200


class CrowdTests(unittest.SynchronousTestCase):
    def test_two_hundred_nodes(self) -> None:
        names = [f"node{number}" for number in range(COUNT)]
        lab = NetworkLab(sites=0, enrol=True)
        self.addCleanup(lab.close)
        lab.start()
        wait_until(lab.router.control.exists, 20, "the router is up")
        joins = dict(zip(names, lab.router.ask("join_strings", COUNT), strict=True))
        folder = lab.folder / "crowd"
        folder.mkdir()
        config = {"nodes": names, "joins": joins, "state": str(folder), "routers": lab.routers}
        crowd = Process("crowd", lab.net.host, folder, config, network_crowd.__name__)
        lab.daemons.append(crowd)
        before = lab.router.status()["rss"]
        crowd.start()
        wait_until(crowd.control.exists, 30, "the crowd is started")
        began = time.monotonic()
        wait_until(lambda: crowd.ask("connected") == COUNT, 40, "all have joined and are connected", 0.2)
        seconds = time.monotonic() - began
        status = lab.router.status()
        self.assertEqual(sum(node["connected"] for node in status["nodes"]), COUNT)
        per_node = (status["rss"] - before) / COUNT
        print(f"{COUNT} nodes joined after {seconds:.1f} s; {per_node / 1024:.0f} KiB of the router's memory each")
        self.assertLess(per_node, 200 * 1024)
        self.assertEqual(len(set(crowd.ask("addresses"))), COUNT)
        crowd.ask("exchange")
        wait_until(lambda: crowd.ask("received") == COUNT, 20, "every packet arrives")
        self.assertEqual(crowd.ask("received"), COUNT)
        crowd.ask("spoof")

        def spoofed() -> int:
            return sum(node["spoofed"] for node in lab.router.status()["nodes"])

        wait_until(lambda: spoofed() == 2 * COUNT, 20, "every lie is counted")
        self.assertEqual(crowd.ask("received"), COUNT)
        self.assertEqual(lab.router.status()["tun"]["written"], 0)
