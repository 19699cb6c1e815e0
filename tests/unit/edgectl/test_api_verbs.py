"""Changes that meet: what is tried again, what is a conflict, and what is never half done."""

from __future__ import annotations

from typing import Any

from edgectl.apiserver.errors import ApiError
from edgectl.apiserver.options import DeleteOptions, ListOptions, WriteOptions
from edgectl.apiserver.patch import merge
from edgectl.apiserver.resources import CONFIGMAP, POD, SERVICE
from tests.unit.edgectl.api_world import ApiTestCase, Obj


class MeetingTests(ApiTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.make(CONFIGMAP, {"metadata": {"name": "a"}, "data": {"k": "1"}})

    def between(self, times: int, patch: Obj) -> Any:
        """An edit by a merge patch, before whose first writes another always comes."""
        calls = 0

        def edit(obj: Obj) -> Any:
            nonlocal calls
            calls += 1
            if calls <= times:
                other = {"data": {"other": str(calls)}}
                self.done(self.api.rewrite(CONFIGMAP, "default", "a", lambda found: merge(found, other)))
            return merge(obj, patch)

        return edit

    def change(self, edit: Any) -> Obj:  # type: ignore[override]
        return self.done(self.api.change(CONFIGMAP, "default", "a", edit))

    def test_a_patch_is_tried_again_on_what_the_other_left(self) -> None:
        changed = self.change(self.between(3, {"data": {"mine": "x"}}))
        self.assertEqual(changed["data"], {"k": "1", "other": "3", "mine": "x"})

    def test_a_patch_that_names_a_version_is_a_conflict(self) -> None:
        version = self.one(CONFIGMAP, "a")["metadata"]["resourceVersion"]
        with self.assertRaises(ApiError) as refused:
            self.change(self.between(1, {"metadata": {"resourceVersion": version}, "data": {"mine": "x"}}))
        self.assertEqual(refused.exception.reason, "Conflict")
        self.assertNotIn("mine", self.one(CONFIGMAP, "a")["data"])

    def test_who_never_gets_a_turn_is_told(self) -> None:
        with self.assertRaises(ApiError) as refused:
            self.change(self.between(1000, {"data": {"mine": "x"}}))
        self.assertEqual(refused.exception.reason, "Conflict")

    def test_a_dry_run_writes_nothing(self) -> None:
        before = self.store.revision
        edit = self.between(0, {"data": {"mine": "x"}})
        changed = self.done(self.api.change(CONFIGMAP, "default", "a", edit, WriteOptions(dry_run=True)))
        self.done(self.api.delete(CONFIGMAP, "default", "a", DeleteOptions(dry_run=True)))
        self.assertEqual(changed["data"]["mine"], "x")
        self.assertEqual(self.store.revision, before)

    def test_a_page_stays_of_its_revision_until_it_is_compacted(self) -> None:
        for name in ("b", "c"):
            self.make(CONFIGMAP, {"metadata": {"name": name}})
        first = self.done(self.api.list(CONFIGMAP, "default", ListOptions(limit=2)))
        self.remove(CONFIGMAP, "c")
        options = ListOptions(limit=2, continue_token=first.continue_token)
        rest = self.done(self.api.list(CONFIGMAP, "default", options))
        self.assertEqual([one["metadata"]["name"] for one in rest.items], ["c"])
        self.done(self.store.compact(self.store.revision))
        with self.assertRaises(ApiError) as gone:
            self.done(self.api.list(CONFIGMAP, "default", options))
        self.assertEqual((gone.exception.code, gone.exception.reason), (410, "Expired"))


class ServiceAddressTests(ApiTestCase):
    def test_an_address_is_taken_and_freed_with_its_service(self) -> None:
        spec = {"ports": [{"port": 80}]}
        made = self.make(SERVICE, {"metadata": {"name": "a"}, "spec": spec})
        address = made["spec"]["clusterIP"]
        with self.assertRaises(ApiError):
            self.make(SERVICE, {"metadata": {"name": "b"}, "spec": {**spec, "clusterIP": address}})
        self.remove(SERVICE, "a")
        again = self.make(SERVICE, {"metadata": {"name": "b"}, "spec": {**spec, "clusterIP": address}})
        self.assertEqual(again["spec"]["clusterIP"], address)

    def test_an_address_of_elsewhere_is_invalid(self) -> None:
        with self.assertRaises(ApiError) as refused:
            self.make(SERVICE, {"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}], "clusterIP": "192.0.2.1"}})
        self.assertEqual(refused.exception.reason, "Invalid")


class PodDeletionTests(ApiTestCase):
    def pod(self, name: str, **spec: Any) -> None:
        containers = [{"name": "c", "image": "x"}]
        self.make(POD, {"metadata": {"name": name}, "spec": {"nodeName": "edge-a", "containers": containers, **spec}})

    def test_a_second_deletion_may_only_shorten_the_grace(self) -> None:
        self.pod("p", terminationGracePeriodSeconds=30)
        self.remove(POD, "p")
        self.remove(POD, "p", grace=60)
        self.assertEqual(self.one(POD, "p")["metadata"]["deletionGracePeriodSeconds"], 30)
        self.remove(POD, "p", grace=5)
        self.assertEqual(self.one(POD, "p")["metadata"]["deletionGracePeriodSeconds"], 5)
        self.remove(POD, "p", grace=0)
        self.assertEqual(self.all(POD), [])

    def test_a_confirmation_for_another_pod_of_the_name_deletes_nothing(self) -> None:
        self.pod("p")
        uid = self.one(POD, "p")["metadata"]["uid"]
        self.remove(POD, "p", grace=0)
        self.pod("p")
        with self.assertRaises(ApiError) as refused:
            self.remove(POD, "p", grace=0, uid=uid)
        self.assertEqual(refused.exception.reason, "Conflict")
        self.assertEqual(len(self.all(POD)), 1)
