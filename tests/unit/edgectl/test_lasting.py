"""What is kept for long: equal to what came, and smaller."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from edgectl.lasting import lasting
from edgectl.watch import Reflector

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def pod(number: int) -> bytes:
    container = {"name": "main", "image": "busybox", "imagePullPolicy": "Always", "resources": {}}
    spec = {"nodeName": "edge-1", "containers": [container] * 3, "restartPolicy": "Always", "dnsPolicy": "ClusterFirst"}
    metadata = {"name": f"pod-{number}", "namespace": "default", "uid": f"{number:036}", "resourceVersion": "1"}
    return json.dumps({"metadata": metadata, "spec": spec, "status": {"phase": "Running"}}).encode()


class LastingTests(SynchronousTestCase):
    @given(_JSON)
    def test_equal_to_what_came(self, value: Any) -> None:
        made = lasting(json.loads(json.dumps(value)))
        self.assertEqual(made, value)
        self.assertEqual(json.dumps(made), json.dumps(value))

    def test_what_an_informer_keeps_takes_half_the_memory(self) -> None:
        reflector = Reflector(lambda key, old, new: None, lambda: 0.5)

        def keep() -> object:
            reflector.start()
            reflector.listed({"items": [json.loads(pod(number)) for number in range(300)], "metadata": {}})
            return reflector.items

        plain = _size(lambda: [json.loads(pod(number)) for number in range(300)])
        self.assertLess(_size(keep), 0.6 * plain)


def _size(make: Callable[[], object]) -> int:
    """Bytes that stay with what is made."""
    tracemalloc.start()
    try:
        kept = make()
        now: int = tracemalloc.get_traced_memory()[0]
        del kept
        return now
    finally:
        tracemalloc.stop()
