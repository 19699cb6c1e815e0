"""Service account tokens for pods at the edge."""

from __future__ import annotations

import base64
from typing import Any

from edgectl.testing_control import Refusal, Silence
from tests.unit.edgectl.control_world import ControlTestCase, edge, pod

PATH = "/api/v1/namespaces/default/serviceaccounts/robot/token"


def with_token(name: str, **field: Any) -> dict[str, Any]:
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600, **field}},
        {"configMap": {"name": "kube-root-ca.crt"}},
    ]
    volumes = [{"name": "kube-api-access", "projected": {"sources": sources, "defaultMode": 420}}]
    return pod(name, uid=f"uid-{name}", serviceAccountName="robot", volumes=volumes)


class TokenTests(ControlTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory.set(edge())

    def token(self, name: str = "p") -> str:
        data = self.desired()[f"secrets/default/kubebus-token-uid-{name}-0"]["data"]
        return base64.b64decode(data["token"]).decode()

    def test_a_token_goes_down_with_its_pod_as_a_secret(self) -> None:
        self.start()
        self.api.put("pods", with_token("p"))
        self.settle()
        self.assertEqual("default/robot/uid-p/1", self.token())
        first, second = self.desired()["pods/default/p"]["spec"]["volumes"][0]["projected"]["sources"]
        self.assertEqual(
            {"secret": {"name": "kubebus-token-uid-p-0", "items": [{"key": "token", "path": "token"}]}}, first
        )
        self.assertEqual({"configMap": {"name": "kube-root-ca.crt"}}, second)
        keys = [key for key in self.keys_of("edge1") if key.startswith("desired/")]
        self.assertEqual(2, len(keys))

    def test_it_is_renewed_before_it_expires_and_the_pod_is_not_touched(self) -> None:
        self.api.put("pods", with_token("p"))
        self.start()
        before = self.desired()["pods/default/p"]
        self.settle(30)
        self.assertEqual(1, self.api.tokens)
        self.clock.advance(3600 * 0.8)
        self.settle()
        self.assertEqual("default/robot/uid-p/2", self.token())
        self.assertEqual(before, self.desired()["pods/default/p"])

    def test_a_restarted_controller_asks_only_for_what_is_due(self) -> None:
        self.api.put("pods", with_token("p"))
        self.start()
        self.stop()
        self.start()
        self.settle()
        self.assertEqual(1, self.api.tokens)
        self.clock.advance(3600 * 0.8)
        self.settle()
        self.assertEqual(2, self.api.tokens)

    def test_a_refused_token_does_not_hold_the_pod_up_and_is_asked_for_again(self) -> None:
        def refuse(what: str) -> None:
            if what == f"POST {PATH}":
                raise Refusal(404, "NotFound", 'serviceaccounts "robot" not found')

        self.api.fail = refuse
        self.api.put("pods", with_token("p"))
        self.start()
        self.assertEqual(["pods/default/p"], list(self.desired()))
        event = next(iter(self.api.objects["events"].values()))
        self.assertEqual(("FailedToken", "Warning"), (event["reason"], event["type"]))
        self.assertIn('serviceaccounts "robot" not found', event["message"])
        self.api.fail = lambda _: None
        self.settle(70)
        self.assertEqual("default/robot/uid-p/1", self.token())

    def test_a_running_pod_is_never_taken_away_for_want_of_a_token(self) -> None:
        def refuse(what: str) -> None:
            if what.endswith("/token"):
                raise Refusal(403, "Forbidden")

        self.api.fail = refuse
        self.api.put("pods", with_token("p"))
        self.start()
        self.stop()
        revisions = self.store.revision

        def silent(what: str) -> None:
            if what.endswith("/token"):
                raise Silence

        self.api.fail = silent
        self.start()
        self.settle(30)
        self.assertEqual(revisions, self.store.revision)
        self.assertEqual(["pods/default/p"], list(self.desired()))

    def test_a_token_ends_with_its_pod(self) -> None:
        self.api.put("pods", with_token("p"))
        self.start()
        self.api.remove("pods", "default/p")
        self.settle()
        self.assertEqual({}, self.desired())
        self.clock.advance(36000)
        self.settle()
        self.assertEqual(1, self.api.tokens)

    def test_a_pod_made_again_gets_a_token_of_its_own(self) -> None:
        self.api.put("pods", with_token("p"))
        self.start()
        self.api.remove("pods", "default/p")
        again = with_token("p")
        again["metadata"]["uid"] = "second"
        self.api.put("pods", again)
        self.settle()
        self.assertEqual(["pods/default/p", "secrets/default/kubebus-token-second-0"], sorted(self.desired()))
