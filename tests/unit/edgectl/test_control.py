"""The whole controller, between a Kubernetes API and a store in memory."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from edgectl.controller import ControllerOptions
from edgectl.interfaces import EdgeNode
from edgectl.nodes import AUTONOMY_ANNOTATION, NodeOptions
from edgectl.testing_control import Refusal
from metasync.keys import NodeKeys
from metasync.model import EventType, KeyRange, Put
from tests.unit.edgectl.control_world import START, ControlTestCase, configmap, edge, pod, running


class NodeTests(ControlTestCase):
    options = ControllerOptions(
        nodes=NodeOptions(labels={"region": "north"}, taints=[{"key": "edge", "effect": "NoExecute"}])
    )

    def test_an_enrolled_node_is_registered(self) -> None:
        self.directory.set(edge())
        self.report_node()
        self.start()
        node = self.node()
        self.assertEqual(
            {
                "kubernetes.io/hostname": "edge1",
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "arm64",
                "node-role.kubernetes.io/edge": "",
                "region": "north",
            },
            node["metadata"]["labels"],
        )
        self.assertEqual("10.192.1.0/24", node["metadata"]["annotations"]["kubebus.io/pod-subnets"])
        self.assertEqual([{"key": "edge", "effect": "NoExecute"}], node["spec"]["taints"])
        self.assertNotIn("podCIDR", node["spec"])
        self.assertEqual({"cpu": "4", "memory": "1Gi", "pods": "50"}, node["status"]["allocatable"])
        addresses = node["status"]["addresses"]
        self.assertIn({"type": "InternalIP", "address": "10.250.0.2"}, addresses)
        self.assertEqual("True", self.condition("Ready")["status"])
        self.assertEqual("True", self.condition("EdgeConnected")["status"])

    def test_a_node_that_has_not_reported_is_not_ready(self) -> None:
        self.directory.set(edge())
        self.start()
        self.assertEqual("NodeReportMissing", self.condition("Ready")["reason"])
        self.report_node()
        self.settle()
        self.assertEqual("True", self.condition("Ready")["status"])

    def test_a_settled_node_is_not_written_again(self) -> None:
        self.directory.set(edge())
        self.report_node()
        self.start()
        self.writes()
        self.report_node()
        self.settle(60)
        self.assertEqual([], self.writes())

    def test_a_value_that_the_server_spells_its_own_way_is_not_sent_for_ever(self) -> None:
        self.directory.set(edge())
        self.report_node(capacity={"cpu": "4", "memory": "1024Mi", "pods": "50"})
        self.start()
        self.writes()
        for name in ("a", "b", "c"):
            node = self.node()
            node["metadata"]["labels"][name] = "1"
            self.api.put("nodes", node)
            self.settle()
        self.assertEqual([], self.writes())
        self.report_node(capacity={"cpu": "4", "memory": "1024Mi", "pods": "51"})
        self.settle()
        self.assertEqual("51", self.node()["status"]["capacity"]["pods"])

    def test_a_node_enrolled_later_is_registered_too(self) -> None:
        self.start()
        self.directory.set(edge("late"))
        self.settle()
        self.assertIn("late", self.api.objects["nodes"])

    def test_a_node_deleted_in_kubernetes_is_registered_again(self) -> None:
        self.directory.set(edge())
        self.start()
        self.api.remove("nodes", "edge1")
        self.settle()
        self.assertIn("edge1", self.api.objects["nodes"])

    def test_labels_and_taints_of_others_stay(self) -> None:
        self.directory.set(edge())
        self.start()
        node = self.node()
        node["metadata"]["labels"]["mine"] = "1"
        node["spec"]["taints"] = [{"key": "other", "effect": "NoSchedule"}]
        self.api.put("nodes", node)
        self.directory.set(edge(connected=False))
        self.settle()
        self.assertEqual("1", self.node()["metadata"]["labels"]["mine"])
        self.assertEqual(
            ["other", "kubebus.io/disconnected"], [taint["key"] for taint in self.node()["spec"]["taints"]]
        )

    def test_another_kubelets_node_is_left_alone(self) -> None:
        theirs = {"metadata": {"name": "edge1"}, "status": {"nodeInfo": {"kubeletVersion": "v1.20.2"}}}
        self.api.put("nodes", theirs)
        self.directory.set(edge())
        self.start()
        self.assertEqual([], self.writes())
        self.assertEqual([], list(self.api.objects["leases"]))
        self.assertNotIn("annotations", self.node()["metadata"])

    def test_a_node_removed_for_good_leaves_nothing(self) -> None:
        self.directory.set(edge())
        self.report_node()
        self.api.put("pods", pod("p"))
        self.start()
        self.directory.remove("edge1")
        self.settle()
        self.assertEqual({}, self.api.objects["nodes"])
        self.assertEqual({}, self.api.objects["leases"])
        self.assertEqual([], self.keys_of("edge1"))

    def test_a_revoked_node_is_removed_and_told_nothing_more(self) -> None:
        self.directory.set(edge())
        self.api.put("pods", pod("p"))
        self.start()
        self.directory.set(edge(connected=False, revoked=True))
        self.settle()
        self.assertEqual({}, self.api.objects["nodes"])
        self.assertEqual({}, self.desired())


class KeepRevokedTests(ControlTestCase):
    options = ControllerOptions(keep_revoked=True)

    def test_a_revoked_node_is_kept_on_request(self) -> None:
        self.directory.set(edge())
        self.start()
        self.directory.set(edge(connected=False, revoked=True))
        self.settle()
        self.assertEqual("NodeRevoked", self.condition("EdgeConnected")["reason"])


class LeaseTests(ControlTestCase):
    def renewals(self, seconds: float) -> int:
        self.api.requests.clear()
        self.settle(seconds)
        return len([r for r in self.api.requests if r.startswith("PUT") and "/leases/" in r])

    def test_a_connected_nodes_lease_is_renewed_in_time(self) -> None:
        self.directory.set(edge())
        self.start()
        lease = self.api.objects["leases"]["kube-node-lease/edge1"]
        self.assertEqual("edge1", lease["spec"]["holderIdentity"])
        self.assertEqual(self.node()["metadata"]["uid"], lease["metadata"]["ownerReferences"][0]["uid"])
        self.assertIn(self.renewals(130), range(8, 13))

    def test_a_disconnected_node_is_kept_for_ever_by_default(self) -> None:
        self.directory.set(edge(connected=False))
        self.start()
        self.clock.advance(10_000_000)
        self.settle()
        self.assertGreater(self.renewals(130), 7)

    def test_autonomy_ends_when_its_annotation_says_so(self) -> None:
        self.directory.set(edge())
        self.start()
        node = self.node()
        node["metadata"]["annotations"][AUTONOMY_ANNOTATION] = "100"
        self.api.put("nodes", node)
        self.directory.set(edge(connected=False, since=self.clock.seconds()))
        self.assertGreater(self.renewals(80), 4)
        self.settle(40)
        self.assertEqual(0, self.renewals(100))
        self.directory.set(edge(connected=True, since=self.clock.seconds()))
        self.assertGreater(self.renewals(80), 4)

    def test_autonomy_0_is_ordinary_kubernetes(self) -> None:
        self.directory.set(edge())
        self.start()
        node = self.node()
        node["metadata"]["annotations"][AUTONOMY_ANNOTATION] = "0"
        self.api.put("nodes", node)
        self.directory.set(edge(connected=False, since=self.clock.seconds()))
        self.settle(1)
        self.assertEqual(0, self.renewals(100))

    def test_a_lease_changed_by_somebody_else_is_taken_back(self) -> None:
        self.directory.set(edge())
        self.start()
        self.api.put("leases", {"metadata": {"namespace": "kube-node-lease", "name": "edge1"}, "spec": {}})
        self.settle(20)
        lease = self.api.objects["leases"]["kube-node-lease/edge1"]
        self.assertEqual("edge1", lease["spec"]["holderIdentity"])


class ConnectionTests(ControlTestCase):
    def test_a_disconnected_node_shows_it_and_gets_no_new_pods(self) -> None:
        self.directory.set(edge())
        self.report_node()
        self.start()
        self.directory.set(edge(connected=False, since=START))
        self.settle()
        self.assertEqual("False", self.condition("EdgeConnected")["status"])
        self.assertIn("2023-11-14T22:13:20Z", self.condition("EdgeConnected")["message"])
        self.assertEqual("NoSchedule", self.node()["spec"]["taints"][0]["effect"])
        self.assertEqual("True", self.condition("Ready")["status"])
        self.directory.set(edge())
        self.settle()
        self.assertEqual("True", self.condition("EdgeConnected")["status"])
        self.assertEqual([], self.node()["spec"]["taints"])

    def test_a_node_that_kubernetes_declared_lost_is_not_called_ready_while_away(self) -> None:
        self.directory.set(edge())
        self.report_node()
        self.start()
        self.directory.set(edge(connected=False))
        self.settle()
        node = self.node()
        for condition in node["status"]["conditions"]:
            if condition["type"] == "Ready":
                condition["status"] = "Unknown"
        self.api.put("nodes", node)
        self.settle()
        self.assertEqual("Unknown", self.condition("Ready")["status"])
        self.directory.set(edge())
        self.settle()
        self.assertEqual("True", self.condition("Ready")["status"])

    def test_a_node_whose_autonomy_has_run_out_is_shown_as_lost(self) -> None:
        self.directory.set(edge())
        self.report_node()
        self.start()
        node = self.node()
        node["metadata"]["annotations"][AUTONOMY_ANNOTATION] = "60"
        self.api.put("nodes", node)
        self.directory.set(edge(connected=False, since=self.clock.seconds()))
        self.settle(95)
        self.assertEqual("True", self.condition("Ready")["status"])
        self.settle(10)
        self.assertEqual("Unknown", self.condition("Ready")["status"])
        self.directory.set(edge(since=self.clock.seconds()))
        self.settle()
        self.assertEqual("True", self.condition("Ready")["status"])

    def test_a_node_enrolled_anew_under_its_name_shows_its_new_place_and_keeps_its_pods(self) -> None:
        self.directory.set(edge())
        self.report_node()
        self.api.put("pods", pod("p", uid="u1"))
        self.start()
        self.report_pod("p")
        self.settle()
        fresh = EdgeNode(
            "edge1", (ip_address("10.250.0.9"),), (ip_network("10.192.9.0/24"),), True, self.clock.seconds()
        )
        for key in (NodeKeys("default", "edge1").reported_node, self.report_key("p", "u1")):
            self.clear(key)  # a new device reports anew
        self.directory.set(fresh)
        self.settle()
        self.assertEqual("10.192.9.0/24", self.node()["metadata"]["annotations"]["kubebus.io/pod-subnets"])
        self.assertIn({"type": "InternalIP", "address": "10.250.0.9"}, self.node()["status"]["addresses"])
        self.assertEqual("u1", self.desired()["pods/default/p"]["metadata"]["uid"])
        self.report_node()
        self.report_pod("p", running("10.192.9.2"))
        self.settle()
        self.assertEqual("10.192.9.2", self.pod("p")["status"]["podIP"])

    def report_key(self, name: str, uid: str) -> bytes:
        return NodeKeys("default", "edge1").reported_pod("default", name, uid)


class DesiredTests(ControlTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory.set(edge())

    def test_a_bound_pod_goes_down_with_what_it_uses_and_only_that(self) -> None:
        self.api.put("configmaps", configmap("used", a="1"))
        self.api.put("configmaps", configmap("unused", a="1"))
        self.api.put("secrets", {**configmap("s"), "type": "Opaque", "data": {"k": "djE="}})
        volumes = [
            {"name": "v", "configMap": {"name": "used"}},
            {"name": "w", "projected": {"sources": [{"secret": {"name": "s"}}]}},
        ]
        self.api.put("pods", pod("p", volumes=volumes))
        self.api.put("pods", pod("elsewhere", node="another"))
        self.start()
        self.assertEqual(["configmaps/default/used", "pods/default/p", "secrets/default/s"], sorted(self.desired()))
        self.assertEqual({"k": "djE="}, self.desired()["secrets/default/s"]["data"])

    def test_of_other_nodes_pods_little_is_kept(self) -> None:
        self.api.put("pods", pod("theirs", node="big"))
        self.api.put("pods", pod("ours"))
        self.start()
        kept = self.controller._pods.items
        self.assertNotIn("containers", kept["default/theirs"]["spec"])
        self.assertIn("containers", kept["default/ours"]["spec"])

    def test_pods_bound_to_a_node_before_it_was_enrolled(self) -> None:
        self.api.put("pods", pod("early", node="edge2"))
        self.api.put("pods", pod("earlier", node="edge2"))
        self.start()
        self.put(NodeKeys("default", "edge2").desired_object("pods", "default", "early"), {"kind": "Pod"})
        self.settle()
        before = [event.kv.key for event in self.store._events]
        self.directory.set(edge("edge2"))
        self.settle()
        self.assertEqual(["pods/default/earlier", "pods/default/early"], sorted(self.desired("edge2")))
        self.assertEqual("early", self.desired("edge2")["pods/default/early"]["metadata"]["name"])
        after = self.store._events[len(before) :]
        self.assertEqual([], [e for e in after if e.type is EventType.DELETE], "a running pod was taken away")
        self.assertEqual(2, len([r for r in self.api.requests if r.startswith("GET /api/v1/namespaces/default/pods")]))

    def test_everything_of_one_change_is_one_revision(self) -> None:
        self.start()
        before = self.store.revision
        self.api.put("configmaps", configmap("c"))
        for name in "pqr":
            self.api.put("pods", pod(name, volumes=[{"name": "v", "configMap": {"name": "c"}}]))
        self.settle()
        self.assertEqual(4, len(self.desired()))
        self.assertEqual(before + 1, self.store.revision)

    def test_a_changed_configmap_goes_down_alone(self) -> None:
        self.api.put("configmaps", configmap("c", a="1"))
        self.api.put("pods", pod("p", volumes=[{"name": "v", "configMap": {"name": "c"}}]))
        self.start()
        pod_revision = self.revision_of("pods/default/p")
        self.api.put("configmaps", configmap("c", a="2"))
        self.settle()
        self.assertEqual({"a": "2"}, self.desired()["configmaps/default/c"]["data"])
        self.assertEqual(pod_revision, self.revision_of("pods/default/p"))

    def revision_of(self, rest: str) -> int:
        key = f"{NodeKeys('default', 'edge1').desired}{rest}".encode()
        revision = self.run_now(self.store.range(KeyRange.single(key))).kvs[0].mod_revision
        assert isinstance(revision, int)
        return revision

    def test_a_status_change_in_kubernetes_writes_nothing_down(self) -> None:
        self.api.put("pods", pod("p"))
        self.start()
        before = self.store.revision
        self.api.put("pods", {**self.pod("p"), "status": running()})
        self.settle()
        self.assertEqual(before, self.store.revision)

    def test_a_configmap_no_pod_uses_any_more_is_removed(self) -> None:
        self.api.put("configmaps", configmap("c"))
        self.api.put("pods", pod("p", volumes=[{"name": "v", "configMap": {"name": "c"}}]))
        self.start()
        self.api.remove("pods", "default/p")
        self.settle()
        self.assertEqual({}, self.desired())

    def test_scheduling_fields_and_kubectls_annotation_stay_behind(self) -> None:
        item = pod("p", tolerations=[{"operator": "Exists"}], schedulerName="default-scheduler")
        item["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "a": "b"}
        self.api.put("pods", item)
        self.start()
        down = self.desired()["pods/default/p"]
        self.assertEqual({"nodeName", "containers"}, set(down["spec"]))
        self.assertEqual({"a": "b"}, down["metadata"]["annotations"])
        self.assertNotIn("status", down)
        self.assertNotIn("resourceVersion", down["metadata"])

    def test_what_the_store_holds_and_kubernetes_does_not_is_removed_at_the_start(self) -> None:
        self.put(NodeKeys("default", "edge1").desired_object("pods", "default", "ghost"), {"kind": "Pod"})
        self.start()
        self.assertEqual({}, self.desired())

    def test_nothing_is_written_before_everything_has_been_read(self) -> None:
        self.put(NodeKeys("default", "edge1").desired_object("pods", "default", "p"), {"kind": "Pod"})
        self.api.put("pods", pod("p"))

        def fail(what: str) -> None:
            if what == "LIST /api/v1/secrets":
                raise Refusal(503, "ServiceUnavailable")

        self.api.fail = fail
        self.assertRaises(self.failureException, self.start)
        self.assertEqual([], self.writes())
        self.assertEqual({"pods/default/p": {"kind": "Pod"}}, self.desired())
        self.api.fail = lambda _: None
        self.settle(60)
        self.assertEqual("p", self.desired()["pods/default/p"]["metadata"]["name"])

    def test_a_key_changed_behind_our_back_is_put_right(self) -> None:
        self.api.put("pods", pod("p"))
        self.start()
        key = NodeKeys("default", "edge1").desired_object("pods", "default", "p")
        self.run_now(self.store.txn([], [Put(key, b"{}")]))
        self.settle()
        self.assertEqual("p", self.desired()["pods/default/p"]["metadata"]["name"])

    def test_more_than_a_transaction_holds_goes_down_in_several(self) -> None:
        for number in range(300):
            self.api.put("configmaps", configmap(f"c{number:03}"))
        volumes = [{"name": f"v{n}", "configMap": {"name": f"c{n:03}"}} for n in range(300)]
        self.api.put("pods", pod("p", volumes=volumes))
        self.start()
        self.assertEqual(301, len(self.desired()))
        self.assertEqual(1 + 3, self.store.revision)
        last = self.revision_of("pods/default/p")
        self.assertEqual(self.store.revision, last)


class StatusTests(ControlTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory.set(edge())
        self.api.put("pods", pod("p", uid="u1"))

    def test_the_reported_status_shows_in_kubernetes(self) -> None:
        self.start()
        self.report_pod("p")
        self.settle()
        status = self.pod("p")["status"]
        self.assertEqual("Running", status["phase"])
        self.assertEqual("10.192.1.5", status["podIP"])
        self.assertEqual("BestEffort", status["qosClass"])

    def test_conditions_of_others_stay(self) -> None:
        item = self.pod("p")
        item["status"]["conditions"] = [{"type": "PodScheduled", "status": "True"}]
        self.api.put("pods", item)
        self.start()
        self.report_pod("p")
        self.settle()
        self.assertEqual(["PodScheduled", "Ready"], [c["type"] for c in self.pod("p")["status"]["conditions"]])

    def test_the_same_status_is_not_written_twice(self) -> None:
        self.start()
        self.report_pod("p")
        self.settle()
        self.writes()
        self.report_pod("p")
        self.settle()
        self.assertEqual([], self.writes())

    def test_a_report_on_another_uid_changes_nothing(self) -> None:
        self.start()
        self.report_pod("p", uid="another")
        self.settle()
        self.assertEqual("Pending", self.pod("p")["status"]["phase"])

    def test_a_node_cannot_speak_of_another_nodes_pod(self) -> None:
        self.directory.set(edge("edge2"))
        self.start()
        self.report_pod("p", node="edge2")
        self.settle()
        self.assertEqual("Pending", self.pod("p")["status"]["phase"])

    def test_a_node_cannot_claim_an_address_that_is_not_its_own(self) -> None:
        self.start()
        status = running("10.192.2.7")
        status["podIPs"].append({"ip": "10.192.1.8"})
        self.report_pod("p", status)
        self.settle()
        self.assertEqual("10.192.1.8", self.pod("p")["status"]["podIP"])
        self.assertEqual([{"ip": "10.192.1.8"}], self.pod("p")["status"]["podIPs"])
        self.report_pod("p", {**running("10.250.0.3"), "podIPs": "no list"})
        self.settle()
        self.assertNotIn("podIP", self.pod("p")["status"])
        self.report_pod("p", running("10.250.0.2"))
        self.settle()
        self.assertEqual("10.250.0.2", self.pod("p")["status"]["podIP"])

    def test_a_pod_that_flaps_costs_the_api_server_little_and_shows_its_last_state(self) -> None:
        self.start()
        self.writes()
        for number in range(200):
            self.report_pod("p", {**running(), "message": str(number)})
            self.settle(0.02)
        self.assertLess(len(self.writes()), 160)
        self.settle(30)
        self.assertEqual("199", self.pod("p")["status"]["message"])

    def test_a_deletion_is_confirmed_only_once_the_containers_are_gone(self) -> None:
        self.start()
        self.report_pod("p")
        self.settle()
        self.api.delete_pod("default/p")
        self.settle()
        self.assertIn("default/p", self.api.objects["pods"])
        self.assertIn("deletionTimestamp", self.desired()["pods/default/p"]["metadata"])
        self.report_pod("p", {**running(), "phase": "Succeeded"}, gone=True)
        self.settle()
        self.assertEqual({}, self.api.objects["pods"])
        self.assertEqual({}, self.desired())

    def test_gone_does_not_delete_a_pod_nobody_deleted(self) -> None:
        self.start()
        self.report_pod("p", {"phase": "Failed", "reason": "UnsupportedField"}, gone=True)
        self.settle()
        self.assertEqual("Failed", self.pod("p")["status"]["phase"])

    def test_a_pod_that_has_ended_stays_ended(self) -> None:
        self.start()
        self.report_pod("p", {"phase": "Failed"})
        self.settle()
        self.report_pod("p")
        self.settle()
        self.assertEqual("Failed", self.pod("p")["status"]["phase"])

    def test_a_pod_recreated_under_the_same_name_is_told_apart(self) -> None:
        self.start()
        self.report_pod("p")
        self.settle()
        self.api.remove("pods", "default/p")
        self.api.put("pods", pod("p", uid="u2"))
        self.settle()
        self.assertEqual("u2", self.desired()["pods/default/p"]["metadata"]["uid"])
        self.report_pod("p", {"phase": "Succeeded"}, uid="u1", gone=True)
        self.settle()
        self.assertEqual("Pending", self.pod("p")["status"]["phase"])
        self.report_pod("p", running("10.192.1.6"), uid="u2")
        self.settle()
        self.assertEqual("10.192.1.6", self.pod("p")["status"]["podIP"])

    def test_a_write_that_lost_a_race_is_done_again(self) -> None:
        self.start()
        lost: list[str] = []

        def race(what: str) -> None:
            if what.startswith("PATCH") and not lost:
                lost.append(what)
                raise Refusal(409, "Conflict")

        self.api.fail = race
        self.report_pod("p")
        self.settle(5)
        self.assertEqual(1, len(lost))
        self.assertEqual("Running", self.pod("p")["status"]["phase"])

    def test_garbage_from_a_node_harms_nothing(self) -> None:
        self.start()
        keys = NodeKeys("default", "edge1")
        garbage = [
            b"",
            b"[]",
            b"\xff",
            b'{"status": 3}',
            b"[" * 100_000,
            b"x" * 600_000,
            b'{"status":{"conditions":5}}',
        ]
        for value in garbage:
            for key in (keys.reported_pod("default", "p", "u1"), keys.reported_node):
                self.run_now(self.store.txn([], [Put(key, value)]))
                self.settle(1)
        self.run_now(self.store.txn([], [Put(f"{keys.reported}pods/x".encode(), b"{}")]))
        self.report_pod("p")
        self.settle()
        self.assertEqual("Running", self.pod("p")["status"]["phase"])


class Endurance(ControlTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory.set(edge())
        self.api.put("pods", pod("p", uid="u1"))

    def test_lists_grow_with_nothing_but_expiry(self) -> None:
        self.start()
        lists = self.controller.lists
        self.assertEqual(6, lists)
        for number in range(20):
            self.directory.set(edge(f"n{number}"))
        for _ in range(3):
            self.api.cut_watches()
            self.settle(40)
        self.api.end_watches()
        self.settle(5)
        self.assertEqual(lists, self.controller.lists)
        self.assertEqual(["configmaps", "endpointslices", "nodes", "pods", "secrets", "services"], self.api.watching)

    def test_what_happened_while_the_watch_was_cut_is_not_lost(self) -> None:
        self.start()
        self.api.cut_watches()
        self.api.put("pods", pod("q"))
        self.api.remove("pods", "default/p")
        self.settle(40)
        self.assertEqual(["pods/default/q"], list(self.desired()))

    def test_nor_when_the_history_is_compacted_as_well(self) -> None:
        self.start()
        self.api.cut_watches()
        self.api.put("pods", pod("q"))
        self.api.remove("pods", "default/p")
        self.api.compact()
        self.settle(40)
        self.assertEqual(["pods/default/q"], list(self.desired()))

    def test_pages(self) -> None:
        self.api.page_size = 3
        for number in range(10):
            self.api.put("pods", pod(f"p{number}"))
        self.start()
        self.assertEqual(11, len(self.desired()))

    def test_the_store_compacted_under_the_watch(self) -> None:
        self.start()
        self.report_pod("p")
        self.run_now(self.store.compact(self.store.revision))
        self.settle(40)
        self.assertEqual("Running", self.pod("p")["status"]["phase"])

    def test_a_controller_that_comes_back_writes_only_what_it_must(self) -> None:
        self.report_node()
        self.report_pod("p")
        self.start()
        self.stop()
        revision = self.store.revision
        self.writes()
        self.start()
        self.settle()
        self.assertEqual([], self.writes())
        self.assertEqual(revision, self.store.revision)

    def test_killed_between_write_and_acknowledgement(self) -> None:
        """The patch reached the server, its answer did not reach us: nothing is done twice that matters."""
        self.start()
        self.api.delete_pod("default/p")
        self.settle()

        def lost(what: str) -> None:
            if what.startswith("DELETE"):
                self.api.remove("pods", "default/p")
                raise Refusal(500, "InternalError", "the answer was lost")

        self.api.fail = lost
        self.report_pod("p", gone=True)
        self.settle(5)
        self.assertEqual({}, self.desired())
        self.assertEqual(1, len([w for w in self.writes() if w.startswith("DELETE")]))

    def test_stopping_leaves_nothing_behind(self) -> None:
        self.start()
        self.stop()
        self.settle()
        self.assertEqual([], self.clock.getDelayedCalls())
        self.assertEqual([], self.api.watching)


class NamespaceTests(ControlTestCase):
    options = ControllerOptions(namespaces=["default"])

    def test_secrets_and_configmaps_are_read_in_the_chosen_namespaces_only(self) -> None:
        self.directory.set(edge())
        self.api.put("configmaps", configmap("c"))
        self.api.put("pods", pod("p", volumes=[{"name": "v", "configMap": {"name": "c"}}]))
        self.start()
        self.assertEqual(2, len(self.desired()))
        asked = {r for r in self.api.requests if "configmaps" in r or "secrets" in r}
        self.assertTrue(asked)
        self.assertTrue(all("/namespaces/default/" in r for r in asked), asked)

    def test_a_pod_that_uses_what_may_not_be_read_says_so(self) -> None:
        self.directory.set(edge())
        item = pod("p", volumes=[{"name": "v", "configMap": {"name": "c"}}])
        item["metadata"]["namespace"] = "closed"
        self.api.put("pods", item)
        self.api.put("pods", pod("open", volumes=[{"name": "v", "configMap": {"name": "c"}}]))
        self.start()
        (event,) = self.api.objects["events"].values()
        self.assertEqual(("closed", "p"), (event["metadata"]["namespace"], event["involvedObject"]["name"]))
        self.assertIn("default only (--namespace)", event["message"])


class PodCIDRTests(ControlTestCase):
    options = ControllerOptions(nodes=NodeOptions(set_pod_cidr=True))

    def test_the_pod_cidr_is_set_on_request(self) -> None:
        self.directory.set(edge())
        self.start()
        self.assertEqual(["10.192.1.0/24"], self.node()["spec"]["podCIDRs"])
