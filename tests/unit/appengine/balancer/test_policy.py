"""What an operator may write."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from appengine.balancer.policy import Place, Policy, PolicyError

PLACE = {"name": "here", "url": "http://127.0.0.1:9000/"}


class PolicyTests(SynchronousTestCase):
    def test_all_of_it(self) -> None:
        far = {"name": "cloud", "url": "http://detector:9000/find", "uplink": True, "in-flight": 6}
        text = json.dumps({"places": [PLACE, far], "deadline": 3, "queue": 5, "least-rate": 0.2})
        policy = Policy.parse(text)
        self.assertEqual(policy.places, (Place("here", PLACE["url"]), Place("cloud", far["url"], 6, True)))  # type: ignore[arg-type]
        self.assertEqual((policy.deadline, policy.queue, policy.least_rate), (3.0, 5, 0.2))

    def test_errors_name_the_field(self) -> None:
        for wrong, named in (
            ("{", "not JSON"),
            ("[]", "places"),
            (json.dumps({"places": []}), "places"),
            (json.dumps({"places": [PLACE, PLACE]}), "each name"),
            (json.dumps({"places": [{**PLACE, "url": "ftp://x"}]}), "places[0].url"),
            (json.dumps({"places": [{**PLACE, "url": "http://x:99999/"}]}), "places[0].url"),
            (json.dumps({"places": [{**PLACE, "in-flight": 0}]}), "places[0].in-flight"),
            (json.dumps({"places": [{**PLACE, "uplink": "yes"}]}), "places[0].uplink"),
            (json.dumps({"places": [{**PLACE, "weight": 1}]}), "weight"),
            (json.dumps({"places": [PLACE], "queue": True}), "queue"),
            (json.dumps({"places": [PLACE], "speed": 1}), "speed"),
            (json.dumps({"places": [PLACE], "deadline": 1, "patience": 2}), "patience"),
        ):
            error = self.assertRaises(PolicyError, Policy.parse, wrong)
            self.assertIn(named, str(error))
