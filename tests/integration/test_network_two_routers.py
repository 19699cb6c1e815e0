"""Two routers over one etcd, in two VMs of the cloud, and an edge at each."""

from __future__ import annotations

import json

from twisted.trial import unittest

from kubebus.testing_net import node_record
from tests.integration.network_lab import PORT, NetworkLab, Process
from tests.lab.etcd import Etcd
from tests.lab.internet import CLOUD_LAN4, CLOUD_LAN6, PUBLIC4
from tests.lab.waiting import wait_until

POD1, POD2 = (str(node_record("", number).pod_subnets[0][9]) for number in (2, 3))


class TwoRouterTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.lab = lab = NetworkLab()
        self.addCleanup(lab.close)
        net = lab.net
        second = net.namespace("eip2")
        second.plug("wan", net.switch, "public", "p-eip2", f"{PUBLIC4}.30/24")
        second.plug("eth1", net.switch, "cloud", "c-eip2", f"{CLOUD_LAN4}.30/24", f"{CLOUD_LAN6}:30/64")
        self.etcd = Etcd(namespace=net.vm, host=net.vm_address)
        self.addCleanup(self.etcd.close)
        self.etcd.start()
        config = json.loads((lab.folder / "router/config.json").read_text())
        config["store"] = f"etcd://{net.vm_address}:{self.etcd.port}"
        lab.daemons.remove(lab.router)
        self.addresses = [f"{net.eip_address}:{PORT}", f"{PUBLIC4}.30:{PORT}"]
        self.routers = [
            lab.process(name, namespace, {**config, "name": name, "routers": [address]})
            for name, namespace, address in zip(("r1", "r2"), (net.eip, second), self.addresses, strict=True)
        ]
        for router in self.routers:
            router.start()
        for edge, address in zip(lab.edges, self.addresses, strict=True):
            self.dial(edge, address)
            edge.start()
        lab.wait_connected()

    def dial(self, edge: Process, *addresses: str) -> None:
        path = edge.control.with_name("config.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), "routers": addresses}))

    def where(self, router: Process) -> dict[str, str | None]:
        """Which router has which node, as this one knows it."""
        return {node["name"]: node["router"] for node in router.status()["nodes"]}

    def test_one_network(self) -> None:
        lab = self.lab
        for router in self.routers:
            wait_until(lambda router=router: self.where(router) == {"edge1": "r1", "edge2": "r2"}, 20, "all is known")  # type: ignore[misc]
        wait_until(lambda: lab.pods[0].ping(POD2, timeout=0.5), 10, "edges of different routers reach each other")
        self.assertTrue(lab.pods[1].ping(POD1))
        for router in self.routers:
            assert router.namespace is not None
            for pod in (POD1, POD2):
                self.assertTrue(router.namespace.ping(pod), f"{router} reaches {pod}")
        self.assertTrue(lab.net.vm.ping(POD2), "the cloud's one route table leads to the first router")
        lab.serve(lab.pods[1])
        self.assertEqual(lab.traffic(lab.pods[0], "tcp", POD2, 50_000_000)["source"], POD1)
        # The first router dies: its edge was told of the second, and finds it.
        self.routers[0].kill9()
        wait_until(lambda: self.where(self.routers[1]) == {"edge1": "r2", "edge2": "r2"}, 20, "the edge has moved")
        wait_until(lambda: lab.pods[0].ping(POD2, timeout=0.5), 10, "the pods reach each other again")
        # It comes back, and knows where everybody is.
        self.routers[0].start()
        wait_until(lambda: self.where(self.routers[0]) == {"edge1": "r2", "edge2": "r2"}, 20, "the router has learnt")
        wait_until(lambda: lab.net.vm.ping(POD1, timeout=0.5), 10, "the cloud reaches the edge over both routers")
