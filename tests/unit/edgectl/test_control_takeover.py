"""Takeover within a site: what its members are told, and what Kubernetes is shown of what they made of it."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

from edgectl.interfaces import EdgeNode
from edgectl.podsync import MAX_REFUSALS
from edgectl.takeover import CONTRADICTED_SECONDS, SETTLE_SECONDS
from edgectl.testing_control import Refusal, fake_agent
from edgectl.watch import Object
from metasync.keys import TAKEN_OVER_BY, WAITING_FOR_SITE, NodeKeys, SiteKeys, sites_prefix
from metasync.model import KeyRange
from tests.unit.edgectl.control_world import START, ControlTestCase, configmap, pod, running

OPT_IN = {"kubebus.io/takeover": "site"}


def member(
    number: int, site: str | None = "plant", connected: bool = True, since: float = 0.0, **other: Any
) -> EdgeNode:
    subnet = ip_network(f"10.192.{number}.0/24")
    name, address = f"edge{number}", ip_address(f"10.250.0.{number + 1}")
    return EdgeNode(name, (address,), (subnet,), connected, since, site=site, **other)


def opted(name: str = "web", node: str = "edge1", *, uid: str = "uid-web", **spec: Any) -> Object:
    item = pod(name, node, uid, **spec)
    item["metadata"]["annotations"] = dict(OPT_IN)
    return item


class TakeoverCase(ControlTestCase):
    nodes = 3

    def setUp(self) -> None:
        super().setUp()
        for number in range(1, self.nodes + 1):
            self.directory.set(member(number))

    def of_site(self, site: str = "plant") -> dict[str, Any]:
        """What stands under the site's ``desired``, by the rest of the key."""
        return self.below(SiteKeys("default", site).desired)

    def take_over(
        self, number: int, uid: str = "copy", *, original: str = "uid-web", gone: bool = False, **other: Any
    ) -> None:
        """The node with that number reports a copy of ``web``."""
        status = other.pop("status", running(f"10.192.{number}.5"))
        report = {
            "metadata": {"name": "web", "namespace": "default", "uid": uid},
            "status": status,
            "gone": gone,
            "takenOver": {"uid": original, "node": "edge1", **other},
        }
        self.put(NodeKeys("default", f"edge{number}").reported_pod("default", "web", uid), report)
        self.settle()

    def let_go(self, number: int, uid: str = "copy") -> None:
        self.clear(NodeKeys("default", f"edge{number}").reported_pod("default", "web", uid))
        self.settle()

    @property
    def by(self) -> str | None:
        found: str | None = self.pod("web")["metadata"]["annotations"].get(TAKEN_OVER_BY)
        return found

    @property
    def address(self) -> str | None:
        found: str | None = self.pod("web")["status"].get("podIP")
        return found

    @property
    def ready(self) -> str:
        conditions = self.pod("web")["status"].get("conditions") or ()
        return next((str(c["status"]) for c in conditions if c["type"] == "Ready"), "absent")

    def events(self) -> list[tuple[str, str]]:
        found = [(event["reason"], event["message"]) for event in self.api.objects["events"].values()]
        return sorted(found)

    def reasons(self) -> list[str]:
        return [reason for reason, _ in self.events()]


class DownTests(TakeoverCase):
    def test_the_site_is_told_of_pods_that_opt_in_with_what_they_use_and_of_nothing_else(self) -> None:
        self.api.put("configmaps", configmap("settings", a="1"))
        self.api.put("configmaps", configmap("others", a="2"))
        uses = [{"name": "v", "configMap": {"name": "settings"}}]
        self.api.put("pods", opted(volumes=uses))
        self.api.put("pods", pod("plain", volumes=[{"name": "v", "configMap": {"name": "others"}}]))
        self.start()
        self.assertEqual({"pods/default/web", "configmaps/default/settings"}, set(self.of_site()))
        self.assertEqual(self.desired("edge1")["pods/default/web"], self.of_site()["pods/default/web"])
        told = self.of_site()["pods/default/web"]
        self.assertEqual(("uid-web", "edge1"), (told["metadata"]["uid"], told["spec"]["nodeName"]))

    def test_all_of_one_change_is_one_revision(self) -> None:
        self.api.put("configmaps", configmap("settings", a="1"))
        self.api.put("pods", opted(volumes=[{"name": "v", "configMap": {"name": "settings"}}]))
        self.start()
        found = self.run_now(self.store.range(KeyRange.prefix(sites_prefix("default").encode()))).kvs
        self.assertEqual((2, 1), (len(found), len({kv.mod_revision for kv in found})))

    def test_what_says_which_nodes_may_run_it_goes_down_too(self) -> None:
        affinity: Object = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}
        where: Object = {"nodeSelector": {"disk": "ssd"}, "affinity": {"nodeAffinity": affinity, "podAffinity": {}}}
        self.api.put("pods", opted(**where))
        self.api.put("pods", pod("plain", **where))
        self.start()
        told = self.of_site()["pods/default/web"]["spec"]
        self.assertEqual(({"disk": "ssd"}, {"nodeAffinity": affinity}), (told["nodeSelector"], told["affinity"]))
        self.assertNotIn("nodeSelector", self.desired()["pods/default/plain"]["spec"])

    def test_every_member_knows_its_labels_and_the_services_of_what_it_may_run(self) -> None:
        service = {"metadata": {"name": "s", "namespace": "default"}, "spec": {"clusterIP": "10.96.0.1", "ports": []}}
        self.api.put("services", service)
        self.start()
        self.assertEqual({}, self.desired("edge2"))
        self.api.put("pods", opted())
        self.settle()
        labels = self.desired("edge2")["nodes/edge2"]["metadata"]["labels"]
        self.assertEqual("edge2", labels["kubernetes.io/hostname"])
        self.assertIn("services/default/s", self.desired("edge2"))
        self.api.put(
            "nodes",
            {**self.node("edge2"), "metadata": {**self.node("edge2")["metadata"], "labels": {**labels, "disk": "ssd"}}},
        )
        self.settle()
        self.assertEqual("ssd", self.desired("edge2")["nodes/edge2"]["metadata"]["labels"]["disk"])
        self.api.remove("pods", "default/web")
        self.settle()
        self.assertEqual({}, self.desired("edge2"))
        self.assertEqual({}, self.of_site())

    def test_the_annotation_may_come_and_go(self) -> None:
        item = self.api.put("pods", opted())
        self.start()
        plain = {**item, "metadata": {**item["metadata"], "annotations": {}}}
        self.api.put("pods", plain)
        self.settle()
        self.assertEqual({}, self.of_site())
        self.api.put("pods", item)
        self.settle()
        self.assertEqual(["pods/default/web"], list(self.of_site()))

    def test_a_node_gets_its_site_later_changes_it_and_is_removed(self) -> None:
        self.directory.set(member(1, None))
        self.api.put("pods", opted())
        self.start()
        self.assertEqual(({}, {}), (self.of_site(), self.of_site("harbour")))
        self.directory.set(member(1))
        self.settle()
        self.assertEqual(["pods/default/web"], list(self.of_site()))
        self.directory.set(member(1, "harbour"))
        self.settle()
        self.assertEqual(([], ["pods/default/web"]), (list(self.of_site()), list(self.of_site("harbour"))))
        self.directory.remove("edge1")
        self.settle()
        self.assertEqual({}, self.of_site("harbour"))

    def test_of_a_revoked_node_nothing_is_to_be_run_any_more(self) -> None:
        self.api.put("pods", opted())
        self.start()
        self.directory.set(member(1, revoked=True))
        self.settle()
        self.assertEqual({}, self.of_site())

    def test_a_pod_that_has_ended_is_for_nobody_to_run(self) -> None:
        item = self.api.put("pods", opted())
        self.start()
        self.api.put("pods", {**item, "status": {"phase": "Failed", "reason": "Evicted"}})
        self.settle()
        self.assertEqual({}, self.of_site())

    def test_what_cannot_move_says_so_and_stays(self) -> None:
        daemon = opted("daemon", uid="u1")
        daemon["metadata"]["ownerReferences"] = [{"kind": "DaemonSet", "name": "d", "uid": "x"}]
        static = opted("static", uid="u2")
        static["metadata"]["annotations"]["kubernetes.io/config.mirror"] = "x"
        self.api.put("pods", daemon)
        self.api.put("pods", static)
        self.api.put("pods", opted("disk", uid="u3", volumes=[{"name": "v", "hostPath": {"path": "/data"}}]))
        self.api.put("pods", opted("once", uid="u4", restartPolicy="Never"))
        self.directory.set(member(4, None))
        self.api.put("pods", opted("lonely", "edge4", uid="u5"))
        self.start()
        self.assertEqual({}, self.of_site())
        self.assertEqual(["NotTakenOver"] * 5, self.reasons())
        for why in ("DaemonSet", "static", "'v' (hostPath)", "Never", "edge4 has no site"):
            self.assertTrue(any(why in message for _, message in self.events()), why)
        # The nodes judge by the same: who cannot be taken over has not opted in, as far as they know.
        for name in ("daemon", "static", "disk", "once"):
            annotations = self.desired()[f"pods/default/{name}"]["metadata"].get("annotations", {})
            self.assertNotIn("kubebus.io/takeover", annotations)

    def test_tokens_go_down_to_the_site_with_their_pod(self) -> None:
        sources = [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}]
        self.api.put("pods", opted(volumes=[{"name": "v", "projected": {"sources": sources}}]))
        self.start()
        self.assertEqual({"pods/default/web", "secrets/default/kubebus-token-uid-web-0"}, set(self.of_site()))

    def test_a_site_waits_until_the_pods_of_all_its_nodes_have_been_read(self) -> None:
        """A node that is enrolled late had pods before: of these little was kept."""
        self.api.put("pods", opted())
        self.api.put("pods", pod("late", "edge4"))
        self.start()
        self.api.put("configmaps", configmap("settings", a="1"))
        silent: list[str] = []

        def fail(what: str) -> None:
            if what == "GET /api/v1/namespaces/default/pods/late":
                silent.append(what)
                raise Refusal(503, "ServiceUnavailable")

        self.api.fail = fail
        self.directory.set(member(4))
        self.api.put("pods", opted("web2", uid="uid-2"))
        self.settle()
        self.assertEqual((["pods/default/web"], True), (list(self.of_site()), bool(silent)))
        self.api.fail = lambda _: None
        self.settle(10)
        self.assertEqual(["pods/default/web", "pods/default/web2"], list(self.of_site()))

    def test_changes_of_status_cost_the_site_nothing(self) -> None:
        self.api.put("pods", opted())
        self.start()
        looked: list[str] = []
        sync = self.controller._desired_sync
        push = sync.push_site

        async def look(site: str) -> None:
            looked.append(site)
            await push(site)

        self.patch(sync, "push_site", look)
        for number in range(5):
            self.report_pod("web", running(f"10.192.1.{number + 5}"))
            self.settle()
        self.assertEqual([], looked)
        self.api.put("pods", opted("web2", uid="uid-2"))
        self.settle()
        self.assertEqual(["plant"], looked[:1])

    def test_leftovers_in_the_store_go_and_a_settled_site_is_not_written(self) -> None:
        self.put(SiteKeys("default", "plant").desired_object("pods", "default", "old"), {"metadata": {"uid": "x"}})
        self.put(SiteKeys("default", "nowhere").desired_object("pods", "default", "old"), {"metadata": {"uid": "x"}})
        self.api.put("pods", opted())
        self.start()
        self.assertEqual((["pods/default/web"], {}), (list(self.of_site()), self.of_site("nowhere")))
        revision = self.store.revision
        self.settle(5)
        self.assertEqual(revision, self.store.revision)

    def test_a_key_changed_behind_our_back_is_put_right(self) -> None:
        self.api.put("pods", opted())
        self.start()
        self.put(SiteKeys("default", "plant").desired_object("pods", "default", "web"), {"forged": True})
        self.settle()
        self.assertEqual("uid-web", self.of_site()["pods/default/web"]["metadata"]["uid"])


class UpTests(TakeoverCase):
    """edge1 has the pod; it dies, and edge2 takes it over."""

    def setUp(self) -> None:
        super().setUp()
        self.api.put("pods", opted())
        self.start()
        self.report_pod("web", running("10.192.1.5"))
        self.settle()

    def die(self) -> None:
        self.directory.set(member(1, connected=False, since=self.clock.seconds()))
        self.settle()

    def come_back(self) -> None:
        self.directory.set(member(1, since=self.clock.seconds()))
        self.settle()

    def test_the_original_shows_what_the_taker_reports(self) -> None:
        self.die()
        self.take_over(2)
        self.assertEqual(("edge2", "10.192.2.5", "True"), (self.by, self.address, self.ready))
        self.assertEqual(
            ("uid-web", "edge1"), (self.pod("web")["metadata"]["uid"], self.pod("web")["spec"]["nodeName"])
        )
        self.assertEqual("copy", self.pod("web")["metadata"]["annotations"]["kubebus.io/taken-over-as"])
        self.assertEqual([("TakenOver", "node edge2 runs it in place of node edge1, with UID copy")], self.events())
        self.take_over(2, status={**running("10.192.2.6"), "conditions": [{"type": "Ready", "status": "False"}]})
        self.assertEqual(("10.192.2.6", "False"), (self.address, self.ready))
        self.assertEqual(["TakenOver"], self.reasons())

    def test_the_owner_is_back_and_gets_it_back(self) -> None:
        self.die()
        self.take_over(2)
        self.come_back()
        self.report_pod("web", {"phase": "Pending"})  # not yet: it has no lease
        self.settle()
        self.assertEqual(("edge2", "10.192.2.5"), (self.by, self.address))
        self.let_go(2)
        self.assertIsNone(self.by)
        self.report_pod("web", running("10.192.1.9"))
        self.settle()
        self.assertEqual((None, "10.192.1.9", "True"), (self.by, self.address, self.ready))
        self.assertEqual(("GivenBack", "node edge1 runs it again; node edge2 ran it with UID copy"), self.events()[0])
        self.assertEqual(["GivenBack", "TakenOver"], self.reasons())
        self.assertNotIn("kubebus.io/taken-over-as", self.pod("web")["metadata"]["annotations"])

    def test_a_stale_report_of_the_owner_does_not_win(self) -> None:
        self.die()
        self.take_over(2)
        self.settle(SETTLE_SECONDS)
        self.come_back()
        self.report_pod("web", running("10.192.1.7"))  # from before, and late
        self.settle()
        self.assertEqual(("edge2", "10.192.2.5"), (self.by, self.address))
        self.assertEqual(["TakenOver"], self.reasons())

    def test_a_copy_that_says_that_nothing_is_left_counts_no_more(self) -> None:
        self.die()
        self.take_over(2)
        self.come_back()
        self.report_pod("web", running("10.192.1.9"))
        self.take_over(2, gone=True)
        self.assertEqual((None, "10.192.1.9"), (self.by, self.address))

    def test_a_copy_that_was_stopped_is_not_the_end_of_the_pod(self) -> None:
        """Its last report before it is gone: who took that for the pod's would have a ReplicaSet make another."""
        for phase in ("Succeeded", "Failed"):
            self.die()
            self.take_over(2)
            self.take_over(2, status={**running("10.192.2.5"), "phase": phase})
            self.assertEqual(("Running", "False"), (self.pod("web")["status"]["phase"], self.ready))
            self.assertIn("pods/default/web", self.of_site())
            self.come_back()
            self.report_pod("web", running("10.192.1.9"))
            self.settle()
            self.assertEqual((None, "10.192.1.9", "True"), (self.by, self.address, self.ready))
            self.let_go(2)

    def test_an_evicted_copy_is(self) -> None:
        self.die()
        self.take_over(2)
        self.take_over(2, status={"phase": "Failed", "reason": "Evicted"})
        self.assertEqual("Failed", self.pod("web")["status"]["phase"])

    def test_nobody_runs_it_any_more(self) -> None:
        """The taker lost its majority, say, and the owner is dead: what that said last is not true."""
        self.die()
        self.take_over(2)
        self.let_go(2)
        self.assertEqual(("edge2", "False"), (self.by, self.ready))
        self.assertFalse(self.pod("web")["status"]["containerStatuses"][0]["ready"])
        self.assertEqual(["TakenOver"], self.reasons())
        self.settle(30)
        self.assertEqual("False", self.ready)
        self.take_over(3, "another")
        self.assertEqual(("edge3", "10.192.3.5", "True"), (self.by, self.address, self.ready))
        self.assertEqual(["TakenOver", "TakenOver"], self.reasons())

    def test_the_taker_dies_and_a_third_takes_over(self) -> None:
        self.die()
        self.take_over(2)
        self.directory.set(member(2, connected=False, since=self.clock.seconds()))
        self.settle()
        self.assertEqual(("edge2", "True"), (self.by, self.ready))
        self.take_over(3, "another")
        self.assertEqual(("edge3", "10.192.3.5"), (self.by, self.address))
        # The second is back, and its store still says what it said before.
        self.directory.set(member(2, since=self.clock.seconds()))
        self.settle()
        self.assertEqual("edge3", self.by)
        self.let_go(2)
        self.assertEqual("edge3", self.by)

    def test_of_two_who_say_so_the_one_that_is_there_counts(self) -> None:
        self.die()
        self.take_over(3, "another")
        self.take_over(2)
        self.assertEqual("edge2", self.by)
        self.directory.set(member(2, connected=False, since=self.clock.seconds()))
        self.settle()
        self.assertEqual(("edge3", "10.192.3.5"), (self.by, self.address))

    def test_given_back_while_the_taker_is_away(self) -> None:
        """It cannot say that it has stopped; the owner, which runs the pod, can."""
        self.die()
        self.take_over(2)
        self.directory.set(member(2, connected=False, since=self.clock.seconds()))
        self.come_back()
        self.assertEqual("edge2", self.by)
        self.report_pod("web", {"phase": "Pending"})
        self.settle()
        self.assertEqual("edge2", self.by)
        held = {"name": "c", "ready": False, "state": {"waiting": {"reason": WAITING_FOR_SITE}}}
        self.report_pod("web", {**running("10.192.1.9"), "containerStatuses": [held]})
        self.settle()
        self.assertEqual("edge2", self.by)
        self.report_pod("web", running("10.192.1.9"))
        self.settle()
        self.assertEqual((None, "10.192.1.9"), (self.by, self.address))
        # Back too, it may need a moment to say so.
        self.directory.set(member(2, since=self.clock.seconds()))
        self.settle()
        self.assertIsNone(self.by)
        self.settle(SETTLE_SECONDS + 1)
        self.assertEqual("edge2", self.by)  # it has had its moment, and says that it runs the pod
        self.let_go(2)
        self.assertIsNone(self.by)

    def test_a_deletion_is_confirmed_when_both_say_that_nothing_is_left(self) -> None:
        self.die()
        self.take_over(2)
        self.api.delete_pod("default/web")
        self.settle()
        self.assertIn("deletionTimestamp", self.of_site()["pods/default/web"]["metadata"])
        self.take_over(2, gone=True)
        self.assertIn("default/web", self.api.objects["pods"])
        self.come_back()
        self.report_pod("web", {"phase": "Failed"}, gone=True)
        self.settle()
        self.assertNotIn("default/web", self.api.objects["pods"])
        self.assertEqual({}, self.of_site())

    def test_the_owner_alone_cannot_confirm_a_deletion(self) -> None:
        self.die()
        self.take_over(2)
        self.api.delete_pod("default/web")
        self.come_back()
        self.report_pod("web", {"phase": "Failed"}, gone=True)
        self.settle()
        self.assertIn("default/web", self.api.objects["pods"])
        self.directory.set(member(2, connected=False, since=self.clock.seconds()))
        self.settle(SETTLE_SECONDS * 2)
        self.assertIn("default/web", self.api.objects["pods"])
        self.let_go(2)
        self.assertNotIn("default/web", self.api.objects["pods"])

    def test_a_taker_that_is_removed_for_good_is_waited_for_no_more(self) -> None:
        self.die()
        self.take_over(2)
        self.api.delete_pod("default/web")
        self.come_back()
        self.report_pod("web", {"phase": "Failed"}, gone=True)
        self.settle()
        self.directory.remove("edge2")
        self.settle()
        self.assertNotIn("default/web", self.api.objects["pods"])

    def test_deleted_by_force_it_leaves_the_site(self) -> None:
        self.die()
        self.take_over(2)
        self.api.delete_pod("default/web", 0)
        self.settle()
        self.assertEqual({}, self.of_site())
        self.let_go(2)

    def test_opted_out_again_it_shows_the_copy_until_that_is_gone(self) -> None:
        self.die()
        self.take_over(2)
        item = self.pod("web")
        notes = {k: v for k, v in item["metadata"]["annotations"].items() if k not in OPT_IN}
        self.api.put("pods", {**item, "metadata": {**item["metadata"], "annotations": notes}})
        self.settle()
        self.assertEqual({}, self.of_site())
        self.assertEqual("edge2", self.by)

    def test_killed_in_between(self) -> None:
        """Between the patch and all that follows it: the next controller begins with the store and the API alone."""
        self.die()
        killed: list[bool] = []

        def kill(what: str) -> None:
            if what == "PATCH /api/v1/namespaces/default/pods/web/status" and not killed:
                killed.append(True)
                self.clock.callLater(0, self.controller.stopService)

        self.api.fail = kill
        self.take_over(2)
        self.assertEqual([True], killed)
        self.agent = fake_agent(self.api)
        self.start()
        self.assertEqual(("edge2", "10.192.2.5", "True"), (self.by, self.address, self.ready))
        self.writes()
        self.settle(5)
        self.assertEqual([], self.writes())
        # And while it was away the pod was given back.
        self.stop()
        self.come_back()
        self.let_go(2)
        self.report_pod("web", running("10.192.1.9"))
        self.agent = fake_agent(self.api)
        self.start()
        self.assertEqual((None, "10.192.1.9", "True"), (self.by, self.address, self.ready))
        self.assertIn("GivenBack", self.reasons())

    def test_an_address_that_is_not_the_takers_own_is_not_shown(self) -> None:
        self.die()
        self.take_over(2, status=running("10.192.1.5"))
        self.assertIsNone(self.address)

    def test_a_copys_events_show_at_the_original(self) -> None:
        self.die()
        self.take_over(2)
        event = {
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web", "uid": "copy"},
            "reason": "BackOff",
            "message": "back-off restarting",
            "type": "Warning",
            "lastTimestamp": "2023-11-14T22:13:21Z",
        }
        self.put(f"{NodeKeys('default', 'edge2').reported}events/default/web.1".encode(), event)
        self.put(f"{NodeKeys('default', 'edge3').reported}events/default/web.2".encode(), event)
        self.settle()
        self.assertEqual(["BackOff", "TakenOver"], self.reasons())
        shown = self.api.objects["events"]["default/web.1"]
        self.assertEqual("uid-web", shown["involvedObject"]["uid"])


class WhoMaySpeakTests(TakeoverCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory.set(member(4, "harbour"))
        self.api.put("pods", opted())
        self.start()
        self.report_pod("web", running("10.192.1.5"))
        self.directory.set(member(1, connected=False, since=START))
        self.settle()

    def assertUntouched(self, refusals: int) -> None:
        """It is as it was; whose word does not count is told by so many Events."""
        self.assertEqual((None, "10.192.1.5"), (self.by, self.address))
        self.assertEqual(["TakeoverRefused"] * refusals, self.reasons())

    def test_nobody_of_another_site(self) -> None:
        self.take_over(4)
        self.assertUntouched(1)

    def test_nobody_for_a_pod_that_did_not_opt_in(self) -> None:
        item = self.pod("web")
        self.api.put("pods", {**item, "metadata": {**item["metadata"], "annotations": {}}})
        self.settle()
        self.take_over(2)
        self.assertUntouched(1)

    def test_nobody_for_another_pod_owner_or_uid(self) -> None:
        self.take_over(2, original="uid-of-another")
        self.take_over(2, "copy2", node="edge3")
        self.take_over(2, "uid-web")
        self.put(
            NodeKeys("default", "edge2").reported_pod("default", "other-name", "copy3"),
            {"metadata": {}, "status": running("10.192.2.5"), "takenOver": {"uid": "uid-web", "node": "edge1"}},
        )
        self.settle()
        self.assertUntouched(2)

    def test_no_revoked_node(self) -> None:
        self.directory.set(member(2, revoked=True))
        self.take_over(2)
        self.assertUntouched(0)

    def test_rubbish_harms_nothing(self) -> None:
        key = NodeKeys("default", "edge2").reported_pod("default", "web", "copy")
        something: list[Any] = ["x", 1, [], {}, {"uid": 1}, {"uid": ["uid-web"]}, {"uid": "uid-web"}]
        for rubbish in [*something, {"uid": "uid-web", "node": {}}]:
            self.put(key, {"status": running("10.192.2.5"), "takenOver": rubbish})
            self.settle(1)
        self.put(key, {"status": "none", "takenOver": {"uid": "uid-web", "node": "edge1"}})
        self.settle()
        self.assertEqual("10.192.1.5", self.address)
        self.assertEqual([], self.flushLoggedErrors())


class HostileTests(TakeoverCase):
    """edge1 runs the pod, and is there; other nodes say what is not so."""

    nodes = 4

    def setUp(self) -> None:
        super().setUp()
        self.directory.set(member(4, "harbour"))
        self.api.put("pods", opted())
        self.start()
        self.report_pod("web", running("10.192.1.5"))
        self.settle(SETTLE_SECONDS)

    def refused(self) -> list[str]:
        return [message for reason, message in self.events() if reason == "TakeoverRefused"]

    def as_it_was(self) -> None:
        self.assertEqual((None, "10.192.1.5", "True"), (self.by, self.address, self.ready))

    def test_what_no_node_may_take_is_told_once(self) -> None:
        self.api.put("pods", pod("plain", uid="uid-plain"))
        self.api.put("pods", opted("disk", uid="uid-disk", volumes=[{"name": "v", "hostPath": {"path": "/data"}}]))
        self.settle()
        self.take_over(4)
        self.assertIn("edge4 says that it has taken it over", self.refused()[0])
        self.assertIn("not of the site of node edge1", self.refused()[0])
        for round in range(3):
            for name in ("plain", "disk"):
                report = {
                    "metadata": {"name": name, "namespace": "default", "uid": "copy"},
                    "status": {**running("10.192.2.5"), "message": str(round)},
                    "takenOver": {"uid": f"uid-{name}", "node": "edge1"},
                }
                self.put(NodeKeys("default", "edge2").reported_pod("default", name, "copy"), report)
                self.settle()
        self.assertEqual(3, len(self.refused()))
        self.assertTrue(any("no annotation kubebus.io/takeover: site" in each for each in self.refused()))
        self.assertTrue(any("'v' (hostPath) is on its node only" in each for each in self.refused()))
        for name in ("plain", "disk"):
            self.assertNotIn(TAKEN_OVER_BY, self.pod(name)["metadata"].get("annotations", {}))
            self.assertNotIn("podIP", self.pod(name).get("status", {}))
        self.as_it_was()

    def test_what_is_not_the_pods(self) -> None:
        """Its own UID, one that is none, another owner, another name."""
        others: list[tuple[str, Any]] = [("uid-web", {}), ("x" * 65, {}), ("a_b", {}), ("copy", {"node": "edge3"})]
        for uid, other in others:
            self.take_over(2, uid, **other)
            self.as_it_was()
            self.let_go(2, uid)
        report = {"metadata": {"name": "else"}, "status": running("10.192.2.5"), "takenOver": {"uid": "uid-web"}}
        self.put(NodeKeys("default", "edge2").reported_pod("default", "else", "copy"), report)
        self.settle()
        self.as_it_was()
        whys = {each.partition("which does not count: ")[2] for each in self.refused()}
        own, owner = "it reports it without a UID of its own", "it says that it has it from another node than edge1"
        self.assertEqual({own, owner}, whys)

    def test_addresses_of_others(self) -> None:
        """Nobody is led there, neither out of the network nor to another node."""
        self.directory.set(member(1, connected=False, since=self.clock.seconds()))
        for address in ("8.8.8.8", "10.192.3.9"):
            self.take_over(2, status={**running(address), "podIPs": [{"ip": address}]})
            self.assertEqual(("edge2", None), (self.by, self.address))
            self.assertTrue(any(f"address {address} is none of its own" in each for each in self.refused()))
        self.take_over(2)
        self.assertEqual(("edge2", "10.192.2.5"), (self.by, self.address))

    def test_its_own_node_runs_it_all_the_time(self) -> None:
        """So another one that says it does, and is of the site, is not believed for long."""
        self.take_over(2)
        self.settle(CONTRADICTED_SECONDS / 2)
        self.assertEqual(("edge2", []), (self.by, self.refused()))
        self.settle(CONTRADICTED_SECONDS / 2 + 2)
        self.as_it_was()
        (why,) = self.refused()
        self.assertIn("node edge1, to which it is bound, is connected and runs it", why)
        # Saying it again changes nothing.
        self.take_over(2, status=running("10.192.2.6"))
        self.settle(5)
        self.as_it_was()
        self.assertEqual(1, len(self.refused()))
        # When the pod's own node dies the other's word counts: it may be true.
        self.directory.set(member(1, connected=False, since=self.clock.seconds()))
        self.settle()
        self.assertEqual("edge2", self.by)

    def test_a_dead_node_whose_link_is_not_known_to_be(self) -> None:
        """It is connected and runs the pod, as far as anybody knows; whoever took it over is shown meanwhile."""
        self.take_over(2)
        self.settle(80)
        self.assertEqual("edge2", self.by)
        self.directory.set(member(1, connected=False, since=self.clock.seconds()))
        self.settle(CONTRADICTED_SECONDS)
        self.assertEqual(("edge2", "10.192.2.5", []), (self.by, self.address, self.refused()))

    def test_events_are_bounded(self) -> None:
        told: list[str] = []
        self.patch(self.controller._pod_sync, "_warn", lambda pod, reason, message: told.append(reason))
        for number in range(MAX_REFUSALS + 20):
            self.take_over(2, "copy", node=f"other{number}", original="uid-web")
            self.api.put("pods", opted(f"web{number}", uid=f"uid-{number}"))
            report = {"status": {}, "takenOver": {"uid": f"uid-{number}", "node": "edge3"}}
            self.put(NodeKeys("default", "edge2").reported_pod("default", f"web{number}", "copy"), report)
        self.settle(5)
        self.assertEqual(MAX_REFUSALS, len(told))
