"""The contract of a Kubernetes API towards its clients, in parts. Each runs against any server."""

from __future__ import annotations

from typing import Any

from edgectl.testing import (
    APPLY,
    JSON_PATCH,
    MERGE,
    STRATEGIC,
    TABLE,
    Answer,
    ContractCase,
    Obj,
    config_map,
    needs,
    pod,
)

ONLY_A = "metadata.name=a"
"""Other controllers make objects of their own in a new namespace."""


class ObjectContract(ContractCase):
    """Creating, reading, changing and deleting one object."""

    def test_a_new_object_has_what_the_server_gives(self) -> None:
        meta = self.made("configmaps", config_map("a", k="v"))["metadata"]
        for key in ("uid", "resourceVersion", "creationTimestamp"):
            self.assertTrue(meta.get(key), key)
        self.assertEqual((meta["name"], meta["namespace"]), ("a", self.namespace))

    def test_a_name_is_made_from_its_prefix(self) -> None:
        obj = config_map("")
        obj["metadata"] = {"generateName": "made-"}
        name = self.made("configmaps", obj)["metadata"]["name"]
        self.assertRegex(name, r"^made-[a-z0-9]{5}$")

    def test_a_second_of_the_same_name_is_refused(self) -> None:
        self.made("configmaps", config_map("a"))
        message = self.refused(self.create("configmaps", config_map("a")), 409, "AlreadyExists")
        self.assertEqual(message, 'configmaps "a" already exists')

    def test_what_is_not_there_is_not_found(self) -> None:
        answer = self.get("configmaps", "none")
        self.assertEqual(self.refused(answer, 404, "NotFound"), 'configmaps "none" not found')
        self.assertEqual(answer["details"], {"name": "none", "kind": "configmaps"})

    def test_a_kind_that_is_not_served_is_not_found(self) -> None:
        self.assertEqual(self.get("teapots").code, 404)

    def test_nothing_is_made_in_a_namespace_that_is_not_there(self) -> None:
        path = "/api/v1/namespaces/nowhere/configmaps"
        answer = self.client.request("POST", path, config_map("a"))
        self.assertEqual(self.refused(answer, 404, "NotFound"), 'namespaces "nowhere" not found')

    def test_an_impossible_name_is_invalid_with_its_field(self) -> None:
        answer = self.create("configmaps", config_map("Not_A_Name"))
        self.refused(answer, 422, "Invalid")
        self.assertEqual([cause["field"] for cause in answer["details"]["causes"]], ["metadata.name"])

    def test_a_value_of_the_wrong_type_is_a_bad_request(self) -> None:
        self.refused(self.create("configmaps", {**config_map("a"), "data": "text"}), 400, "BadRequest")

    def test_a_body_that_is_no_json_is_a_bad_request(self) -> None:
        answer = self.client.request("POST", self.path("configmaps"), b"{")
        self.refused(answer, 400, "BadRequest")

    def test_another_namespace_in_the_body_is_a_bad_request(self) -> None:
        obj = config_map("a")
        obj["metadata"]["namespace"] = "other"
        self.refused(self.create("configmaps", obj), 400, "BadRequest")

    def test_another_kind_in_the_body_is_a_bad_request(self) -> None:
        self.refused(self.create("configmaps", {**config_map("a"), "kind": "Secret"}), 400, "BadRequest")

    def test_an_update_with_the_version_read_succeeds_once(self) -> None:
        made = self.made("configmaps", config_map("a", k="1"))
        changed = {**made, "data": {"k": "2"}}
        self.assertEqual(self.update("configmaps", changed).code, 200)
        self.refused(self.update("configmaps", {**made, "data": {"k": "3"}}), 409, "Conflict")
        self.assertEqual(self.get("configmaps", "a")["data"], {"k": "2"})

    def test_an_update_without_a_version_wins(self) -> None:
        self.made("configmaps", config_map("a", k="1"))
        answer = self.update("configmaps", config_map("a", k="2"))
        self.assertEqual((answer.code, answer["data"]), (200, {"k": "2"}))

    def test_an_update_that_changes_nothing_keeps_the_version(self) -> None:
        made = self.made("configmaps", config_map("a", k="1"))
        again = self.update("configmaps", made)
        self.assertEqual(again["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"])

    def test_an_update_for_another_uid_is_a_conflict(self) -> None:
        made = self.made("configmaps", config_map("a"))
        made["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000"
        self.refused(self.update("configmaps", made), 409, "Conflict")

    def test_clients_cannot_change_what_the_server_owns(self) -> None:
        made = self.made("configmaps", config_map("a"))
        forged = config_map("a", k="v")
        forged["metadata"] |= {"creationTimestamp": "2001-01-01T00:00:00Z", "generation": 77}
        changed = self.update("configmaps", forged)
        self.assertEqual(changed["metadata"]["creationTimestamp"], made["metadata"]["creationTimestamp"])
        self.assertNotEqual(changed["metadata"].get("generation"), 77)

    def test_a_deleted_object_is_gone(self) -> None:
        made = self.made("configmaps", config_map("a"))
        answer = self.delete("configmaps", "a")
        self.assertEqual((answer.code, answer["status"]), (200, "Success"))
        self.assertEqual(answer["details"]["uid"], made["metadata"]["uid"])
        self.assertEqual(self.get("configmaps", "a").code, 404)
        self.refused(self.delete("configmaps", "a"), 404, "NotFound")

    def test_a_deletion_for_another_uid_is_a_conflict(self) -> None:
        self.made("configmaps", config_map("a"))
        options = {"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}
        self.refused(self.delete("configmaps", "a", options), 409, "Conflict")
        self.assertEqual(self.get("configmaps", "a").code, 200)

    def test_a_dry_run_leaves_nothing(self) -> None:
        self.assertEqual(self.create("configmaps", config_map("a"), dryRun="All").code, 201)
        self.assertEqual(self.get("configmaps", "a").code, 404)

    def test_an_object_with_a_finalizer_goes_when_that_is_removed(self) -> None:
        obj = config_map("a")
        obj["metadata"]["finalizers"] = ["example.com/hold"]
        self.made("configmaps", obj)
        self.assertEqual(self.delete("configmaps", "a").code, 200)
        held = self.get("configmaps", "a")
        self.assertIn("deletionTimestamp", held["metadata"])
        self.send_patch("configmaps", "a", {"metadata": {"finalizers": None}}, MERGE)
        self.assertEqual(self.get("configmaps", "a").code, 404)

    def test_an_immutable_config_map_stays_as_it_is(self) -> None:
        made = self.made("configmaps", {**config_map("a", k="1"), "immutable": True})
        self.refused(self.update("configmaps", {**made, "data": {"k": "2"}}), 422, "Invalid")

    def test_a_key_that_is_no_file_name_is_invalid(self) -> None:
        self.refused(self.create("configmaps", config_map("a", **{"b/c": "d"})), 422, "Invalid")

    def test_text_of_a_secret_becomes_data(self) -> None:
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}}
        made = self.made("secrets", secret)
        self.assertEqual((made["data"], made["type"]), ({"a": "Yg=="}, "Opaque"))
        self.assertNotIn("stringData", made)

    def test_the_collection_can_be_deleted_by_label(self) -> None:
        for name, colour in (("a", "red"), ("b", "blue")):
            obj = config_map(name)
            obj["metadata"]["labels"] = {"colour": colour}
            self.made("configmaps", obj)
        self.assertEqual(self.delete("configmaps", "", labelSelector="colour=red").code, 200)
        left = self.get("configmaps", labelSelector="colour")["items"]
        self.assertEqual([one["metadata"]["name"] for one in left], ["b"])

    @needs(1, 25)
    def test_an_unknown_field_is_refused_when_asked(self) -> None:
        obj = {**config_map("a"), "dta": {}}
        message = self.refused(self.create("configmaps", obj, fieldValidation="Strict"), 400, "BadRequest")
        self.assertIn('unknown field "dta"', message)

    @needs(1, 25)
    def test_an_unknown_field_is_warned_of_and_dropped(self) -> None:
        answer = self.create("configmaps", {**config_map("a"), "dta": {}}, fieldValidation="Warn")
        self.assertEqual(answer.code, 201)
        self.assertNotIn("dta", answer.body)
        self.assertIn("unknown field", answer.headers["warning"])


class PatchContract(ContractCase):
    """The three kinds of patches."""

    def test_a_merge_patch_sets_and_removes(self) -> None:
        self.made("configmaps", config_map("a", k="1", gone="x"))
        answer = self.send_patch("configmaps", "a", {"data": {"k": "2", "gone": None}}, MERGE)
        self.assertEqual((answer.code, answer["data"]), (200, {"k": "2"}))

    def test_a_json_patch_is_applied_in_order(self) -> None:
        self.made("configmaps", config_map("a", k="1"))
        operations = [
            {"op": "test", "path": "/data/k", "value": "1"},
            {"op": "add", "path": "/metadata/labels", "value": {"example.com/a": "1"}},
            {"op": "replace", "path": "/metadata/labels/example.com~1a", "value": "2"},
            {"op": "remove", "path": "/data/k"},
        ]
        answer = self.send_patch("configmaps", "a", operations, JSON_PATCH)
        self.assertEqual(answer.code, 200, answer.body)
        self.assertEqual(answer["metadata"]["labels"], {"example.com/a": "2"})
        self.assertNotIn("data", answer.body)

    def test_a_json_patch_whose_test_fails_changes_nothing(self) -> None:
        self.made("configmaps", config_map("a", k="1"))
        operations = [{"op": "test", "path": "/data/k", "value": "2"}, {"op": "remove", "path": "/data/k"}]
        self.assertEqual(self.send_patch("configmaps", "a", operations, JSON_PATCH).code, 422)
        self.assertEqual(self.get("configmaps", "a")["data"], {"k": "1"})

    def test_a_patch_for_an_old_version_is_a_conflict(self) -> None:
        made = self.made("configmaps", config_map("a", k="1"))
        self.send_patch("configmaps", "a", {"data": {"k": "2"}}, MERGE)
        patch = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"k": "3"}}
        self.refused(self.send_patch("configmaps", "a", patch, MERGE), 409, "Conflict")

    def test_a_strategic_patch_merges_containers_by_name(self) -> None:
        self.made("pods", pod("p"))
        patch = {"spec": {"containers": [{"name": "main", "image": "busybox:2"}]}}
        answer = self.send_patch("pods", "p", patch, STRATEGIC)
        self.assertEqual(answer.code, 200, answer.body)
        containers = answer["spec"]["containers"]
        self.assertEqual([(one["name"], one["image"]) for one in containers], [("main", "busybox:2")])

    def test_a_strategic_patch_merges_conditions_by_type(self) -> None:
        self.made("pods", pod("p"))
        for kind, value in (("A", "True"), ("B", "True"), ("A", "False")):
            patch = {"status": {"conditions": [{"type": kind, "status": value}]}}
            self.send_patch("pods", "p", patch, STRATEGIC, subresource="status")
        conditions = {one["type"]: one["status"] for one in self.get("pods", "p")["status"]["conditions"]}
        self.assertEqual({"A": conditions["A"], "B": conditions["B"]}, {"A": "False", "B": "True"})

    def test_a_strategic_patch_deletes_an_item(self) -> None:
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {}}
        service["spec"] = {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}
        self.made("services", service)
        patch = {"spec": {"ports": [{"port": 80, "$patch": "delete"}]}}
        answer = self.send_patch("services", "s", patch, STRATEGIC)
        self.assertEqual(answer.code, 200, answer.body)
        self.assertEqual([one["name"] for one in answer["spec"]["ports"]], ["b"])

    def test_an_unknown_patch_is_an_unsupported_media_type(self) -> None:
        self.made("configmaps", config_map("a"))
        self.refused(self.send_patch("configmaps", "a", {}, "application/example"), 415, "UnsupportedMediaType")


class ApplyContract(ContractCase):
    """Server-side apply."""

    def apply(self, obj: Obj, manager: str, plural: str = "configmaps", **query: Any) -> Answer:
        path = self.path(plural, obj["metadata"]["name"])
        return self.client.request("PATCH", path, obj, content_type=APPLY, fieldManager=manager, **query)

    def test_it_makes_and_changes(self) -> None:
        self.assertEqual(self.apply(config_map("a", k="1"), "one").code, 201)
        answer = self.apply(config_map("a", k="2"), "one")
        self.assertEqual((answer.code, answer["data"]), (200, {"k": "2"}))

    def test_the_same_again_changes_nothing(self) -> None:
        first = self.apply(config_map("a", k="1"), "one")
        again = self.apply(config_map("a", k="1"), "one")
        self.assertEqual(again["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"])

    def test_what_is_not_applied_any_more_goes(self) -> None:
        self.apply(config_map("a", k="1", gone="2"), "one")
        self.assertEqual(self.apply(config_map("a", k="1"), "one")["data"], {"k": "1"})

    def test_each_manager_has_its_own_fields(self) -> None:
        self.apply(config_map("a", one="1"), "one")
        self.apply(config_map("a", two="2"), "two")
        answer = self.apply(config_map("a", one="3"), "one")
        self.assertEqual(answer["data"], {"one": "3", "two": "2"})
        managers = {entry["manager"]: entry["fieldsV1"] for entry in answer["metadata"]["managedFields"]}
        self.assertEqual(managers["two"], {"f:data": {"f:two": {}}})

    def test_a_field_of_another_manager_is_a_conflict_that_names_it(self) -> None:
        self.apply(config_map("a", k="1"), "one")
        answer = self.apply(config_map("a", k="2"), "two")
        message = self.refused(answer, 409, "Conflict")
        self.assertIn('conflict with "one"', message)
        self.assertEqual(answer["details"]["causes"][0]["field"], ".data.k")

    def test_force_takes_the_field(self) -> None:
        self.apply(config_map("a", k="1"), "one")
        self.assertEqual(self.apply(config_map("a", k="2"), "two", force="true")["data"], {"k": "2"})
        self.refused(self.apply(config_map("a", k="1"), "one"), 409, "Conflict")

    def test_equal_values_are_shared(self) -> None:
        self.apply(config_map("a", k="1"), "one")
        self.assertEqual(self.apply(config_map("a", k="1"), "two").code, 200)
        self.assertEqual(self.apply(config_map("a"), "one")["data"], {"k": "1"})

    def test_a_plain_change_takes_the_field(self) -> None:
        self.apply(config_map("a", k="1"), "one")
        self.send_patch("configmaps", "a", {"data": {"k": "2"}}, MERGE, fieldManager="other")
        message = self.refused(self.apply(config_map("a", k="3"), "one"), 409, "Conflict")
        self.assertIn('conflict with "other"', message)

    def test_items_of_lists_are_merged_by_their_keys(self) -> None:
        one = pod("p")
        one["spec"]["containers"][0]["env"] = [{"name": "A", "value": "1"}]
        self.assertEqual(self.apply(one, "one", "pods").code, 201)
        patch = {"spec": {"containers": [{"name": "main", "image": "busybox:2"}]}}
        two = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, **patch}
        answer = self.apply(two, "two", "pods", force="true")
        self.assertEqual(answer.code, 200, answer.body)
        (container,) = answer["spec"]["containers"]
        self.assertEqual((container["image"], container["env"]), ("busybox:2", [{"name": "A", "value": "1"}]))

    def test_a_manager_must_be_named(self) -> None:
        answer = self.client.request("PATCH", self.path("configmaps", "a"), config_map("a"), content_type=APPLY)
        self.assertIn(answer.code, (400, 422))


class ListContract(ContractCase):
    """Lists: selectors, pages, tables."""

    def names(self, answer: Any) -> list[str]:
        return [one["metadata"]["name"] for one in answer["items"]]

    def labelled(self, **objects: Obj) -> None:
        for name, labels in objects.items():
            obj = config_map(name)
            obj["metadata"]["labels"] = labels
            self.made("configmaps", obj)

    def test_label_selectors(self) -> None:
        self.labelled(a={"tier": "web", "v": "1"}, b={"tier": "db"}, c={"other": "x"})
        for selector, names in (
            ("tier=web", ["a"]),
            ("tier==web,v=1", ["a"]),
            ("tier", ["a", "b"]),
            ("tier in (web,db)", ["a", "b"]),
            ("tier,tier notin (web)", ["b"]),
            ("tier!=web,tier", ["b"]),
            ("!tier,other", ["c"]),
        ):
            self.assertEqual(self.names(self.get("configmaps", labelSelector=selector)), names, selector)

    def test_a_selector_that_is_none_is_a_bad_request(self) -> None:
        self.refused(self.get("configmaps", labelSelector="a in b"), 400, "BadRequest")

    def test_field_selectors(self) -> None:
        self.made("pods", pod("a", nodeName="node-1"))
        self.made("pods", pod("b"))
        for selector, names in (
            ("spec.nodeName=node-1", ["a"]),
            ("spec.nodeName=", ["b"]),
            ("metadata.name=b", ["b"]),
            ("metadata.name!=b", ["a"]),
            ("status.phase=Pending,spec.nodeName!=node-1", ["b"]),
        ):
            self.assertEqual(self.names(self.get("pods", fieldSelector=selector)), names, selector)

    def test_a_field_that_cannot_be_selected_is_a_bad_request(self) -> None:
        self.refused(self.get("pods", fieldSelector="spec.hostname=a"), 400, "BadRequest")

    def test_pages_are_of_one_revision(self) -> None:
        for index in range(5):
            self.made("configmaps", config_map(f"page-{index}"))
        first = self.get("configmaps", limit="2", fieldSelector="metadata.name!=kube-root-ca.crt")
        self.assertEqual(self.names(first), ["page-0", "page-1"])
        self.made("configmaps", config_map("page-9"))
        rest: list[str] = []
        token = first["metadata"]["continue"]
        while token:
            page = self.get(
                "configmaps", limit="2", fieldSelector="metadata.name!=kube-root-ca.crt", **{"continue": token}
            )
            self.assertEqual(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"])
            rest += self.names(page)
            token = page["metadata"].get("continue", "")
        self.assertEqual(rest, ["page-2", "page-3", "page-4"])

    def test_a_broken_continue_token_is_refused(self) -> None:
        self.assertIn(self.get("configmaps", limit="1", **{"continue": "nonsense"}).code, (400, 410))

    def test_all_namespaces_at_once(self) -> None:
        self.made("configmaps", config_map("a"))
        found = self.client.request("GET", "/api/v1/configmaps", fieldSelector="metadata.name=a")
        places = [one["metadata"]["namespace"] for one in found["items"]]
        self.assertIn(self.namespace, places)

    def test_a_table_has_the_familiar_columns(self) -> None:
        self.made("pods", pod("a", nodeName="node-1"))
        found = self.get("pods", accept=TABLE)
        columns = [one["name"] for one in found["columnDefinitions"]]
        self.assertEqual(
            columns,
            ["Name", "Ready", "Status", "Restarts", "Age", "IP", "Node", "Nominated Node", "Readiness Gates"],
        )
        row = dict(zip(columns, found["rows"][0]["cells"], strict=True))
        self.assertEqual((row["Name"], row["Ready"], row["Status"], row["Node"]), ("a", "0/1", "Pending", "node-1"))
        self.assertEqual(found["rows"][0]["object"]["kind"], "PartialObjectMetadata")


class WatchContract(ContractCase):
    """Watches."""

    def test_changes_come_in_order_after_the_version_listed(self) -> None:
        self.made("configmaps", config_map("before"))
        version = self.get("configmaps")["metadata"]["resourceVersion"]
        with self.client.watch(self.path("configmaps"), resourceVersion=version, fieldSelector=ONLY_A) as events:
            self.made("configmaps", config_map("a", k="1"))
            self.send_patch("configmaps", "a", {"data": {"k": "2"}}, MERGE)
            self.delete("configmaps", "a")
            seen = [next(events) for _ in range(3)]
        self.assertEqual([one["type"] for one in seen], ["ADDED", "MODIFIED", "DELETED"])
        self.assertEqual([one["object"]["data"]["k"] for one in seen], ["1", "2", "2"])
        versions = [int(one["object"]["metadata"]["resourceVersion"]) for one in seen]
        self.assertEqual(sorted(set(versions)), versions)

    def test_a_watch_from_nowhere_begins_with_what_there_is(self) -> None:
        self.made("configmaps", config_map("a"))
        with self.client.watch(self.path("configmaps"), fieldSelector=ONLY_A) as events:
            event = next(events)
        self.assertEqual((event["type"], event["object"]["metadata"]["name"]), ("ADDED", "a"))

    def test_past_changes_are_replayed(self) -> None:
        version = self.get("configmaps")["metadata"]["resourceVersion"]
        self.made("configmaps", config_map("a"))
        self.delete("configmaps", "a")
        with self.client.watch(self.path("configmaps"), resourceVersion=version, fieldSelector=ONLY_A) as events:
            self.assertEqual([next(events)["type"] for _ in range(2)], ["ADDED", "DELETED"])

    def test_what_leaves_the_selection_is_deleted_for_the_watcher(self) -> None:
        version = self.get("configmaps")["metadata"]["resourceVersion"]
        with self.client.watch(self.path("configmaps"), resourceVersion=version, labelSelector="colour=red") as events:
            self.made("configmaps", config_map("a"))
            for colour in ("red", "blue"):
                self.send_patch("configmaps", "a", {"metadata": {"labels": {"colour": colour}}}, MERGE)
            seen = [next(events) for _ in range(2)]
        self.assertEqual([one["type"] for one in seen], ["ADDED", "DELETED"])

    def test_one_object_can_be_watched_by_its_name(self) -> None:
        version = self.get("configmaps")["metadata"]["resourceVersion"]
        with self.client.watch(
            self.path("configmaps"), resourceVersion=version, fieldSelector="metadata.name=b"
        ) as events:
            self.made("configmaps", config_map("a"))
            self.made("configmaps", config_map("b"))
            self.assertEqual(next(events)["object"]["metadata"]["name"], "b")

    def test_a_watch_ends_after_its_time(self) -> None:
        version = self.get("configmaps")["metadata"]["resourceVersion"]
        with self.client.watch(
            self.path("configmaps"), resourceVersion=version, fieldSelector=ONLY_A, timeoutSeconds="1"
        ) as events:
            self.assertEqual(list(events), [])

    def test_tables_can_be_watched(self) -> None:
        version = self.get("configmaps")["metadata"]["resourceVersion"]
        self.made("configmaps", config_map("a", k="v"))
        answer = self.client.request(
            "GET",
            self.path("configmaps"),
            accept=TABLE,
            watch="1",
            resourceVersion=version,
            fieldSelector=ONLY_A,
            timeoutSeconds="1",
        )
        event = answer.body
        self.assertEqual((event["type"], event["object"]["kind"]), ("ADDED", "Table"))
        self.assertEqual(event["object"]["rows"][0]["cells"][:2], ["a", 1])


class DiscoveryContract(ContractCase):
    """What the API says of itself, and whom it lets in."""

    KINDS = {
        "v1": {"pods", "nodes", "namespaces", "configmaps", "secrets", "services", "endpoints", "events"},
        "apps/v1": {"deployments", "replicasets", "daemonsets"},
        "coordination.k8s.io/v1": {"leases"},
    }

    def test_each_kind_is_listed(self) -> None:
        for version, kinds in self.KINDS.items():
            path = f"/apis/{version}" if "/" in version else f"/api/{version}"
            listed = {one["name"] for one in self.client.request("GET", path)["resources"]}
            self.assertLessEqual(kinds, listed, version)

    def test_the_status_of_pods_is_a_subresource(self) -> None:
        listed = {one["name"]: one for one in self.client.request("GET", "/api/v1")["resources"]}
        self.assertEqual(listed["pods/status"]["kind"], "Pod")
        self.assertTrue(listed["pods"]["namespaced"])
        self.assertFalse(listed["nodes"]["namespaced"])

    def test_groups_are_listed(self) -> None:
        groups = {one["name"]: one for one in self.client.request("GET", "/apis")["groups"]}
        self.assertEqual(groups["apps"]["preferredVersion"]["groupVersion"], "apps/v1")

    @needs(1, 27)
    def test_discovery_can_be_had_in_one_answer(self) -> None:
        accept = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
        answer = self.client.request("GET", "/api", accept=accept)
        self.assertEqual(answer["kind"], "APIGroupDiscoveryList")
        resources = answer["items"][0]["versions"][0]["resources"]
        self.assertIn("pods", [one["resource"] for one in resources])

    def test_the_version_is_told(self) -> None:
        self.assertIn("gitVersion", self.client.request("GET", "/version").body)

    def test_health_is_told(self) -> None:
        for path in ("/healthz", "/readyz", "/livez"):
            self.assertEqual(self.client.request("GET", path).code, 200, path)
