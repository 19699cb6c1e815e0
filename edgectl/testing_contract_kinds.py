"""The contract of a Kubernetes API for particular kinds. Each part runs against any server."""

from __future__ import annotations

from typing import Any

from edgectl.testing import MERGE, STRATEGIC, TABLE, Answer, ContractCase, Obj, config_map, needs, pod


class PodContract(ContractCase):
    """What is particular to pods."""

    def test_what_was_left_out_is_filled_in(self) -> None:
        spec = self.made("pods", pod("p"))["spec"]
        found = {key: spec[key] for key in ("restartPolicy", "dnsPolicy", "schedulerName")}
        expected = {"restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler"}
        self.assertEqual(found, expected)
        self.assertEqual(spec["terminationGracePeriodSeconds"], 30)
        self.assertEqual(spec["containers"][0]["imagePullPolicy"], "IfNotPresent")

    def test_a_new_pod_is_pending_with_its_class(self) -> None:
        made = pod("p")
        made["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "0.5", "memory": "64Mi"}}
        status = self.made("pods", made)["status"]
        self.assertEqual((status["phase"], status["qosClass"]), ("Pending", "Burstable"))
        self.assertEqual(
            self.get("pods", "p")["spec"]["containers"][0]["resources"]["requests"], {"cpu": "500m", "memory": "64Mi"}
        )

    def test_a_pod_without_containers_is_invalid(self) -> None:
        answer = self.create("pods", pod("p", containers=[]))
        self.refused(answer, 422, "Invalid")
        self.assertIn("spec.containers", [one["field"] for one in answer["details"]["causes"]])

    def test_a_mount_of_no_volume_is_invalid(self) -> None:
        obj = pod("p")
        obj["spec"]["containers"][0]["volumeMounts"] = [{"name": "none", "mountPath": "/x"}]
        answer = self.create("pods", obj)
        self.refused(answer, 422, "Invalid")
        self.assertEqual(answer["details"]["causes"][0]["field"], "spec.containers[0].volumeMounts[0].name")

    def test_the_spec_cannot_be_changed(self) -> None:
        self.made("pods", pod("p"))
        self.refused(self.send_patch("pods", "p", {"spec": {"hostname": "x"}}, MERGE), 422, "Invalid")

    def test_status_changes_by_its_subresource_only(self) -> None:
        made = self.made("pods", pod("p"))
        del made["metadata"]["resourceVersion"]
        changed = {**made, "status": {"phase": "Running"}}
        self.assertEqual(self.update("pods", changed)["status"]["phase"], "Pending")
        answer = self.update("pods", changed, "status")
        self.assertEqual((answer.code, answer["status"]["phase"]), (200, "Running"))

    def test_a_binding_puts_a_pod_on_a_node_once(self) -> None:
        self.made("pods", pod("p", schedulerName="nobody"))
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}}
        binding["target"] = {"apiVersion": "v1", "kind": "Node", "name": "node-1"}
        path = self.path("pods", "p", "binding")
        self.assertEqual(self.client.request("POST", path, binding).code, 201)
        self.assertEqual(self.get("pods", "p")["spec"]["nodeName"], "node-1")
        self.refused(self.client.request("POST", path, binding), 409, "Conflict")

    def evict(self, name: str, **options: Any) -> Answer:
        api_version = "policy/v1" if self.version >= (1, 22) else "policy/v1beta1"
        eviction = {"apiVersion": api_version, "kind": "Eviction", "metadata": {"name": name}, **options}
        answer: Answer = self.client.request("POST", self.path("pods", "p", "eviction"), eviction)
        return answer

    def test_an_evicted_pod_is_deleted_gracefully(self) -> None:
        made = self.made("pods", pod("p", nodeName="node-1", terminationGracePeriodSeconds=7))
        self.refused(self.evict("other"), 400, "BadRequest")
        wrong = {"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}
        self.refused(self.evict("p", deleteOptions=wrong), 409, "Conflict")
        self.assertEqual(self.evict("p", deleteOptions={"dryRun": ["All"]}).code, 201)
        self.assertNotIn("deletionTimestamp", self.get("pods", "p")["metadata"])
        right = {"gracePeriodSeconds": 3, "preconditions": {"uid": made["metadata"]["uid"]}}
        answer = self.evict("p", deleteOptions=right)
        self.assertEqual((answer.code, answer["status"]), (201, "Success"))
        self.assertEqual(self.get("pods", "p")["metadata"]["deletionGracePeriodSeconds"], 3)

    def budget(self, **spec: Any) -> Answer:
        body = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"}, "spec": spec}
        path = f"/apis/policy/v1/namespaces/{self.namespace}/poddisruptionbudgets"
        answer: Answer = self.client.request("POST", path, body)
        return answer

    @needs(1, 21)
    def test_a_disruption_budget_with_two_bounds_is_invalid(self) -> None:
        self.refused(self.budget(minAvailable=1, maxUnavailable=1), 422, "Invalid")
        self.refused(self.budget(minAvailable="many"), 422, "Invalid")

    @needs(1, 21)
    def test_an_eviction_that_its_budget_does_not_allow_must_wait(self) -> None:
        made = self.made("pods", pod("p", nodeName="node-1"))
        del made["metadata"]["resourceVersion"]
        self.update("pods", {**made, "status": {"phase": "Running"}}, "status")
        self.assertEqual(201, self.budget(minAvailable=1, selector={}).code)
        answer = self.evict("p")
        self.refused(answer, 429, "TooManyRequests")
        self.assertEqual("DisruptionBudget", answer["details"]["causes"][0]["reason"])

    def test_a_bound_pod_is_deleted_gracefully(self) -> None:
        self.made("pods", pod("p", nodeName="node-1", terminationGracePeriodSeconds=7))
        answer = self.delete("pods", "p")
        self.assertEqual((answer.code, answer["kind"]), (200, "Pod"))
        self.assertEqual(answer["metadata"]["deletionGracePeriodSeconds"], 7)
        self.assertIn("deletionTimestamp", self.get("pods", "p")["metadata"])
        uid = answer["metadata"]["uid"]
        confirm = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        self.assertEqual(self.delete("pods", "p", confirm).code, 200)
        self.assertEqual(self.get("pods", "p").code, 404)

    def test_an_unbound_pod_is_deleted_at_once(self) -> None:
        self.made("pods", pod("p", schedulerName="nobody"))
        self.delete("pods", "p")
        self.assertEqual(self.get("pods", "p").code, 404)

    def test_an_ended_pod_is_deleted_at_once(self) -> None:
        made = self.made("pods", pod("p", nodeName="node-1"))
        del made["metadata"]["resourceVersion"]
        self.update("pods", {**made, "status": {"phase": "Succeeded"}}, "status")
        self.delete("pods", "p")
        self.assertEqual(self.get("pods", "p").code, 404)

    def test_a_status_for_another_uid_is_refused(self) -> None:
        self.made("pods", pod("p"))
        patch = {"metadata": {"uid": "00000000-0000-0000-0000-000000000000"}, "status": {"phase": "Running"}}
        # Which of the two depends on the version of Kubernetes.
        self.assertIn(self.send_patch("pods", "p", patch, MERGE, subresource="status").code, (409, 422))
        self.assertEqual(self.get("pods", "p")["status"]["phase"], "Pending")


class ServiceContract(ContractCase):
    """What is particular to services and service accounts."""

    def service(self, name: str, **spec: Any) -> Obj:
        ports = [{"port": 80, "targetPort": 8080}]
        return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": ports, **spec}}

    def test_a_service_gets_an_address_of_its_own_and_keeps_it(self) -> None:
        first, second = (self.made("services", self.service(name)) for name in ("a", "b"))
        address = first["spec"]["clusterIP"]
        self.assertNotEqual(address, second["spec"]["clusterIP"])
        self.assertEqual(first["spec"]["type"], "ClusterIP")
        self.assertEqual(first["spec"]["ports"][0]["protocol"], "TCP")
        patched = self.send_patch("services", "a", {"spec": {"selector": {"app": "x"}}}, MERGE)
        self.assertEqual((patched.code, patched["spec"]["clusterIP"]), (200, address))

    @needs(1, 21)
    def test_an_update_that_leaves_the_address_out_keeps_it(self) -> None:
        made = self.made("services", self.service("a"))
        again = self.service("a", selector={"app": "x"})
        again["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]
        answer = self.update("services", again)
        self.assertEqual((answer.code, answer["spec"]["clusterIP"]), (200, made["spec"]["clusterIP"]))

    def test_an_address_cannot_be_changed(self) -> None:
        self.made("services", self.service("a"))
        answer = self.send_patch("services", "a", {"spec": {"clusterIP": "10.96.0.99"}}, MERGE)
        self.refused(answer, 422, "Invalid")

    def test_an_address_that_is_taken_is_refused_until_it_is_free(self) -> None:
        address = self.made("services", self.service("a"))["spec"]["clusterIP"]
        self.refused(self.create("services", self.service("b", clusterIP=address)), 422, "Invalid")
        self.delete("services", "a")
        self.assertEqual(self.made("services", self.service("b", clusterIP=address))["spec"]["clusterIP"], address)

    def test_a_headless_service_has_none(self) -> None:
        self.assertEqual(self.made("services", self.service("a", clusterIP="None"))["spec"]["clusterIP"], "None")

    def test_a_service_without_ports_is_invalid(self) -> None:
        self.refused(self.create("services", self.service("a", ports=[])), 422, "Invalid")

    def token(self, account: str, **spec: Any) -> Any:
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        return self.client.request("POST", self.path("serviceaccounts", account, "token"), body)

    def test_a_token_tells_who_it_is_for(self) -> None:
        self.made("serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}})
        answer = self.token("robot", expirationSeconds=3600, audiences=["https://kubernetes.default.svc"])
        self.assertEqual(answer.code, 201, answer.body)
        self.assertIn("expirationTimestamp", answer["status"])
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview"}
        review["spec"] = {"token": answer["status"]["token"]}  # type: ignore[assignment]
        path = "/apis/authentication.k8s.io/v1/tokenreviews"
        reviewed = self.client.request("POST", path, review)["status"]
        self.assertTrue(reviewed["authenticated"], reviewed)
        name = f"system:serviceaccount:{self.namespace}:robot"
        self.assertEqual(reviewed["user"]["username"], name)

    def test_a_token_that_nobody_issued_is_nobodys(self) -> None:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "a.b.c"}}
        answer = self.client.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)
        self.assertEqual(answer["status"].get("authenticated", False), False)

    def test_no_token_for_an_account_that_is_not_there(self) -> None:
        self.refused(self.token("nobody"), 404, "NotFound")

    def test_no_token_for_a_moment(self) -> None:
        self.made("serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}})
        self.refused(self.token("robot", expirationSeconds=10), 422, "Invalid")

    def test_a_token_can_be_bound_to_a_pod(self) -> None:
        self.made("serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}})
        made = self.made("pods", pod("p", serviceAccountName="robot"))
        bound = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": made["metadata"]["uid"]}
        self.assertEqual(self.token("robot", boundObjectRef=bound).code, 201)
        wrong = {**bound, "uid": "00000000-0000-0000-0000-000000000000"}
        self.refused(self.token("robot", boundObjectRef=wrong), 409, "Conflict")


class WorkloadContract(ContractCase):
    """Deployments and their relatives as objects; what controllers make of them is not asked here."""

    def deployment(self, name: str, **spec: Any) -> Obj:
        labels = {"app": name}
        template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "busybox:1"}]}}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {"selector": {"matchLabels": labels}, "template": template, **spec},
        }

    def apps(self, method: str, plural: str, name: str = "", body: Any = None, **options: Any) -> Answer:
        path = self.path(plural, name, options.pop("subresource", ""), group="apps/v1")
        return self.client.request(method, path, body, **options)

    def test_the_defaults_of_a_deployment(self) -> None:
        made = self.apps("POST", "deployments", body=self.deployment("d"))
        self.assertEqual(made.code, 201, made.body)
        rolling = {"maxSurge": "25%", "maxUnavailable": "25%"}
        self.assertEqual(made["spec"]["strategy"], {"type": "RollingUpdate", "rollingUpdate": rolling})
        found = {key: made["spec"][key] for key in ("replicas", "revisionHistoryLimit", "progressDeadlineSeconds")}
        self.assertEqual(found, {"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600})
        self.assertEqual(made["spec"]["template"]["spec"]["restartPolicy"], "Always")

    def test_only_the_spec_counts_as_a_generation(self) -> None:
        self.apps("POST", "deployments", body=self.deployment("d"))
        for patch, generation in (
            ({"metadata": {"labels": {"a": "b"}}}, 1),
            ({"spec": {"replicas": 3}}, 2),
            ({"spec": {"replicas": 3}}, 2),
        ):
            answer = self.apps("PATCH", "deployments", "d", patch, content_type=MERGE)
            self.assertEqual((answer.code, answer["metadata"]["generation"]), (200, generation))
        status = {"status": {"replicas": 3, "observedGeneration": 2}}
        answer = self.apps("PATCH", "deployments", "d", status, content_type=MERGE, subresource="status")
        self.assertEqual((answer["metadata"]["generation"], answer["status"]["replicas"]), (2, 3))

    def test_the_scale_can_be_read_and_set(self) -> None:
        self.apps("POST", "deployments", body=self.deployment("d", replicas=2))
        scale = self.apps("GET", "deployments", "d", subresource="scale")
        self.assertEqual((scale["kind"], scale["spec"]["replicas"]), ("Scale", 2))
        self.assertEqual(scale["status"]["selector"], "app=d")
        answer = self.apps(
            "PATCH", "deployments", "d", {"spec": {"replicas": 5}}, subresource="scale", content_type=MERGE
        )
        self.assertEqual((answer.code, answer["spec"]["replicas"]), (200, 5))
        self.assertEqual(self.apps("GET", "deployments", "d")["spec"]["replicas"], 5)
        stale = self.apps("PUT", "deployments", "d", {**scale.body, "spec": {"replicas": 9}}, subresource="scale")
        self.refused(stale, 409, "Conflict")

    def test_a_selector_that_misses_its_template_is_invalid(self) -> None:
        wrong = self.deployment("d", selector={"matchLabels": {"app": "other"}})
        answer = self.apps("POST", "deployments", body=wrong)
        self.refused(answer, 422, "Invalid")
        self.assertEqual(answer["details"]["causes"][0]["field"], "spec.template.metadata.labels")

    def test_the_selector_cannot_be_changed(self) -> None:
        self.apps("POST", "deployments", body=self.deployment("d"))
        changed = self.deployment("d", selector={"matchLabels": {"app": "d", "more": "x"}})
        changed["spec"]["template"]["metadata"]["labels"]["more"] = "x"
        self.refused(self.apps("PUT", "deployments", "d", changed), 422, "Invalid")

    def test_a_negative_number_of_replicas_is_invalid(self) -> None:
        self.refused(self.apps("POST", "deployments", body=self.deployment("d", replicas=-1)), 422, "Invalid")

    def test_a_table_of_deployments(self) -> None:
        # Paused: where there is a controller, it makes nothing that would be counted meanwhile.
        self.apps("POST", "deployments", body=self.deployment("d", replicas=2, paused=True))
        table = self.apps("GET", "deployments", accept=TABLE)
        columns = [one["name"] for one in table["columnDefinitions"]]
        familiar = ["Name", "Ready", "Up-to-date", "Available", "Age", "Containers", "Images", "Selector"]
        self.assertEqual(columns, familiar)
        row = dict(zip(columns, table["rows"][0]["cells"], strict=True))
        del row["Age"]
        self.assertEqual(list(row.values()), ["d", "0/2", 0, 0, "main", "busybox:1", "app=d"])


class LeaseContract(ContractCase):
    """Leases, by which controllers and nodes take turns."""

    GROUP = "coordination.k8s.io/v1"

    def lease(self, holder: str) -> Obj:
        spec = {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"}
        return {"apiVersion": self.GROUP, "kind": "Lease", "metadata": {"name": "turn"}, "spec": spec}

    def test_only_one_of_two_takes_it(self) -> None:
        path = self.path("leases", group=self.GROUP)
        made = self.client.request("POST", path, self.lease("nobody"))
        self.assertEqual(made.code, 201, made.body)
        claims = [
            {**self.lease(who), "metadata": {"name": "turn", "resourceVersion": made["metadata"]["resourceVersion"]}}
            for who in ("one", "two")
        ]
        codes = [self.client.request("PUT", f"{path}/turn", claim).code for claim in claims]
        self.assertEqual(codes, [200, 409])
        self.assertEqual(self.client.request("GET", f"{path}/turn")["spec"]["holderIdentity"], "one")

    def test_times_keep_their_microseconds(self) -> None:
        path = self.path("leases", group=self.GROUP)
        made = self.client.request("POST", path, self.lease("nobody"))
        self.assertEqual(made["spec"]["renewTime"], "2026-01-01T00:00:00.000000Z")


class NodeContract(ContractCase):
    """Nodes, which belong to no namespace."""

    @property
    def name(self) -> str:
        return f"node-{self.namespace}"[:63].strip("-")

    def make_node(self) -> None:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name}}
        answer = self.client.request("POST", "/api/v1/nodes", node)
        self.assertEqual(answer.code, 201, answer.body)
        self.addCleanup(self.client.request, "DELETE", f"/api/v1/nodes/{self.name}")

    def node(self, method: str, body: Any = None, subresource: str = "", **options: Any) -> Answer:
        path = f"/api/v1/nodes/{self.name}{subresource}"
        return self.client.request(method, path, body, content_type=STRATEGIC, **options)

    def test_conditions_and_addresses_merge_by_type(self) -> None:
        self.make_node()
        for kind, status in (("Ready", "True"), ("EdgeConnected", "True"), ("EdgeConnected", "False")):
            condition = {"type": kind, "status": status, "reason": "X", "message": ""}
            self.assertEqual(self.node("PATCH", {"status": {"conditions": [condition]}}, "/status").code, 200)
        addresses = [{"type": "InternalIP", "address": "10.250.0.2"}]
        found = self.node("PATCH", {"status": {"addresses": addresses, "capacity": {"cpu": "2"}}}, "/status")["status"]
        conditions = {one["type"]: one["status"] for one in found["conditions"]}
        self.assertEqual(conditions, {"Ready": "True", "EdgeConnected": "False"})
        self.assertEqual(found["capacity"], {"cpu": "2"})

    def test_a_taint_and_cordoning_are_of_the_spec(self) -> None:
        self.make_node()
        taint = {"key": "edge", "effect": "NoSchedule"}
        found = self.node("PATCH", {"spec": {"unschedulable": True, "taints": [taint]}})["spec"]
        self.assertIn(taint, [{k: one.get(k) for k in ("key", "effect")} for one in found["taints"]])
        listed = self.client.request("GET", "/api/v1/nodes", fieldSelector="spec.unschedulable=true")["items"]
        self.assertIn(self.name, [one["metadata"]["name"] for one in listed])

    def test_annotations_come_by_the_status_too(self) -> None:
        self.make_node()
        patch = {"metadata": {"annotations": {"kubebus/pod-subnets": "10.192.0.0/24"}}}
        self.assertEqual(self.node("PATCH", patch, "/status").code, 200)
        self.assertEqual(self.node("GET")["metadata"]["annotations"], patch["metadata"]["annotations"])

    def test_the_pod_subnet_is_set_once(self) -> None:
        self.make_node()
        self.assertEqual(
            self.node("PATCH", {"spec": {"podCIDR": "10.192.0.0/24", "podCIDRs": ["10.192.0.0/24"]}}).code, 200
        )
        changed = self.node("PATCH", {"spec": {"podCIDR": "10.192.1.0/24", "podCIDRs": ["10.192.1.0/24"]}})
        self.assertIn(changed.code, (403, 422))


class NamespaceContract(ContractCase):
    """Namespaces as objects."""

    def test_it_is_active_and_knows_its_name(self) -> None:
        found = self.client.request("GET", f"/api/v1/namespaces/{self.namespace}")
        self.assertEqual(found["status"]["phase"], "Active")
        self.assertEqual(found["spec"]["finalizers"], ["kubernetes"])

    @needs(1, 21)
    def test_it_is_labelled_with_its_name(self) -> None:
        found = self.client.request("GET", f"/api/v1/namespaces/{self.namespace}")
        self.assertEqual(found["metadata"]["labels"]["kubernetes.io/metadata.name"], self.namespace)

    def test_nothing_is_made_in_one_that_is_ending(self) -> None:
        obj = config_map("held")
        obj["metadata"]["finalizers"] = ["example.com/hold"]
        self.made("configmaps", obj)
        self.addCleanup(self.send_patch, "configmaps", "held", {"metadata": {"finalizers": None}}, MERGE)
        self.assertEqual(self.client.request("DELETE", f"/api/v1/namespaces/{self.namespace}").code, 200)
        message = self.refused(self.create("configmaps", config_map("late")), 403, "Forbidden")
        self.assertIn("because it is being terminated", message)

    def test_a_dotted_name_is_invalid(self) -> None:
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a.b"}}
        self.refused(self.client.request("POST", "/api/v1/namespaces", namespace), 422, "Invalid")
