"""Tokens, addresses of services, and accounts, in memory."""

from __future__ import annotations

import base64
import json
from functools import partial
from ipaddress import IPv4Network
from typing import Any

from edgectl.apiserver.accounts import ISSUER, AccountTokens, SigningKey
from edgectl.apiserver.errors import ApiError
from edgectl.apiserver.identity import MASTERS, StaticTokens, User, bearer_user, may
from edgectl.apiserver.options import DeleteOptions
from edgectl.apiserver.resources import CONFIGMAP, ENDPOINT_SLICE, ENDPOINTS, NAMESPACE, POD, SERVICE, SERVICE_ACCOUNT
from edgectl.apiserver.verbs import Api
from edgectl.scheduler import Scheduler
from edgectl.workloads.accounts import AccountController
from edgectl.workloads.endpoints import SERVICE_NAME, EndpointsController
from tests.unit.edgectl.api_world import ApiTestCase, Kubelets, Obj


class TokenTests(ApiTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.tokens = AccountTokens(self.done(SigningKey.of_store(self.objects)), self.api)
        self.make(SERVICE_ACCOUNT, {"metadata": {"name": "robot"}})

    def issue(self, **spec: Any) -> str:
        answer = self.done(self.tokens.issue("default", "robot", {"spec": spec}))
        return str(answer["status"]["token"])

    def test_it_tells_whose_it_is(self) -> None:
        user = self.tokens.user(self.issue())
        assert user is not None
        self.assertEqual(user.name, "system:serviceaccount:default:robot")
        self.assertIn("system:serviceaccounts:default", user.groups)

    def test_it_ends(self) -> None:
        token = self.issue(expirationSeconds=600)
        self.clock.advance(599)
        self.assertIsNotNone(self.tokens.user(token))
        self.clock.advance(2)
        self.assertIsNone(self.tokens.user(token))

    def test_one_for_another_audience_is_not_for_the_api(self) -> None:
        token = self.issue(audiences=["vault"])
        self.assertIsNone(self.tokens.user(token))
        self.assertIsNotNone(self.tokens.reviewed(token, ["vault"]))

    def test_it_dies_with_its_account(self) -> None:
        token = self.issue()
        self.remove(SERVICE_ACCOUNT, "robot")
        self.assertIsNone(self.tokens.user(token))
        self.make(SERVICE_ACCOUNT, {"metadata": {"name": "robot"}})
        self.assertIsNone(self.tokens.user(token))

    def test_it_dies_with_the_pod_it_is_bound_to(self) -> None:
        self.make(POD, {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x"}]}})
        token = self.issue(boundObjectRef={"kind": "Pod", "apiVersion": "v1", "name": "p"})
        self.assertIsNotNone(self.tokens.user(token))
        self.remove(POD, "p")
        self.assertIsNone(self.tokens.user(token))

    def test_a_changed_or_unsigned_token_is_nobodys(self) -> None:
        header, claims, signature = self.issue().split(".")
        other = json.loads(base64.urlsafe_b64decode(claims + "=="))
        other["sub"] = "system:serviceaccount:kube-system:admin"
        forged = base64.urlsafe_b64encode(json.dumps(other).encode()).rstrip(b"=").decode()
        none = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
        for token in (
            f"{header}.{forged}.{signature}",
            f"{none}.{claims}.",
            f"{none}.{claims}.{signature}",
            f"{header}.{claims}.{signature[:-4]}AAAA",
            "",
            "a.b.c",
            "....",
            "x" * 100_000,
            f"{header}.é.{signature}",
        ):
            self.assertIsNone(self.tokens.user(token), token[:80])

    def test_all_servers_on_a_store_share_the_key(self) -> None:
        again = AccountTokens(self.done(SigningKey.of_store(self.objects)), self.api)
        self.assertIsNotNone(again.user(self.issue()))

    def test_the_issuer_is_the_default_audience(self) -> None:
        answer = self.done(self.tokens.issue("default", "robot", {}))
        self.assertEqual(answer["spec"]["audiences"], [ISSUER])


class IdentityTests(ApiTestCase):
    def test_a_bearer_token_must_be_whole(self) -> None:
        known = StaticTokens({"secret": User("a")})
        for header in (None, "", "secret", "Basic secret", "Bearer ", "Bearer secre", "Bearer secret2"):
            self.assertIsNone(bearer_user(header, [known]), header)
        self.assertEqual(bearer_user("bearer secret", [known]), User("a"))

    def test_only_masters_go_past_discovery(self) -> None:
        guest, master = User("guest"), User("boss", (MASTERS,))
        for path, fine in (
            (["version"], True),
            (["api", "v1"], True),
            (["apis", "apps", "v1"], True),
            (["openapi", "v3", "api", "v1"], True),
            (["api", "v1", "pods"], False),
            (["apis", "apps", "v1", "deployments"], False),
        ):
            self.assertEqual(may(guest, "get", path), fine, path)
            self.assertTrue(may(master, "delete", path))
            self.assertFalse(may(guest, "create", path))


class ServiceTests(ApiTestCase):
    controllers = (Scheduler, EndpointsController, AccountController)

    def service(self, name: str = "web", **spec: Any) -> Obj:
        ports = [{"port": 80, "targetPort": "http"}]
        return self.make(
            SERVICE, {"metadata": {"name": name}, "spec": {"selector": {"app": "web"}, "ports": ports, **spec}}
        )

    def pods(self, *names: str, image: str = "x") -> None:
        port = {"name": "http", "containerPort": 8080}
        for name in names:
            container = {"name": "c", "image": image, "ports": [port]}
            self.make(POD, {"metadata": {"name": name, "labels": {"app": "web"}}, "spec": {"containers": [container]}})

    def addresses(self) -> list[str]:
        return [
            one["ip"] for part in self.one(ENDPOINTS, "web").get("subsets", ()) for one in part.get("addresses", ())
        ]

    def test_ready_pods_are_behind_a_service(self) -> None:
        self.add_node("edge-a", **{"topology.kubernetes.io/zone": "north"})
        kubelets = Kubelets(self.api)
        kubelets.broken = {"broken"}
        self.service()
        self.pods("a", "b")
        self.pods("c", image="broken")
        self.assertEqual(self.addresses(), ["10.192.0.1", "10.192.0.2"])
        (subset,) = self.one(ENDPOINTS, "web")["subsets"]
        self.assertEqual(subset["ports"], [{"port": 8080, "protocol": "TCP"}])
        self.assertEqual([one["ip"] for one in subset["notReadyAddresses"]], ["10.192.0.3"])
        (slice_,) = self.all(ENDPOINT_SLICE)
        self.assertEqual(slice_["metadata"]["labels"][SERVICE_NAME], "web")
        ready = {one["addresses"][0]: one["conditions"]["ready"] for one in slice_["endpoints"]}
        self.assertEqual(ready, {"10.192.0.1": True, "10.192.0.2": True, "10.192.0.3": False})
        self.assertEqual({(one["nodeName"], one["zone"]) for one in slice_["endpoints"]}, {("edge-a", "north")})

    def test_a_pod_that_goes_leaves_it(self) -> None:
        self.add_node("edge-a")
        Kubelets(self.api)
        self.service()
        self.pods("a", "b")
        self.remove(POD, "a")
        self.assertEqual(self.addresses(), ["10.192.0.2"])
        self.assertEqual(len(self.all(ENDPOINT_SLICE)[0]["endpoints"]), 1)

    def test_a_pod_that_is_ending_still_serves_in_the_slice_only(self) -> None:
        self.add_node("edge-a")
        kubelets = Kubelets(self.api)
        self.service()
        self.pods("a")
        kubelets.silent = {"edge-a"}
        self.remove(POD, "a")
        self.assertEqual(self.addresses(), [])
        (endpoint,) = self.all(ENDPOINT_SLICE)[0]["endpoints"]
        self.assertEqual(endpoint["conditions"], {"ready": False, "serving": True, "terminating": True})

    def test_many_pods_make_several_slices(self) -> None:
        self.service(publishNotReadyAddresses=True)
        container = {"name": "c", "image": "x", "ports": [{"name": "http", "containerPort": 8080}]}
        for number in range(101):
            name, status = f"p{number:03}", {"phase": "Running", "podIP": f"10.192.1.{number}"}
            pod = {
                "metadata": {"name": name, "labels": {"app": "web"}},
                "spec": {"containers": [container], "nodeName": "n"},
            }
            self.done(self.api.create(POD, "default", pod))
            self.done(self.api.rewrite(POD, "default", name, partial(_with_status, status)))
        self.settle()
        self.assertEqual(sorted(len(one["endpoints"]) for one in self.all(ENDPOINT_SLICE)), [1, 100])

    def test_the_last_address_is_given_and_then_none(self) -> None:
        api = Api(self.clock, self.objects, self.cache, IPv4Network("10.99.0.0/29"))
        spec = {"ports": [{"port": 80}]}

        def create(name: str) -> Obj:
            return self.done(api.create(SERVICE, "default", {"metadata": {"name": name}, "spec": spec}))

        given = {create(f"s{number}")["spec"]["clusterIP"] for number in range(5)}
        self.assertEqual(given, {f"10.99.0.{number}" for number in range(2, 7)})
        with self.assertRaises(ApiError) as refused:
            create("more")
        self.assertIn("no free address", str(refused.exception))
        self.done(api.delete(SERVICE, "default", "s3", DeleteOptions()))
        self.assertIn(create("more")["spec"]["clusterIP"], given)

    def test_each_namespace_has_its_default_account(self) -> None:
        self.make(NAMESPACE, {"metadata": {"name": "shop"}}, "")
        self.assertEqual([one["metadata"]["name"] for one in self.all(SERVICE_ACCOUNT, "shop")], ["default"])
        self.remove(SERVICE_ACCOUNT, "default", "shop")
        self.assertEqual(len(self.all(SERVICE_ACCOUNT, "shop")), 1)

    def test_each_namespace_knows_the_ca(self) -> None:
        controller = AccountController(self.clock, self.api, b"PEM")
        controller.start()
        self.addCleanup(controller.stop)
        self.settle()
        self.assertEqual(self.one(CONFIGMAP, "kube-root-ca.crt")["data"], {"ca.crt": "PEM"})


def _with_status(status: Obj, obj: Obj) -> Obj:
    return {**obj, "status": status}
