"""Leader election: never two, always one in the end."""

from __future__ import annotations

from twisted.application.service import Service
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from edgectl.kubernetes import KubernetesClient
from edgectl.leader import DURATION_SECONDS, Election, LeadingService
from edgectl.testing_control import FAKE_CONFIG, FakeKubernetes, Refusal, Silence, fake_agent


class ElectionTests(SynchronousTestCase):
    def lease(self, holder: str, renewed: str = "t1", duration: int = 15) -> dict[str, object]:
        return {"spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": duration}}

    def test_anothers_record_may_be_taken_once_it_has_stood_still_for_its_duration(self) -> None:
        election = Election("me")
        election.observe(self.lease("other"), 100.0)
        election.observe(self.lease("other"), 110.0)
        self.assertFalse(election.may_take(114.9))
        self.assertTrue(election.may_take(115.0))

    def test_a_renewed_record_counts_anew(self) -> None:
        election = Election("me")
        election.observe(self.lease("other", "t1"), 100.0)
        election.observe(self.lease("other", "t2"), 110.0)
        self.assertFalse(election.may_take(120.0))

    def test_a_record_that_was_given_away_may_be_taken_at_once(self) -> None:
        election = Election("me")
        election.observe(self.lease(""), 100.0)
        self.assertTrue(election.may_take(100.0))

    def test_transitions_are_counted(self) -> None:
        election = Election("me")
        claim = election.claim({"spec": {"holderIdentity": "other", "leaseTransitions": 4}}, 1.0)
        self.assertEqual(5, claim["spec"]["leaseTransitions"])
        self.assertEqual(5, election.claim(claim, 2.0)["spec"]["leaseTransitions"])
        self.assertEqual(claim["spec"]["acquireTime"], election.claim(claim, 2.0)["spec"]["acquireTime"])


class LeadingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.api = FakeKubernetes()
        self.agents: dict[str, object] = {}
        self.led: dict[str, list[Service]] = {"a": [], "b": []}
        self.a, self.b = self.candidate("a"), self.candidate("b")

    def candidate(self, name: str) -> LeadingService:
        agent = fake_agent(self.api)
        self.agents[name] = agent
        client = KubernetesClient(self.clock, FAKE_CONFIG, agent)

        def make() -> Service:
            service = Service()
            self.led[name].append(service)
            return service

        return LeadingService(self.clock, client, name, "kube-system", "kubebus", make, lambda: 0.5)

    def settle(self, seconds: float) -> None:
        for _ in range(int(seconds * 4)):
            self.clock.advance(0.25)
            for agent in self.agents.values():
                agent.flush()  # type: ignore[attr-defined]
            running = [service for services in self.led.values() for service in services if service.running]
            self.assertLessEqual(len(running), 1, "two lead")

    def test_one_leads_and_the_other_waits(self) -> None:
        self.a.startService()
        self.settle(1)
        self.b.startService()
        self.settle(60)
        self.assertEqual((True, False), (self.a.leading, self.b.leading))
        self.assertEqual("a", self.b.leader)
        self.assertEqual([1, 0], [len(self.led["a"]), len(self.led["b"])])

    def test_a_leader_that_stops_makes_room_at_once(self) -> None:
        self.a.startService()
        self.settle(1)
        self.b.startService()
        self.settle(5)
        self.successResultOf(self.a.stopService())
        self.assertFalse(self.led["a"][0].running)
        self.settle(3)
        self.assertTrue(self.b.leading)

    def test_a_leader_that_dies_is_followed(self) -> None:
        self.a.startService()
        self.settle(1)
        self.b.startService()
        self.settle(5)
        self.a._running.cancel()  # type: ignore[union-attr]
        self.led["a"][0].stopService()
        self.settle(DURATION_SECONDS + 4)
        self.assertTrue(self.b.leading)

    def test_a_leader_that_cannot_renew_steps_down_before_another_may_follow(self) -> None:
        self.a.startService()
        self.settle(1)
        self.b.startService()
        self.settle(5)
        for answer in (Silence(), Refusal(500, "InternalError")):
            leader = self.a if self.a.leading else self.b
            name = "a" if leader is self.a else "b"

            def fail(what: str, answer: Exception = answer) -> None:
                raise answer

            self.api.fail = fail
            self.settle(11)
            self.assertFalse(leader.leading)
            self.assertFalse(self.led[name][-1].running)
            self.api.fail = lambda _: None
            self.settle(DURATION_SECONDS + 5)
            self.assertTrue(self.a.leading or self.b.leading)
