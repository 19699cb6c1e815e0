"""Which pods move, and where to."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from appengine.takeover.eligible import OF_THE_NODE, copy_of, fits, obstacle, opted_in, owner_of, uid_of
from edgectl.takeover import asks_for_takeover
from edgectl.takeover import obstacle as obstacle_in_the_cloud

LABELS = {"zone": "hall", "cores": "4"}


def affinity(*terms: dict[str, Any]) -> dict[str, Any]:
    required = {"nodeSelectorTerms": list(terms)}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


class EligibleTests(SynchronousTestCase):
    def test_opting_in(self) -> None:
        for said, expected in (
            ({"kubebus.io/takeover": "site"}, True),
            ({"kubebus.io/takeover": "yes"}, False),
            ({}, False),
            (None, False),
        ):
            self.assertEqual(opted_in({"metadata": {"annotations": said}}), expected)

    def test_obstacles(self) -> None:
        for pod, word in (
            ({"metadata": {"annotations": {"kubernetes.io/config.source": "file"}}}, "static"),
            ({"metadata": {"ownerReferences": [{"kind": "DaemonSet"}]}}, "DaemonSet"),
            ({"spec": {"restartPolicy": "Never"}}, "restartPolicy"),
            ({"spec": {"volumes": [{"name": "data", "hostPath": {"path": "/"}}]}}, "'data' (hostPath)"),
        ):
            self.assertIn(word, obstacle(pod) or "")
        moves = {
            "metadata": {"ownerReferences": [{"kind": "ReplicaSet"}]},
            "spec": {"restartPolicy": "Always", "volumes": [{"name": "x", "emptyDir": {}}]},
        }
        self.assertIsNone(obstacle(moves))

    def test_cloud_and_site_judge_alike(self) -> None:
        """Else the cloud would show a pod as one that moves, and no node would run it."""
        for metadata, spec in (
            ({}, {}),
            ({"annotations": {"kubebus.io/takeover": "site"}}, {"restartPolicy": "Always"}),
            ({"ownerReferences": [{"kind": "DaemonSet"}]}, {}),
            ({"ownerReferences": [{"kind": "ReplicaSet"}]}, {"volumes": [{"name": "x", "emptyDir": {}}]}),
            *(({}, {"restartPolicy": policy}) for policy in ("Never", "OnFailure")),
            # A pod has no volume of the kind "local"; only a PersistentVolume has.
            *(({}, {"volumes": [{"name": "x", kind: {}}]}) for kind in OF_THE_NODE if kind != "local"),
        ):
            pod = {"metadata": metadata, "spec": spec}
            self.assertEqual(obstacle(pod), obstacle_in_the_cloud(pod))
            self.assertEqual(opted_in(pod), asks_for_takeover(pod))

    def test_node_selector(self) -> None:
        self.assertTrue(fits({"spec": {}}, "b", LABELS))
        self.assertTrue(fits({"spec": {"nodeSelector": {"zone": "hall"}}}, "b", LABELS))
        self.assertFalse(fits({"spec": {"nodeSelector": {"zone": "yard"}}}, "b", LABELS))
        self.assertFalse(fits({"spec": {"nodeSelector": {"kubernetes.io/hostname": "a"}}}, "b", LABELS))

    def test_affinity(self) -> None:
        for terms, expected in (
            ([expression("zone", "In", "hall", "yard")], True),
            ([expression("zone", "NotIn", "hall")], False),
            ([expression("other", "NotIn", "hall")], True),
            ([expression("zone", "Exists")], True),
            ([expression("zone", "DoesNotExist")], False),
            ([expression("cores", "Gt", "3")], True),
            ([expression("cores", "Lt", "3")], False),
            ([expression("zone", "Gt", "3")], False),
            ([expression("zone", "Like", "hall")], False),
            ([expression("zone", "In", "yard"), expression("zone", "In", "hall")], True),
            ([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}], False),
            ([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}], True),
            ([{}], False),
            ([], False),
        ):
            self.assertEqual(fits({"spec": affinity(*terms)}, "b", LABELS), expected, terms)

    def test_the_copy(self) -> None:
        pod = {"metadata": {"uid": "u", "annotations": {"x": "y"}}, "spec": {"nodeName": "a", "containers": []}}
        copy = copy_of(pod, "new", "b")
        self.assertEqual((uid_of(copy), owner_of(copy)), ("new", "b"))
        expected = {"x": "y", "kubebus.io/taken-over-uid": "u", "kubebus.io/taken-over-from": "a"}
        self.assertEqual(copy["metadata"]["annotations"], expected)
        self.assertEqual((uid_of(pod), owner_of(pod)), ("u", "a"))

    @given(
        st.recursive(
            st.none() | st.integers() | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(
                    st.sampled_from(["metadata", "spec", "volumes", "nodeSelector", "affinity", "nodeAffinity"]), inner
                )
            ),
            max_leaves=12,
        )
    )
    def test_whatever_stands_there(self, anything: Any) -> None:
        pod = {"metadata": anything, "spec": anything}
        opted_in(pod), obstacle(pod), fits(pod, "b", LABELS), copy_of(pod, "new", "b")
