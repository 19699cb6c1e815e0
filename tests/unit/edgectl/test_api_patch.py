"""Patches: JSON, merge, strategic; and the sets of fields of server-side apply."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from edgectl.apiserver.fieldsets import Fields, decode, encode, shown
from edgectl.apiserver.patch import PatchFailed, json_patch, merge
from edgectl.apiserver.schema_all import schema
from edgectl.apiserver.strategic import strategic_merge

Obj = dict[str, Any]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


class MergePatchTests(SynchronousTestCase):
    def test_the_examples_of_rfc_7386(self) -> None:
        for target, patch, result in (
            ({"a": "b"}, {"a": "c"}, {"a": "c"}),
            ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
            ({"a": "b"}, {"a": None}, {}),
            ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
            ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
            ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
            (["a", "b"], ["c", "d"], ["c", "d"]),
            ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
            ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ):
            self.assertEqual(merge(target, patch), result)

    @given(JSON, JSON)
    @settings(max_examples=100, deadline=None)
    def test_applying_twice_is_applying_once(self, target: Any, patch: Any) -> None:
        once = merge(target, patch)
        self.assertEqual(merge(once, patch), once)


class JsonPatchTests(SynchronousTestCase):
    def test_each_operation(self) -> None:
        for target, operation, result in (
            ({"a": 1}, {"op": "add", "path": "/b", "value": 2}, {"a": 1, "b": 2}),
            ({"a": [1, 3]}, {"op": "add", "path": "/a/1", "value": 2}, {"a": [1, 2, 3]}),
            ({"a": [1]}, {"op": "add", "path": "/a/-", "value": 2}, {"a": [1, 2]}),
            ({"a": [1, 2]}, {"op": "remove", "path": "/a/0"}, {"a": [2]}),
            ({"a": 1}, {"op": "replace", "path": "/a", "value": 2}, {"a": 2}),
            ({"a": [1, 2]}, {"op": "replace", "path": "/a/1", "value": 3}, {"a": [1, 3]}),
            ({"a": 1}, {"op": "move", "from": "/a", "path": "/b"}, {"b": 1}),
            ({"a": {"x": 1}}, {"op": "copy", "from": "/a", "path": "/b"}, {"a": {"x": 1}, "b": {"x": 1}}),
            ({"a/b": {"m~n": 1}}, {"op": "replace", "path": "/a~1b/m~0n", "value": 2}, {"a/b": {"m~n": 2}}),
            ({"a": 1}, {"op": "replace", "path": "", "value": {}}, {}),
        ):
            self.assertEqual(json_patch(target, [operation]), result, operation)

    def test_what_does_not_apply_is_refused(self) -> None:
        for operation in (
            {"op": "remove", "path": "/none"},
            {"op": "replace", "path": "/none", "value": 1},
            {"op": "add", "path": "/list/9", "value": 1},
            {"op": "add", "path": "/a/b", "value": 1},
            {"op": "test", "path": "/a", "value": 2},
            {"op": "move", "from": "/map", "path": "/map/below"},
            {"op": "frobnicate", "path": "/a"},
            {"op": "add", "path": "a", "value": 1},
            {"op": "add", "path": "/a"},
            {"path": "/a"},
            "text",
        ):
            with self.assertRaises(PatchFailed, msg=str(operation)):
                json_patch({"a": 1, "list": [], "map": {}}, [operation])

    def test_a_refused_patch_leaves_the_object_alone(self) -> None:
        target: Obj = {"a": {}}
        with self.assertRaises(PatchFailed):
            json_patch(target, [{"op": "add", "path": "/a/b", "value": 1}, {"op": "remove", "path": "/none"}])
        self.assertEqual(target, {"a": {}})

    def test_copies_that_grow_without_end_are_refused(self) -> None:
        grow = [{"op": "copy", "from": "/data", "path": f"/data/k{index}"} for index in range(60)]
        with self.assertRaisesRegex(PatchFailed, "copies more than 3145728 bytes"):
            json_patch({"data": {"a": "x" * 100}}, grow)

    def test_too_many_operations_are_refused(self) -> None:
        with self.assertRaises(PatchFailed):
            json_patch({}, [{"op": "add", "path": "/a", "value": 1}] * 10_001)


def spec_of(*containers: Obj, **more: Any) -> Obj:
    return {"spec": {"containers": list(containers), **more}}


class StrategicPatchTests(SynchronousTestCase):
    def patched(self, target: Obj, patch: Obj, kind: str = "Pod") -> Obj:
        return strategic_merge(schema(), target, patch, kind)

    def test_items_merge_by_their_key(self) -> None:
        target = spec_of({"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "1"})
        patch = spec_of({"name": "a", "image": "2"}, {"name": "c", "image": "1"})
        expected = [
            {"name": "a", "image": "2", "args": ["x"]},
            {"name": "b", "image": "1"},
            {"name": "c", "image": "1"},
        ]
        self.assertEqual(self.patched(target, patch)["spec"]["containers"], expected)

    def test_an_item_is_deleted(self) -> None:
        target = spec_of({"name": "a"}, {"name": "b"})
        self.assertEqual(self.patched(target, spec_of({"name": "a", "$patch": "delete"})), spec_of({"name": "b"}))

    def test_a_list_is_replaced(self) -> None:
        target = spec_of({"name": "a"}, {"name": "b"})
        patch = spec_of({"$patch": "replace"}, {"name": "c"})
        self.assertEqual(self.patched(target, patch), spec_of({"name": "c"}))

    def test_an_object_is_replaced(self) -> None:
        target = {"metadata": {"labels": {"a": "1"}}}
        patch = {"metadata": {"labels": {"$patch": "replace", "b": "2"}}}
        self.assertEqual(self.patched(target, patch), {"metadata": {"labels": {"b": "2"}}})

    def test_the_order_given_is_kept_and_others_stay_behind_their_neighbour(self) -> None:
        target = spec_of({"name": "a"}, {"name": "x"}, {"name": "b"})
        patch = {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": []}}
        names = [one["name"] for one in self.patched(target, patch)["spec"]["containers"]]
        self.assertEqual(names, ["b", "a", "x"])

    def test_values_leave_a_set(self) -> None:
        target = {"metadata": {"finalizers": ["a", "b"]}}
        patch = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}
        self.assertEqual(self.patched(target, patch), {"metadata": {"finalizers": ["b"]}})

    def test_values_join_a_set_once(self) -> None:
        target = {"metadata": {"finalizers": ["a"]}}
        patch = {"metadata": {"finalizers": ["a", "b"]}}
        self.assertEqual(self.patched(target, patch), {"metadata": {"finalizers": ["a", "b"]}})

    def test_a_volume_keeps_only_its_new_source(self) -> None:
        target = {"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}
        patch = {"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}, "$retainKeys": ["name", "hostPath"]}]}}
        self.assertEqual(
            self.patched(target, patch), {"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}}
        )

    def test_plain_lists_are_replaced_and_null_removes(self) -> None:
        target = spec_of({"name": "a", "args": ["1", "2"], "image": "x"})
        patch = spec_of({"name": "a", "args": ["3"], "image": None})
        self.assertEqual(self.patched(target, patch), spec_of({"name": "a", "args": ["3"]}))

    def test_an_item_without_its_key_is_refused(self) -> None:
        with self.assertRaises(PatchFailed):
            self.patched(spec_of({"name": "a"}), spec_of({"image": "x"}))

    def test_an_unknown_directive_is_refused(self) -> None:
        with self.assertRaises(PatchFailed):
            self.patched({}, {"metadata": {"$patch": "explode"}})


POD: Obj = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "p", "labels": {"a": "1"}, "finalizers": ["x/y"]},
    "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}], "args": ["1"]}]},
}
PORT = 'k:{"containerPort":80,"protocol":"TCP"}'


class FieldSetTests(SynchronousTestCase):
    fields = Fields(schema())

    def test_the_fields_of_an_object(self) -> None:
        container = ("f:spec", "f:containers", 'k:{"name":"c"}')
        self.assertEqual(
            self.fields.of(POD, "Pod"),
            {
                ("f:metadata", "f:labels", "f:a"),
                ("f:metadata", "f:finalizers", 'v:"x/y"'),
                container,
                (*container, "f:name"),
                (*container, "f:image"),
                (*container, "f:args"),
                (*container, "f:ports", PORT),
                (*container, "f:ports", PORT, "f:containerPort"),
            },
        )

    def test_it_comes_back_from_its_encoding(self) -> None:
        found = self.fields.of(POD, "Pod")
        self.assertEqual(decode(encode(found)), found)

    def test_each_field_has_a_value(self) -> None:
        for path in self.fields.of(POD, "Pod"):
            self.assertIsNotNone(self.fields.value(POD, path, "Pod"), path)

    def test_what_is_empty_goes_with_its_last_field(self) -> None:
        left = self.fields.without(POD, self.fields.of(POD, "Pod"), "Pod")
        self.assertEqual(left, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}})

    def test_merging_its_own_fields_changes_nothing(self) -> None:
        self.assertEqual(self.fields.merge(POD, POD, "Pod"), POD)

    def test_how_a_field_is_named(self) -> None:
        path = ("f:spec", "f:containers", 'k:{"name":"c"}', "f:image")
        self.assertEqual(shown(path), '.spec.containers[name="c"].image')
