"""Engines of one site, in memory: pods move when their node dies, and come back, and never run twice."""

from __future__ import annotations

from ipaddress import ip_address

from twisted.internet.defer import Deferred

from appengine.podspec import PodRef
from appengine.takeover.rank import ranked
from appengine.takeover.records import Record
from appengine.takeover.service import NotPermitted
from appengine.takeover.testing import LENGTH
from metasync.model import Put
from tests.unit.appengine.takeover.world import SiteWorld


class OwnerTests(SiteWorld):
    def test_runs_at_home_with_the_lease(self) -> None:
        pod = self.apply(self.pod())
        self.assertEqual(self.copies("web"), [("a", "uid-web")])
        armed = self.nodes["a"].switch.armed()["uid-web"]
        self.assertGreater(armed.until, self.clock.seconds())
        # The pause container and main, both.
        self.assertEqual(len(armed.containers), 2)
        self.assertEqual(self.reports("a")["default/web/uid-web"]["status"]["phase"], "Running")
        self.assertNotIn("takenOver", self.reports("a")["default/web/uid-web"])
        self.delete(pod)
        self.until(lambda: not self.copies("web"))
        self.settle()
        self.assertEqual(self.site.leases, {})
        self.assertEqual(self.nodes["a"].switch.armed(), {})
        self.assertEqual(self.nodes["a"].leases.claims, {})

    def test_waits_without_a_majority(self) -> None:
        self.site.cut("a")
        self.apply(self.pod())
        self.settle(30)
        # Somebody else may have it: it is away, as far as they see.
        self.assertNotEqual(self.where("web"), "a")
        waiting = self.reports("a")["default/web/uid-web"]["status"]["containerStatuses"][0]["state"]["waiting"]
        self.assertEqual(waiting["reason"], "WaitingForSite")
        self.assertIn("WaitingForSite", self.events("a"))

    def test_what_has_not_opted_in_needs_no_lease(self) -> None:
        self.site.cut("a")
        self.apply(self.pod(opt_in=False))
        self.assertEqual(self.where("web"), "a")
        self.assertEqual(self.nodes["a"].switch.armed(), {})

    def test_what_cannot_move_runs_as_ever(self) -> None:
        self.site.cut("a")
        self.apply(self.pod(volumes=[{"name": "data", "hostPath": {"path": "/tmp"}}]))
        self.assertEqual(self.where("web"), "a")
        self.assertIn("NotTakenOver", self.events("a"))
        self.nodes["a"].power_cut()
        self.settle(60)
        self.assertEqual(self.copies("web"), [])

    def test_without_a_site_pods_run_as_ever(self) -> None:
        node = self.nodes["a"]
        node.membership.change(None)
        self.site.cut("a")
        self.apply(self.pod(), site=False)
        self.assertEqual(self.where("web"), "a")
        self.assertEqual(node.switch.armed(), {})
        node.membership.change("hall")
        self.settle(1)
        self.assertNotEqual(self.where("web"), "a")

    def test_loses_the_majority(self) -> None:
        """Its own containers stop first, by themselves; then another may."""
        self.apply(self.pod())
        self.site.cut("a")
        self.until(lambda: self.where("web") != "a", 1)
        self.assertEqual(self.nodes["a"].switch.lapsed, [])
        self.until(lambda: self.where("web") in ("b", "c"), LENGTH + 1)
        self.site.heal("a")
        self.until(lambda: self.where("web") == "a")
        self.assertEqual(self.copies("web"), [("a", "uid-web")])

    def test_a_stubborn_container_is_killed_in_time(self) -> None:
        self.nodes["a"].runtime.stubborn.add("main")
        self.apply(self.pod(terminationGracePeriodSeconds=3600))
        self.site.cut("a")
        self.settle(5)
        self.assertEqual(self.where("web"), "a")
        self.until(lambda: self.where("web") in ("b", "c"), LENGTH + 1)

    def test_an_engine_that_hangs_is_no_excuse(self) -> None:
        """The container engine does not answer any more: the switch needs none."""
        self.apply(self.pod())
        self.nodes["a"].runtime.cut()
        self.site.cut("a")
        self.until(lambda: self.where("web") in ("b", "c"), LENGTH + 1)
        self.assertEqual(self.nodes["a"].switch.lapsed, ["uid-web"])

    def test_each_start_asks(self) -> None:
        """Whatever else went wrong, no container of the pod starts without the lease."""
        self.apply(self.pod())
        node, ref = self.nodes["a"], PodRef("default", "web", "uid-web")
        self.successResultOf(
            Deferred.fromCoroutine(node.engine.node.start_container(ref, node.runtime.named("main").id))
        )
        self.site.cut("a")
        self.settle(LENGTH + 1)
        again = Deferred.fromCoroutine(node.engine.node.start_container(ref, node.runtime.named("main").id))
        self.failureResultOf(again, NotPermitted)

    def test_nothing_starts_without_a_switch(self) -> None:
        self.nodes["a"].switch.hangs = True
        self.apply(self.pod())
        self.settle(30)
        self.assertEqual(self.copies("web"), [])


class RestartTests(SiteWorld):
    def test_an_agent_that_is_back_in_time_changes_nothing(self) -> None:
        self.apply(self.pod())
        node = self.nodes["a"]
        before = set(node.runtime.containers)
        node.kill()
        self.settle(5)
        node.start()
        self.settle(40)
        self.assertEqual(self.copies("web"), [("a", "uid-web")])
        self.assertEqual(set(node.runtime.containers), before)
        self.assertEqual(node.switch.lapsed, [])
        self.assertEqual(self.reports("a")["default/web/uid-web"]["status"]["containerStatuses"][0]["restartCount"], 0)

    def test_a_killed_agent_has_its_copies_stopped(self) -> None:
        self.apply(self.pod())
        self.nodes["a"].kill()
        self.settle(LENGTH / 2)
        self.assertEqual(self.where("web"), "a")
        self.until(lambda: self.where("web") in ("b", "c"), LENGTH / 2 + 1)
        self.assertEqual(self.nodes["a"].switch.lapsed, ["uid-web"])
        self.nodes["a"].start()
        self.until(lambda: self.where("web") == "a")

    def test_containers_without_a_switch_are_killed_by_the_next_agent(self) -> None:
        """The switch is gone, too: what runs has nobody's leave."""
        self.apply(self.pod())
        node = self.nodes["a"]
        node.kill()
        node.switch.close()
        node.switch = type(node.switch)(self.clock, node.runtime)
        self.watched.clear()
        self.site.leases.clear()
        node.start()
        self.site.cut("a")
        self.settle(1)
        self.assertEqual(node.running("web"), [])

    def test_a_taker_that_is_restarted_goes_on(self) -> None:
        self.apply(self.pod())
        self.nodes["a"].power_cut()
        self.until(lambda: self.where("web") in ("b", "c"))
        [(name, uid)] = self.copies("web")
        taker = self.nodes[name]
        taker.stop()
        self.settle(3)
        # The same agent again, which is granted what it had.
        taker.start()
        self.settle(30)
        self.assertEqual(self.copies("web"), [(name, uid)])
        self.assertEqual(self.records()["uid-web"]["node"], name)
        report = self.reports(name)[f"default/web/{uid}"]
        self.assertEqual(report["takenOver"], {"uid": "uid-web", "node": "a"})
        self.nodes["a"].start()
        self.until(lambda: self.copies("web") == [("a", "uid-web")])
        self.assertEqual(self.records(), {})


class TakerTests(SiteWorld):
    def test_runs_once_elsewhere_and_is_given_back(self) -> None:
        self.apply(self.pod())
        self.apply(self.pod("other", opt_in=False))
        self.nodes["a"].power_cut()
        self.until(lambda: self.where("web") in ("b", "c"))
        self.settle(20)
        [(taker, uid)] = self.copies("web")
        self.assertEqual(taker, ranked("uid-web", ("b", "c"))[0])
        self.assertNotEqual(uid, "uid-web")
        report = self.reports(taker)[f"default/web/{uid}"]
        self.assertEqual(report["takenOver"], {"uid": "uid-web", "node": "a"})
        self.assertEqual(report["metadata"]["uid"], uid)
        record = self.records()["uid-web"]
        self.assertEqual((record["node"], record["uid"], record["ready"]), (taker, uid, True))
        self.assertEqual(record["addresses"], [report["status"]["podIP"]])
        self.assertEqual(self.copies("other"), [])
        worker = self.nodes[taker].engine.find("default", "web")
        assert worker is not None and worker.pod is not None
        self.assertEqual(worker.pod.annotations["kubebus.io/taken-over-uid"], "uid-web")
        self.assertEqual(worker.pod.annotations["kubebus.io/taken-over-from"], "a")
        self.nodes["a"].start()
        self.until(lambda: self.where("web") == "a")
        self.settle(20)
        self.assertEqual(self.copies("web"), [("a", "uid-web")])
        self.assertEqual(self.records(), {})
        self.assertNotIn(f"default/web/{uid}", self.reports(taker))
        self.assertEqual(self.nodes[taker].switch.armed(), {})
        self.assertEqual(self.where("other"), "a")

    def test_spreads(self) -> None:
        for number in range(12):
            self.apply(self.pod(f"web-{number}"))
        self.nodes["a"].power_cut()
        self.settle(30)
        takers = {self.where(f"web-{number}") for number in range(12)}
        self.assertEqual(takers, {"b", "c"})

    def test_a_taker_that_dies_is_followed(self) -> None:
        self.apply(self.pod())
        self.nodes["a"].power_cut()
        self.until(lambda: self.where("web") in ("b", "c"))
        first = self.where("web")
        self.nodes[first].kill()
        last = ({"b", "c"} - {first}).pop()
        self.until(lambda: self.where("web") == last)
        self.until(lambda: self.records()["uid-web"]["ready"])
        self.assertEqual(self.records()["uid-web"]["node"], last)
        # What the first one left behind is not taken up again.
        self.nodes[first].start()
        self.settle(30)
        self.assertEqual(self.where("web"), last)

    def test_goes_only_where_it_may(self) -> None:
        self.label("c", {"camera": "yes"})
        self.apply(self.pod("one", nodeSelector={"camera": "yes"}))
        self.apply(self.pod("two", nodeSelector={"camera": "no"}))
        self.nodes["a"].power_cut()
        self.settle(30)
        self.assertEqual((self.where("one"), self.where("two")), ("c", ""))
        self.label("b", {"camera": "no"})
        self.settle(5)
        self.assertEqual(self.where("two"), "b")

    def test_a_deleted_pod_ends_everywhere(self) -> None:
        pod = self.apply(self.pod())
        self.nodes["a"].power_cut()
        self.until(lambda: self.where("web") in ("b", "c"))
        self.delete(pod)
        self.until(lambda: not self.copies("web"))
        self.settle()
        self.assertEqual((self.records(), self.site.leases), ({}, {}))
        self.assertFalse(any(self.nodes[name].leases.claims for name in "bc"))

    def test_a_terminating_pod_reports_that_nothing_is_left(self) -> None:
        pod = self.apply(self.pod())
        self.nodes["a"].power_cut()
        self.until(lambda: self.where("web") in ("b", "c"))
        [(taker, uid)] = self.copies("web")
        pod["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z", deletionGracePeriodSeconds=5)
        self.apply(pod)
        self.until(lambda: self.reports(taker)[f"default/web/{uid}"]["gone"])
        self.assertEqual(self.copies("web"), [])
        self.assertEqual(self.reports(taker)[f"default/web/{uid}"]["takenOver"], {"uid": "uid-web", "node": "a"})
        self.delete(pod)
        self.assertEqual(self.reports(taker), {})

    def test_a_changed_pod_is_followed(self) -> None:
        pod = self.apply(self.pod())
        self.nodes["a"].power_cut()
        self.until(lambda: self.where("web") in ("b", "c"))
        [(taker, uid)] = self.copies("web")
        pod["spec"]["containers"][0]["args"] = ["new"]
        self.apply(pod)
        self.settle(5)
        self.assertEqual(self.copies("web"), [(taker, uid)])
        runtime = self.nodes[taker].runtime
        self.assertEqual(runtime.configs[runtime.named("main").id].args, ("new",))

    def test_one_that_cannot_take_it_leaves_it_to_others(self) -> None:
        """It has no room; the other one has."""
        first, second = ranked("uid-web", ("b", "c"))
        engine = self.nodes[first].engine
        self.patch(engine, "refusal", lambda pod: ("OutOfcpu", "there is no cpu left"))
        self.apply(self.pod())
        self.nodes["a"].power_cut()
        self.until(lambda: self.where("web") == second)

    def test_config_maps_come_with_it(self) -> None:
        import json

        from metasync.model import Put

        document = {"metadata": {"name": "settings", "namespace": "default"}, "data": {"COLOR": "blue"}}
        for keys in (self.site_keys, self.nodes["a"].keys):
            self.write(Put(keys.desired_object("configmaps", "default", "settings"), json.dumps(document).encode()))
        pod = self.pod()
        pod["spec"]["containers"][0]["envFrom"] = [{"configMapRef": {"name": "settings"}}]
        self.apply(pod)
        self.nodes["a"].power_cut()
        self.until(lambda: self.where("web") in ("b", "c"))
        runtime = self.nodes[self.where("web")].runtime
        self.assertIn("COLOR=blue", runtime.configs[runtime.named("main").id].env)

    def test_everybody_is_told(self) -> None:
        self.apply(self.pod())
        self.nodes["a"].power_cut()
        self.until(lambda: bool(self.records()) and self.records()["uid-web"]["ready"])
        for name in ("b", "c"):
            status = self.nodes[name].takeover.status()
            [pod] = status["pods"]
            self.assertEqual((status["site"], pod["name"], pod["owner"]), ("hall", "web", "a"))
            self.assertEqual(pod["takenOver"]["node"], self.where("web"))

    def test_services_go_by_takeovers_of_what_has_opted_in_only(self) -> None:
        """A member that says to run any pod of the cluster gets none of its traffic."""
        self.write(
            Put(self.site_keys.takeover("uid-bank"), Record("x", "c", (ip_address("10.192.3.9"),), True).encode())
        )
        self.settle()
        self.assertEqual(self.nodes["b"].records.substitutes(), {})
        web = self.apply(self.pod())
        self.apply(self.pod("bank", opt_in=False))
        self.nodes["a"].power_cut()
        self.until(lambda: bool(self.nodes["b"].records.substitutes()))
        self.assertEqual(set(self.nodes["b"].records.substitutes()), {"uid-web"})
        self.delete(web)
        self.assertEqual(self.nodes["b"].records.substitutes(), {})
