"""What a new pod gets of its service account, and the Service of the API."""

from __future__ import annotations

from functools import partial
from typing import Any

from edgectl.apiserver.accounts import ISSUER, LONG_SECONDS, AccountTokens, SigningKey
from edgectl.apiserver.admission import MOUNT_PATH, TOKEN_SECONDS
from edgectl.apiserver.errors import ApiError
from edgectl.apiserver.resources import ENDPOINT_SLICE, ENDPOINTS, POD, SERVICE, SERVICE_ACCOUNT
from edgectl.workloads.apiservice import ApiServiceController
from edgectl.workloads.endpoints import SERVICE_NAME
from tests.unit.edgectl.api_world import ApiTestCase, Obj


class TokenVolumeTests(ApiTestCase):
    def account(self, name: str = "default", **members: Any) -> None:
        self.make(SERVICE_ACCOUNT, {"metadata": {"name": name}, **members})

    def pod(self, container: Any = None, **spec: Any) -> Obj:
        containers = [{"name": "c", "image": "x", **(container or {})}]
        made = self.make(POD, {"metadata": {"generateName": "p-"}, "spec": {"containers": containers, **spec}})
        found: Obj = made["spec"]
        return found

    def mounts(self, spec: Obj, kind: str = "containers") -> list[str]:
        return [mount["mountPath"] for one in spec[kind] for mount in one.get("volumeMounts", ())]

    def test_every_container_gets_it(self) -> None:
        self.account()
        spec = self.pod(initContainers=[{"name": "i", "image": "x"}])
        (volume,) = spec["volumes"]
        self.assertRegex(volume["name"], "^kube-api-access-[a-z0-9]{5}$")
        for kind in ("containers", "initContainers"):
            wanted = [{"name": volume["name"], "readOnly": True, "mountPath": MOUNT_PATH}]
            self.assertEqual(wanted, spec[kind][0]["volumeMounts"])
        kinds = [next(iter(source)) for source in volume["projected"]["sources"]]
        self.assertEqual(["serviceAccountToken", "configMap", "downwardAPI"], kinds)

    def test_the_pod_says_no_before_its_account_does(self) -> None:
        self.account(automountServiceAccountToken=False)
        self.assertEqual([], self.mounts(self.pod()))
        self.assertEqual([MOUNT_PATH], self.mounts(self.pod(automountServiceAccountToken=True)))
        self.account("willing")
        spec = self.pod(serviceAccountName="willing", automountServiceAccountToken=False)
        self.assertNotIn("volumes", spec)

    def test_a_mount_of_the_pods_own_is_left_alone(self) -> None:
        self.account()
        own = {"volumeMounts": [{"name": "mine", "mountPath": MOUNT_PATH}]}
        spec = self.pod(own, volumes=[{"name": "mine", "emptyDir": {}}])
        self.assertEqual(["mine"], [volume["name"] for volume in spec["volumes"]])

    def test_a_pod_that_is_copied_gets_one_volume(self) -> None:
        self.account()
        spec = self.pod()
        again = self.make(POD, {"metadata": {"name": "again"}, "spec": spec})["spec"]
        self.assertEqual((spec["volumes"], [MOUNT_PATH]), (again["volumes"], self.mounts(again)))

    def test_an_account_that_is_not_there_is_named(self) -> None:
        self.assertEqual([MOUNT_PATH], self.mounts(self.pod()), "the namespace's own is about to be made")
        error = self.assertRaises(ApiError, partial(self.pod, serviceAccountName="nobody"))
        self.assertEqual((403, "Forbidden"), (error.code, error.reason))
        self.assertIn('serviceaccount "nobody" not found', str(error))

    def test_an_account_brings_its_pull_secrets(self) -> None:
        self.account(imagePullSecrets=[{"name": "registry"}])
        self.assertEqual([{"name": "registry"}], self.pod()["imagePullSecrets"])
        own = [{"name": "mine"}]
        self.assertEqual(own, self.pod(imagePullSecrets=own)["imagePullSecrets"])

    def test_its_token_serves_a_node_that_is_away(self) -> None:
        self.account()
        tokens = AccountTokens(self.done(SigningKey.of_store(self.objects)), self.api)
        self.pod()
        bound = {"kind": "Pod", "apiVersion": "v1", "name": self.all(POD)[0]["metadata"]["name"]}
        spec = {"expirationSeconds": TOKEN_SECONDS, "boundObjectRef": bound}
        status = self.done(tokens.issue("default", "default", {"spec": spec}))["status"]
        other = self.done(tokens.issue("default", "default", {"spec": {**spec, "audiences": ["vault"]}}))["status"]
        self.clock.advance(TOKEN_SECONDS + 1)
        self.assertIsNotNone(tokens.reviewed(status["token"], [ISSUER]))
        self.assertIsNone(tokens.reviewed(other["token"], ["vault"]))
        self.clock.advance(LONG_SECONDS)
        self.assertIsNone(tokens.reviewed(status["token"], [ISSUER]))


class ApiServiceTests(ApiTestCase):
    def start(self, *addresses: str) -> ApiServiceController:
        controller = ApiServiceController(self.clock, self.api, "10.96.0.1", addresses, 6443)
        controller.start()
        self.addCleanup(controller.stop)
        self.settle()
        return controller

    def test_it_leads_to_where_the_api_listens(self) -> None:
        self.start("10.250.0.1")
        spec = self.one(SERVICE, "kubernetes")["spec"]
        self.assertEqual(("10.96.0.1", 443), (spec["clusterIP"], spec["ports"][0]["port"]))
        (subset,) = self.one(ENDPOINTS, "kubernetes")["subsets"]
        self.assertEqual(("10.250.0.1", 6443), (subset["addresses"][0]["ip"], subset["ports"][0]["port"]))
        found = self.one(ENDPOINT_SLICE, "kubernetes")
        self.assertEqual(["10.250.0.1"], found["endpoints"][0]["addresses"])
        self.assertEqual("kubernetes", found["metadata"]["labels"][SERVICE_NAME])

    def test_where_pods_cannot_reach_it_nothing_is_behind_it(self) -> None:
        self.start()
        self.assertEqual([], self.one(ENDPOINT_SLICE, "kubernetes").get("endpoints", []))
        self.assertEqual([], self.one(ENDPOINTS, "kubernetes").get("subsets", []))

    def test_it_comes_again(self) -> None:
        self.start("10.250.0.1")
        self.remove(SERVICE, "kubernetes")
        self.assertEqual("10.96.0.1", self.one(SERVICE, "kubernetes")["spec"]["clusterIP"])

    def test_a_moved_api_is_followed(self) -> None:
        before = self.start("10.250.0.1")
        revision = self.store.revision
        self.settle(60)
        self.assertEqual(revision, self.store.revision, "nothing is written while nothing changes")
        before.stop()
        self.start("10.250.0.7")
        self.assertEqual(["10.250.0.7"], self.one(ENDPOINT_SLICE, "kubernetes")["endpoints"][0]["addresses"])
