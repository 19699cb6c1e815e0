"""Services on a node: which endpoints, which names. The rules are tried in test_services of the integration tests."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.names import dns, error
from twisted.trial.unittest import SynchronousTestCase

from appengine.services.dns import ClusterResolver
from appengine.services.names import ClusterNames, ServiceLocation
from appengine.services.proxy import RETRY_SECONDS, SETTLE_SECONDS, ServiceProxy
from appengine.services.rules import rules
from appengine.services.table import LocalPod, Place, Substitute, Target, local_pods, services_of
from appengine.takeover.records import Record, Records
from appengine.testing import FixedNetwork, place
from metasync.keys import NodeKeys
from metasync.memory import MemoryStore
from metasync.model import Put
from tests.unit.appengine.takeover.world import FixedMembership

HERE = Place("here", "site")


def service(name: str = "web", **spec: Any) -> dict[str, Any]:
    spec = {"clusterIP": "10.96.0.5", "ports": [{"name": "http", "port": 80}], **spec}
    return {"metadata": {"namespace": "default", "name": name}, "spec": spec}


def endpoint(address: str, node: str = "", zone: str = "", **more: Any) -> dict[str, Any]:
    return {"addresses": [address], "nodeName": node, "zone": zone, "conditions": {"ready": True}, **more}


def endpoints(*items: dict[str, Any], of: str = "web", port: int = 8080, kind: str = "IPv4") -> dict[str, Any]:
    return {
        "metadata": {"namespace": "default", "name": f"{of}-x", "labels": {"kubernetes.io/service-name": of}},
        "addressType": kind,
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": list(items),
    }


NEAR_AND_FAR = endpoints(
    endpoint("10.192.0.2", "here", "site"), endpoint("10.192.1.2", "there", "site"), endpoint("10.192.2.2", "far", "x")
)


class TableTests(SynchronousTestCase):
    def targets(
        self, spec: dict[str, Any], slice: dict[str, Any] = NEAR_AND_FAR, pods: dict[str, LocalPod] | None = None,
        place: Place = HERE,
    ) -> list[str]:  # fmt: skip
        (made,) = services_of([service(**spec)], [slice], pods or {}, place)
        return [f"{target.address}:{target.port}" for target in made.ports[0].targets]

    def test_all_ready_endpoints(self) -> None:
        self.assertEqual(self.targets({}), ["10.192.0.2:8080", "10.192.1.2:8080", "10.192.2.2:8080"])

    def test_only_this_node_where_the_policy_is_local(self) -> None:
        self.assertEqual(self.targets({"internalTrafficPolicy": "Local"}), ["10.192.0.2:8080"])
        self.assertEqual(self.targets({"internalTrafficPolicy": "Local"}, place=Place("other")), [])

    def test_the_site_where_close_ones_are_preferred(self) -> None:
        close = ["10.192.0.2:8080", "10.192.1.2:8080"]
        self.assertEqual(self.targets({"trafficDistribution": "PreferClose"}), close)
        self.assertEqual(self.targets({"trafficDistribution": "PreferSameNode"}), ["10.192.0.2:8080"])
        away = Place("other", "elsewhere")
        self.assertEqual(len(self.targets({"trafficDistribution": "PreferClose"}, place=away)), 3)

    def test_the_node_where_close_ones_are_preferred_and_the_site_is_not_known(self) -> None:
        self.assertEqual(
            self.targets({"trafficDistribution": "PreferClose"}, place=Place("there")), ["10.192.1.2:8080"]
        )

    def test_an_unready_endpoint_gets_no_connections(self) -> None:
        unready = endpoints(endpoint("10.192.0.2"), endpoint("10.192.1.2", conditions={"ready": False}))
        self.assertEqual(self.targets({}, unready), ["10.192.0.2:8080"])

    def test_those_that_end_serve_where_there_is_no_other(self) -> None:
        ending = {"ready": False, "serving": True, "terminating": True}
        self.assertEqual(self.targets({}, endpoints(endpoint("10.192.1.2", conditions=ending))), ["10.192.1.2:8080"])

    def test_what_is_not_said_counts_as_ready(self) -> None:
        self.assertEqual(self.targets({}, endpoints(endpoint("10.192.1.2", conditions={}))), ["10.192.1.2:8080"])

    def test_a_pod_of_this_node_is_as_the_node_says(self) -> None:
        mine = endpoint("10.192.0.2", "here", targetRef={"kind": "Pod", "uid": "u1"})
        slice = endpoints(mine, endpoint("10.192.1.2", "there"))
        moved = {"u1": LocalPod((ip_address("10.192.0.9"),), True)}
        self.assertEqual(self.targets({}, slice, moved), ["10.192.0.9:8080", "10.192.1.2:8080"])
        down = {"u1": LocalPod((ip_address("10.192.0.9"),), False)}
        self.assertEqual(self.targets({}, slice, down), ["10.192.1.2:8080"])

    def test_a_pod_that_was_taken_over_is_where_its_taker_says(self) -> None:
        """Whatever the cloud last saw of it, and whatever its own node says of the original."""
        stale = endpoint("10.192.1.2", "there", "site", targetRef={"uid": "u1"}, conditions={"ready": False})
        taken = {"u1": Substitute("here", (ip_address("10.192.0.7"), ip_address("fd00::7")), True)}
        (made,) = services_of([service()], [endpoints(stale)], {"u1": LocalPod((), False)}, HERE, taken)
        self.assertEqual(made.ports[0].targets, (Target(ip_address("10.192.0.7"), 8080),))
        (made,) = services_of([service(internalTrafficPolicy="Local")], [endpoints(stale)], {}, HERE, taken)
        self.assertEqual(len(made.ports[0].targets), 1)
        for substitute, conditions in (
            (Substitute("here", (ip_address("10.192.0.7"),), False), {"ready": True, "serving": True}),
            (taken["u1"], {"terminating": True, "serving": True}),
        ):
            slice = endpoints({**stale, "conditions": conditions})
            (made,) = services_of([service()], [slice], {}, HERE, {"u1": substitute})
            self.assertEqual(made.ports[0].targets, ())

    def test_local_pods_of_reports(self) -> None:
        status = {
            "podIPs": [{"ip": "10.192.0.2"}, {"ip": "fd00::2"}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        pods = local_pods([{"metadata": {"uid": "u"}, "status": status}])
        self.assertEqual(pods, {"u": LocalPod((ip_address("10.192.0.2"), ip_address("fd00::2")), True)})

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("default"),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["metadata", "spec", "ports", "endpoints", "addresses", "name", "port", "labels"]),
                    inner,
                )
            ),
            max_leaves=20,
        )
    )
    def test_whatever_stands_in_an_object_harms_only_itself(self, anything: Any) -> None:
        odd = (
            anything if isinstance(anything, dict) else {"spec": anything, "endpoints": anything, "metadata": anything}
        )
        made = services_of([odd, service()], [odd, NEAR_AND_FAR], {}, HERE)
        self.assertEqual(len(next(each for each in made if each.name == "web").ports[0].targets), 3)


def names(*services: dict[str, Any], slices: tuple[dict[str, Any], ...] = ()) -> ClusterNames:
    return ClusterNames(services_of(services, slices, {}, HERE), "cluster.local")


class NameTests(SynchronousTestCase):
    def addresses(self, table: ClusterNames, name: str) -> list[str]:
        found = table.find(name)
        assert found is not None, f"{name} is not found"
        return list(map(str, found.addresses))

    def test_a_cluster_ip(self) -> None:
        self.assertEqual(self.addresses(names(service()), "web.default.svc.cluster.local"), ["10.96.0.5"])
        self.assertEqual(self.addresses(names(service()), "WEB.default.SVC.cluster.local."), ["10.96.0.5"])

    def test_its_reverse_and_its_port(self) -> None:
        table = names(service())
        reverse, location = table.find("5.0.96.10.in-addr.arpa"), table.find("_http._tcp.web.default.svc.cluster.local")
        assert reverse is not None and location is not None
        self.assertEqual(list(reverse.pointers), ["web.default.svc.cluster.local"])
        self.assertEqual(list(location.locations), [ServiceLocation(80, "web.default.svc.cluster.local")])

    def test_headless(self) -> None:
        slice = endpoints(endpoint("10.192.0.2", hostname="db-0"), endpoint("10.192.1.2"))
        table = names(service(clusterIP="None"), slices=(slice,))
        self.assertEqual(self.addresses(table, "web.default.svc.cluster.local"), ["10.192.0.2", "10.192.1.2"])
        self.assertEqual(self.addresses(table, "db-0.web.default.svc.cluster.local"), ["10.192.0.2"])
        self.assertEqual(self.addresses(table, "10-192-1-2.web.default.svc.cluster.local"), ["10.192.1.2"])
        location = table.find("_http._tcp.web.default.svc.cluster.local")
        assert location is not None
        self.assertIn(ServiceLocation(8080, "db-0.web.default.svc.cluster.local"), location.locations)

    def test_unready_ones_are_named_only_on_request(self) -> None:
        slice = endpoints(endpoint("10.192.0.2", conditions={"ready": False}))
        self.assertEqual(
            self.addresses(names(service(clusterIP="None"), slices=(slice,)), "web.default.svc.cluster.local"), []
        )
        asked = names(service(clusterIP="None", publishNotReadyAddresses=True), slices=(slice,))
        self.assertEqual(self.addresses(asked, "web.default.svc.cluster.local"), ["10.192.0.2"])

    def test_what_does_not_exist_and_what_only_has_others_below(self) -> None:
        table = names(service())
        self.assertIsNone(table.find("nope.default.svc.cluster.local"))
        self.assertEqual(self.addresses(table, "default.svc.cluster.local"), [])

    def test_pods_by_their_address(self) -> None:
        self.assertEqual(self.addresses(names(), "10-192-0-2.default.pod.cluster.local"), ["10.192.0.2"])
        self.assertEqual(self.addresses(names(), "fd00--2.default.pod.cluster.local"), ["fd00::2"])
        self.assertIsNone(names().find("web.default.pod.cluster.local"))


class ResolverTests(SynchronousTestCase):
    def ask(self, table: ClusterNames, name: str, type: int) -> tuple[list[Any], list[Any], list[Any]]:
        resolver = ClusterResolver(table, table.domain)
        answers, authority, more = self.successResultOf(resolver.query(dns.Query(name.encode(), type)))
        return answers, authority, more

    def test_no_data_is_said_with_an_authority(self) -> None:
        answers, authority, _ = self.ask(names(service()), "web.default.svc.cluster.local", dns.AAAA)
        self.assertEqual((answers, [each.type for each in authority]), ([], [dns.SOA]))

    def test_absence_is_authoritative_but_other_domains_are_not_ours(self) -> None:
        resolver = ClusterResolver(names(service()), "cluster.local")
        ours = resolver.query(dns.Query(b"nope.default.svc.cluster.local", dns.A))
        self.failureResultOf(ours, error.AuthoritativeDomainError)
        other = resolver.query(dns.Query(b"example.com", dns.A))
        self.assertFalse(self.failureResultOf(other, error.DomainError).check(error.AuthoritativeDomainError))

    def test_an_alias_within_is_followed(self) -> None:
        alias = service("alias", type="ExternalName", clusterIP=None, externalName="web.default.svc.cluster.local")
        answers, _, _ = self.ask(names(service(), alias), "alias.default.svc.cluster.local", dns.A)
        self.assertEqual([each.type for each in answers], [dns.CNAME, dns.A])

    def test_an_alias_to_itself_ends(self) -> None:
        alias = service("loop", type="ExternalName", clusterIP=None, externalName="loop.default.svc.cluster.local")
        answers, _, _ = self.ask(names(alias), "loop.default.svc.cluster.local", dns.A)
        self.assertEqual({each.type for each in answers}, {dns.CNAME})


class RuleTests(SynchronousTestCase):
    def test_two_services_of_one_address_do_not_cost_others_their_rules(self) -> None:
        made = services_of([service("a"), service("b")], [], {}, HERE)
        self.assertEqual(rules(made, "kb0", []).count("10.96.0.5 . tcp . 80"), 1)


class ProxyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.keys = NodeKeys("default", "here")
        self.applied: list[str] = []
        self.reflected: list[object] = []
        self.named: list[ClusterNames] = []
        self.fail_with: Exception | None = None
        self.proxy = self.make_proxy()

    def make_proxy(self, **options: Any) -> ServiceProxy:
        return ServiceProxy(
            self.clock,
            self.store,
            self.keys,
            FixedNetwork(place("10.192.0.0/24", node="here")),
            self.apply,
            self.named.append,
            self.reflected.append,
            **options,
        )

    def apply(self, commands: str) -> None:
        if self.fail_with is not None:
            raise self.fail_with
        self.applied.append(commands)

    def put(self, plural: str, value: dict[str, Any]) -> None:
        name = value["metadata"]["name"]
        key = self.keys.desired_object(plural, "default", name)
        self.successResultOf(Deferred.fromCoroutine(self.store.txn([], [Put(key, json.dumps(value).encode())])))
        self.clock.advance(0)

    def settle(self) -> None:
        for _ in range(3):
            self.clock.advance(SETTLE_SECONDS)

    def test_rules_and_names_follow_the_store(self) -> None:
        self.proxy.startService()
        self.settle()
        self.put("services", service())
        self.put("endpointslices", NEAR_AND_FAR)
        self.settle()
        self.assertIn("10.192.1.2 . 8080", self.applied[-1])
        self.assertEqual(self.reflected[-1], ip_address("10.192.0.1"))
        self.assertIsNotNone(self.named[-1].find("web.default.svc.cluster.local"))
        count = len(self.applied)
        self.put("pods", {"metadata": {"name": "p"}})
        self.settle()
        self.assertEqual(len(self.applied), count)
        self.proxy.stopService()
        self.assertIn("delete table", self.applied[-1])

    def test_takeovers_are_followed(self) -> None:
        records = Records(self.clock, self.store, "default", FixedMembership("hall", {"here", "there"}))
        self.proxy = self.make_proxy(takeovers=records)
        records.startService()
        self.proxy.startService()
        self.put("services", service())
        self.put("endpointslices", endpoints(endpoint("10.192.2.2", "far", targetRef={"uid": "u1"})))
        self.settle()
        self.assertIn("to 10.192.2.2:8080", self.applied[-1])
        for node, address in (("stranger", "10.192.2.2"), ("there", "10.192.1.9")):
            records.put("u1", Record("u2", node, (ip_address(address),), True))
            self.settle()
            # A word on one who is no member does not count.
            self.assertIn(f"to {address}:8080", self.applied[-1])
        records.drop("u1")
        self.settle()
        self.assertIn("to 10.192.2.2:8080", self.applied[-1])
        self.proxy.stopService()
        records.stopService()

    def test_rules_that_fail_are_tried_again_and_names_go_on(self) -> None:
        self.fail_with = OSError("no nftables here")
        self.proxy.startService()
        self.put("services", service())
        self.settle()
        self.assertEqual((self.applied, self.proxy.error), ([], "no nftables here"))
        self.assertIsNotNone(self.named[-1].find("web.default.svc.cluster.local"))
        self.fail_with = None
        self.clock.advance(RETRY_SECONDS)
        self.assertIn("10.96.0.5", self.applied[-1])
        self.assertIsNone(self.proxy.error)
