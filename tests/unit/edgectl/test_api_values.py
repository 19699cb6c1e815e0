"""The small pure parts: quantities, selectors, decoding, tables, names, paths."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from edgectl.apiserver import quantity
from edgectl.apiserver.decode import Decoder, WrongShape, missing
from edgectl.apiserver.errors import ApiError
from edgectl.apiserver.meta import micro_timestamp, name_causes, seconds_of, timestamp
from edgectl.apiserver.negotiate import MetadataForm, PlainForm, TableForm, form_of
from edgectl.apiserver.resources import CONFIGMAP, NODE, POD
from edgectl.apiserver.routes import delete_options, list_options, parse_path
from edgectl.apiserver.schema import parse
from edgectl.apiserver.schema_all import schema
from edgectl.apiserver.selectors import matches_labels, parse_fields, parse_labels, selects
from edgectl.apiserver.tables import human_duration, table

Obj = dict[str, Any]
NOW = 1_700_000_000.0


class QuantityTests(SynchronousTestCase):
    def test_canonical_forms(self) -> None:
        for text, shown in (
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("2e3", "2k"),
            (2, "2"),
            ("0", "0"),
            ("100000k", "100M"),
            ("1Ki", "1Ki"),
            ("-1", "-1"),
        ):
            self.assertEqual(quantity.canonical(text), shown, text)

    @given(st.integers(-(10**15), 10**15), st.sampled_from(["", "m", "k", "M", "Ki", "Mi", "Gi"]))
    @settings(max_examples=200, deadline=None)
    def test_the_canonical_form_is_the_same_amount(self, number: int, suffix: str) -> None:
        text = f"{number}{suffix}"
        self.assertEqual(quantity.parse(quantity.canonical(text)), quantity.parse(text))

    def test_what_is_none_is_refused(self) -> None:
        for text in ("", "x", "1.2.3", "1Zi", "1 Gi", "--1", "1e999", "9" * 99):
            with self.assertRaises(quantity.InvalidQuantity, msg=text):
                quantity.parse(text)


class SelectorTests(SynchronousTestCase):
    def matches(self, text: str, **labels: str) -> bool:
        return matches_labels(parse_labels(text), labels)

    def test_labels(self) -> None:
        for text, yes, no in (
            ("a=1", {"a": "1"}, {"a": "2"}),
            ("a!=1", {}, {"a": "1"}),
            ("a", {"a": ""}, {}),
            ("!a", {}, {"a": "x"}),
            ("a in (1, 2)", {"a": "2"}, {"a": "3"}),
            ("a notin (1,2)", {"b": "1"}, {"a": "1"}),
            ("a=1,b", {"a": "1", "b": "x"}, {"a": "1"}),
            ("a>3", {"a": "4"}, {"a": "x"}),
            ("a=", {"a": ""}, {"a": "1"}),
        ):
            self.assertTrue(self.matches(text, **yes), text)
            self.assertFalse(self.matches(text, **no), text)

    def test_an_empty_selector_selects_all_and_an_absent_one_none(self) -> None:
        self.assertTrue(selects({}, {"a": "1"}))
        self.assertFalse(selects(None, {"a": "1"}))

    def test_nonsense_is_refused(self) -> None:
        for text in ("a in b", "a in (", "=1", "a==b==c", "a b"):
            with self.assertRaises(ApiError, msg=text):
                parse_labels(text)

    def test_an_absent_bool_is_false(self) -> None:
        (requirement,) = parse_fields("spec.unschedulable=false", NODE)
        self.assertTrue(requirement.matches({"spec": {}}))
        self.assertFalse(requirement.matches({"spec": {"unschedulable": True}}))


class DecodeTests(SynchronousTestCase):
    def decode(self, obj: Obj, kind: str = "Pod") -> tuple[Obj, list[str]]:
        decoder = Decoder(schema())
        return decoder.decode(obj, kind), decoder.unknown

    def test_unknown_fields_are_named_and_dropped(self) -> None:
        obj, unknown = self.decode({"spec": {"containers": [{"name": "a", "imag": "x"}], "nodeNaem": "x"}})
        self.assertEqual(obj, {"spec": {"containers": [{"name": "a"}]}})
        self.assertEqual(unknown, ["spec.containers[0].imag", "spec.nodeNaem"])

    def test_a_wrong_shape_is_named(self) -> None:
        for obj, told in (
            ({"spec": []}, "spec: expected an object, got a list"),
            ({"spec": {"containers": {}}}, "spec.containers: expected a list, got an object"),
            ({"spec": {"containers": [{"name": 1}]}}, "spec.containers[0].name: expected string, got a number"),
            ({"spec": {"hostNetwork": "yes"}}, "spec.hostNetwork: expected bool, got a string"),
            ({"spec": {"priority": 1.5}}, "spec.priority: expected int, got a number"),
            ({"spec": {"overhead": {"cpu": "much"}}}, "spec.overhead.cpu: 'much' is not a quantity"),
            ({"metadata": {"labels": {"a": True}}}, "metadata.labels.a: expected string, got a bool"),
            ({"metadata": {"labels": {"a": "\ud800"}}}, "metadata.labels.a: is no text"),
            ({"metadata": {"labels": {"\ud800": "a"}}}, "metadata.labels: is no text"),
            ({"metadata": {"generation": float("nan")}}, "metadata.generation: expected int, got a number"),
            ({"spec": {"priority": float("inf")}}, "spec.priority: expected int, got a number"),
        ):
            with self.assertRaises(WrongShape) as wrong:
                self.decode(obj)
            self.assertIn(told, str(wrong.exception))

    def test_bytes_must_be_base64(self) -> None:
        with self.assertRaises(WrongShape):
            self.decode({"data": {"a": "no base64!"}}, "Secret")

    def test_free_form_values_have_a_depth(self) -> None:
        deep: Any = {}
        for _ in range(200):
            deep = {"a": deep}
        with self.assertRaises(WrongShape):
            self.decode({"spec": {"securityContext": {"seccompProfile": deep}}})

    def test_what_is_required_is_missed_by_name(self) -> None:
        obj, _ = self.decode({"spec": {"containers": [{"env": [{"value": "x"}]}]}})
        fields = [cause.field for cause in missing(schema(), obj, "Pod")]
        self.assertEqual(fields, ["spec.containers[0].name", "spec.containers[0].env[0].name"])

    def test_a_table_that_names_no_type_is_refused(self) -> None:
        with self.assertRaises(ValueError):
            parse("A\n  b Missing\n")

    @given(
        st.recursive(
            st.none() | st.booleans() | st.text(max_size=3),
            lambda i: (
                st.lists(i) | st.dictionaries(st.sampled_from(["spec", "metadata", "name", "containers", "labels"]), i)
            ),
            max_leaves=8,
        )
    )
    @settings(max_examples=200, deadline=None)
    def test_any_json_is_decoded_or_refused(self, value: Any) -> None:
        try:
            obj, _ = self.decode({"spec": value, "metadata": value})
        except WrongShape:
            return
        self.assertEqual(self.decode(obj), (obj, []))


class TableTests(SynchronousTestCase):
    def test_durations(self) -> None:
        for seconds, shown in (
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10_800, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (9 * 3600, "9h"),
            (49 * 3600, "2d1h"),
            (10 * 86400, "10d"),
            (3 * 365 * 86400 + 86400, "3y1d"),
        ):
            self.assertEqual(human_duration(seconds), shown)

    def cells(self, obj: Obj) -> dict[str, Any]:
        obj["metadata"] = {"name": "p", "creationTimestamp": timestamp(NOW - 60), **obj.get("metadata", {})}
        made = table(POD, [obj], NOW)
        names = [one["name"] for one in made["columnDefinitions"]]
        return dict(zip(names, made["rows"][0]["cells"], strict=True))

    def status(self, *states: Obj, **more: Any) -> dict[str, Any]:
        statuses = [
            {"name": f"c{n}", "restartCount": 0, "ready": "running" in one, "state": one}
            for n, one in enumerate(states)
        ]
        spec = {"containers": [{"name": f"c{n}"} for n in range(len(states))]}
        return self.cells({"spec": spec, "status": {"phase": "Running", "containerStatuses": statuses, **more}})

    def test_the_word_for_a_pod(self) -> None:
        running: Obj = {"running": {}}
        for states, word in (
            ([running], "Running"),
            ([{"waiting": {"reason": "CrashLoopBackOff"}}], "CrashLoopBackOff"),
            ([{"terminated": {"reason": "Error", "exitCode": 1}}], "Error"),
            ([{"terminated": {"exitCode": 3}}], "ExitCode:3"),
            ([{"terminated": {"signal": 9, "exitCode": 137}}], "Signal:9"),
            ([{"terminated": {"reason": "Completed"}}, running], "NotReady"),
        ):
            self.assertEqual(self.status(*states)["Status"], word)
        self.assertEqual(self.status({"waiting": {}}, phase="Pending")["Status"], "Pending")
        self.assertEqual(self.status(phase="Failed", reason="Evicted")["Status"], "Evicted")

    def test_unfinished_init_containers_come_first(self) -> None:
        spec = {"containers": [{"name": "c"}], "initContainers": [{"name": "i"}, {"name": "j"}]}
        done = {"name": "i", "state": {"terminated": {"exitCode": 0}}}
        pending = {"name": "j", "state": {"waiting": {"reason": "PodInitializing"}}}
        status = {"phase": "Pending", "initContainerStatuses": [done, pending]}
        self.assertEqual(self.cells({"spec": spec, "status": status})["Status"], "Init:1/2")

    def test_a_pod_that_is_ending_says_so(self) -> None:
        obj = {"metadata": {"deletionTimestamp": timestamp(NOW)}, "spec": {}, "status": {"phase": "Running"}}
        self.assertEqual(self.cells(obj)["Status"], "Terminating")

    def test_restarts_tell_of_the_last(self) -> None:
        state = {"name": "c", "restartCount": 2, "state": {"running": {}}, "ready": True}
        state["lastState"] = {"terminated": {"finishedAt": timestamp(NOW - 30)}}
        obj = {"spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Running", "containerStatuses": [state]}}
        cells = self.cells(obj)
        self.assertEqual((cells["Restarts"], cells["Ready"], cells["Age"]), ("2 (30s ago)", "1/1", "60s"))


class MetaTests(SynchronousTestCase):
    def test_times_come_back(self) -> None:
        self.assertEqual(seconds_of(timestamp(NOW)), NOW)
        self.assertEqual(seconds_of(micro_timestamp(NOW + 0.25)), NOW + 0.25)
        self.assertIsNone(seconds_of("yesterday"))

    def test_names(self) -> None:
        for name, rule, fine in (
            ("a.b-c", "subdomain", True),
            ("a.b", "label", False),
            ("1a", "label", True),
            ("1a", "label1035", False),
            ("A", "subdomain", False),
            ("a" * 254, "subdomain", False),
            ("a\n", "subdomain", False),
            ("../x", "subdomain", False),
        ):
            self.assertEqual(not name_causes(name, "metadata.name", rule), fine, name)


class RouteTests(SynchronousTestCase):
    def target(self, path: str) -> tuple[str, str, str, str]:
        found = parse_path(path.strip("/").split("/"))
        return found.resource.plural, found.namespace, found.name, found.subresource

    def test_paths(self) -> None:
        for path, target in (
            ("/api/v1/pods", ("pods", "", "", "")),
            ("/api/v1/namespaces/a/pods/b", ("pods", "a", "b", "")),
            ("/api/v1/namespaces/a/pods/b/status", ("pods", "a", "b", "status")),
            ("/api/v1/namespaces/a", ("namespaces", "", "a", "")),
            ("/api/v1/namespaces/a/finalize", ("namespaces", "", "a", "finalize")),
            ("/apis/apps/v1/namespaces/a/deployments/b/scale", ("deployments", "a", "b", "scale")),
        ):
            self.assertEqual(self.target(path), target)

    def test_what_is_not_there(self) -> None:
        for path in (
            "/api/v1/teapots",
            "/api/v2/pods",
            "/api/v1/pods/a",
            "/api/v1/namespaces/a/nodes",
            "/api/v1/nodes/a/log",
            "/api/v1/namespaces/a/pods/b/status/c",
        ):
            with self.assertRaises(ApiError, msg=path):
                self.target(path)

    def test_nonsense_in_queries_is_a_bad_request(self) -> None:
        for query in ({"limit": "x"}, {"limit": "-1"}, {"resourceVersion": "abc"}, {"limit": "9" * 30}):
            with self.assertRaises(ApiError, msg=str(query)):
                list_options(query)
        bodies: tuple[Obj, ...] = (
            {"gracePeriodSeconds": "1"},
            {"propagationPolicy": "Maybe"},
            {"preconditions": []},
            {"dryRun": ["x"]},
        )
        for body in bodies:
            with self.assertRaises(ApiError, msg=str(body)):
                delete_options({}, body)

    def test_the_form_of_an_answer(self) -> None:
        for accept, form in (
            ("", PlainForm),
            ("*/*", PlainForm),
            ("application/vnd.kubernetes.protobuf,application/json", PlainForm),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", TableForm),
            ("application/json;as=Table;v=v1;g=other,application/json", PlainForm),
            ("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", MetadataForm),
        ):
            self.assertIsInstance(form_of(accept, "", lambda: NOW), form, accept)
        with self.assertRaises(ApiError) as refused:
            form_of("application/vnd.kubernetes.protobuf", "", lambda: NOW)
        self.assertEqual(refused.exception.code, 406)

    def test_only_the_first_table_of_a_watch_has_columns(self) -> None:
        form = form_of("application/json;as=Table;v=v1;g=meta.k8s.io", "", lambda: NOW)
        obj = {"metadata": {"name": "a", "resourceVersion": "5"}}
        first, second = (form.watched(CONFIGMAP, obj) for _ in range(2))
        self.assertTrue(first["columnDefinitions"])
        self.assertFalse(second["columnDefinitions"])
