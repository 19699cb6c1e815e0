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
        self.apps("POST", "deployments", body=self.deployment("d", replicas=2))
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
