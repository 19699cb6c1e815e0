"""Services and EndpointSlices, down to the nodes."""

from __future__ import annotations

from typing import Any

from edgectl.services import strip_slice
from tests.unit.edgectl.control_world import ControlTestCase, edge, pod


def service(name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default", "labels": {"a": "b"}}
    return {"metadata": metadata, "spec": {"clusterIP": "10.96.0.9", "selector": {"app": "x"}, **spec}}


def endpoint_slice(name: str, *addresses: str, **fields: Any) -> dict[str, Any]:
    metadata = {"name": f"{name}-abc", "namespace": "default", "labels": {"kubernetes.io/service-name": name, "x": "y"}}
    target = {"kind": "Pod", "name": "p", "namespace": "default", "uid": "u", "resourceVersion": "7"}
    endpoints = [{"addresses": list(addresses), "conditions": {"ready": True}, "targetRef": target, **fields}]
    return {"metadata": metadata, "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": endpoints}


class ServiceTests(ControlTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory.set(edge())

    def test_a_node_with_pods_is_told_what_it_needs_of_services(self) -> None:
        self.api.put("services", service("web"))
        self.api.put("endpointslices", endpoint_slice("web", "10.0.0.1", nodeName="n"))
        self.api.put("pods", pod("p"))
        self.start()
        down = self.desired()
        self.assertEqual({"clusterIP": "10.96.0.9"}, down["services/default/web"]["spec"])
        self.assertEqual(
            [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}, "nodeName": "n", "targetRef": {"uid": "u"}}],
            down["endpointslices/default/web-abc"]["endpoints"],
        )

    def test_a_node_without_pods_is_told_nothing(self) -> None:
        self.api.put("services", service("web"))
        self.start()
        self.assertEqual({}, self.desired())
        self.api.put("pods", pod("p"))
        self.settle()
        self.assertIn("services/default/web", self.desired())
        self.api.remove("pods", "default/p")
        self.settle()
        self.assertEqual({}, self.desired())

    def test_only_what_changed_goes_down(self) -> None:
        self.api.put("services", service("web"))
        self.api.put("pods", pod("p"))
        self.start()
        before = self.store.revision
        changed = service("web")
        changed["metadata"]["annotations"] = {"irrelevant": "1"}
        self.api.put("services", changed)
        self.settle()
        self.assertEqual(before, self.store.revision)
        self.api.put("endpointslices", endpoint_slice("web", "10.0.0.1"))
        self.settle()
        self.assertEqual(before + 1, self.store.revision)
        self.api.remove("services", "default/web")
        self.settle()
        self.assertNotIn("services/default/web", self.desired())

    def test_another_proxys_service_is_left_out(self) -> None:
        item = service("theirs")
        item["metadata"]["labels"]["service.kubernetes.io/service-proxy-name"] = "x"
        self.api.put("services", item)
        self.api.put("pods", pod("p"))
        self.start()
        self.assertEqual(["pods/default/p"], list(self.desired()))

    def test_an_older_server_has_v1beta1(self) -> None:
        self.api.slice_version = "v1beta1"
        topology = {"kubernetes.io/hostname": "n", "topology.kubernetes.io/zone": "z"}
        self.api.put("endpointslices", endpoint_slice("web", "10.0.0.1", topology=topology))
        self.api.put("pods", pod("p"))
        self.start()
        found = self.desired()["endpointslices/default/web-abc"]
        self.assertEqual("discovery.k8s.io/v1", found["apiVersion"])
        self.assertEqual(("n", "z"), (found["endpoints"][0]["nodeName"], found["endpoints"][0]["zone"]))

    def test_a_server_upgraded_under_our_feet(self) -> None:
        self.api.slice_version = "v1beta1"
        self.api.put("pods", pod("p"))
        self.start()
        self.api.slice_version = "v1"
        self.api.cut_watches()
        self.api.compact()
        self.api.put("endpointslices", endpoint_slice("web", "10.0.0.1"))
        self.settle(120)
        self.assertIn("endpointslices/default/web-abc", self.desired())

    def test_where_the_node_stands(self) -> None:
        self.api.put("pods", pod("p"))
        self.start()
        self.assertNotIn("nodes/edge1", self.desired())
        node = self.node()
        node["metadata"]["labels"]["topology.kubernetes.io/zone"] = "site-a"
        self.api.put("nodes", node)
        self.settle()
        self.assertEqual({"topology.kubernetes.io/zone": "site-a"}, self.desired()["nodes/edge1"]["metadata"]["labels"])

    def test_a_slice_of_no_service_is_left_out(self) -> None:
        item = endpoint_slice("web", "10.0.0.1")
        del item["metadata"]["labels"]
        self.api.put("endpointslices", item)
        self.api.put("pods", pod("p"))
        self.start()
        self.assertEqual(["pods/default/p"], list(self.desired()))
        self.assertEqual([], strip_slice({**item, "endpoints": None})["endpoints"])
