from __future__ import annotations

from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import report
from benchmarks.catalogue import BY_KEY, METRICS, OPENVPN, OURS, TARGETS
from benchmarks.model import Results, Target
from benchmarks.parts import PARTS
from benchmarks.parts.base import Part
from benchmarks.plot import svg
from benchmarks.runner import run
from tests.lab.waiting import LabError


def results() -> Results:
    made = Results()
    for speed in (900.0, 1000.0, 3000.0):
        made.add(OURS, {"stream_1": speed, "ping_idle": 0.4})
    made.add(OPENVPN, {"stream_1": 125.0, "ping_idle": 0.2})
    return made


class ReportTests(SynchronousTestCase):
    def test_the_median_counts(self) -> None:
        self.assertEqual(results().median("stream_1", OURS), 1000)
        self.assertIsNone(results().median("stream_8", OURS))

    def test_the_table_has_ratios(self) -> None:
        text = report.table(results())
        self.assertIn("1 stream", text)
        self.assertIn("125 (8×)", text)

    def test_targets(self) -> None:
        more, less = Target("stream_1", OPENVPN, 7), Target("ping_idle", OPENVPN, 1.6)
        self.assertEqual(report.judge(results(), more), (8.0, True))
        self.assertEqual(report.judge(results(), less), (2.0, False))
        self.assertEqual(report.judge(results(), Target("ping_idle", None, 0.4)), (0.4, True))
        self.assertIsNone(report.judge(results(), Target("stream_1", "raw", 0.25)))
        self.assertIn("NOT REACHED", report.verdicts(results()))

    def test_every_target_is_of_a_metric_and_a_tunnel(self) -> None:
        known = {subject for part in PARTS.values() for subject in part.subjects}
        for target in TARGETS:
            self.assertIn(target.metric, BY_KEY)
            self.assertIn(target.other, {None, *known})
        self.assertEqual(len(BY_KEY), len(METRICS))

    def test_a_later_run_replaces_what_it_measured(self) -> None:
        folder = Path(self.mktemp())
        first = results()
        first.skip("throughput: nebula", "it is not installed")
        first.skip("peers: openvpn-udp", "it is not installed")
        first.notes = {"throughput": "an old note", "profile": "another"}
        report.save(first, folder, quick=True, rounds=1, congestion="cubic")
        again = Results(parts=["throughput"])
        again.add(OURS, {"stream_1": 5.0})
        report.save(again, folder, quick=False, rounds=3, congestion="bbr")
        loaded = report.load(folder)
        self.assertEqual(loaded.samples["stream_1"], {OURS: [5.0]})
        self.assertEqual(loaded.median("ping_idle", OPENVPN), 0.2)
        self.assertEqual(list(loaded.skipped), ["peers: openvpn-udp"])
        self.assertEqual(loaded.notes, {"profile": "another"})
        page = report.page(loaded)
        self.assertIn("1 rows, the first of them “1 stream”: ", page)
        for expected in ("3 rounds; ", "1 rounds, **quick**; ", "is bbr", "is cubic"):
            self.assertIn(expected, page)

    def test_where_the_cpu_goes_has_a_table_of_its_own(self) -> None:
        made = results()
        made.add(OURS, {"profile_hub_python": 40.0, "profile_edge_python": 41.0, "profile_hub_kernel": 38.0})
        self.assertNotIn("python", report.table(made))
        lines = report.profiles(made).splitlines()
        self.assertEqual(lines[1].split(), ["python", "40", "41", "-"])
        self.assertEqual(lines[2].split(), ["kernel", "38", "-", "-"])
        self.assertEqual(report.profiles(results()), "")

    def test_the_page_has_all_of_it(self) -> None:
        made = results()
        made.skip("packets: nebula", "it is not installed\nat all")
        page = report.page(made)
        for expected in ("results.svg", "125 (8×)", "NOT REACHED", "- skipped: packets: nebula: it is not installed\n"):
            self.assertIn(expected, page)

    def test_the_plot_is_an_svg(self) -> None:
        root = ElementTree.fromstring(svg(results()))
        self.assertTrue(root.tag.endswith("svg"))
        self.assertEqual(sum(child.tag.endswith("rect") for child in root), 1 + 4)


class Fake(Part):
    name = "fake"
    what = "nothing"
    subjects: ClassVar[tuple[str, ...]] = ("good", "bad", "absent")
    seconds = (100, 10)
    log: list[str] = []

    def missing(self, subject: str) -> str | None:
        return "it is not installed" if subject == "absent" else None

    def note(self) -> str:
        return "what there is to say"

    def measure(self, subject: str, quick: bool) -> dict[str, float]:
        self.log.append(subject)
        if subject == "bad":
            raise LabError("it does not work")
        if subject == "broken":
            raise ZeroDivisionError("nothing was sent")
        return {"stream_1": 1.0}


class Other(Fake):
    name = "other"
    subjects = ("good", "broken")
    rounds = 1


class RunnerTests(SynchronousTestCase):
    def setUp(self) -> None:
        Fake.log = []
        self.said: list[str] = []

    def test_subjects_are_interleaved_and_failures_are_visible(self) -> None:
        got = run([Fake()], None, 2, True, self.said.append)
        self.assertEqual(Fake.log, ["good", "bad", "bad", "good"])
        self.assertEqual(got.samples, {"stream_1": {"good": [1.0, 1.0]}})
        self.assertEqual(len(got.skipped), 3)
        self.assertTrue(any("SKIPPED absent" in line for line in self.said))
        self.assertTrue(any("FAILED bad" in line for line in self.said))

    def test_only_some(self) -> None:
        run([Fake()], ["good"], 1, True, lambda line: None)
        self.assertEqual(Fake.log, ["good"])

    def test_each_part_is_kept_once_it_is_done(self) -> None:
        kept: list[Results] = []
        got = run([Other(), Fake()], None, 2, False, self.said.append, kept.append)
        self.assertEqual([each.parts for each in kept], [["other"], ["fake"]])
        self.assertEqual(list(kept[0].skipped), ["other: broken, round 1"])
        self.assertEqual(kept[1].notes, {"fake": "what there is to say"})
        self.assertEqual(got.parts, ["other", "fake"])
        self.assertEqual(set(got.notes), {"other", "fake"})
        self.assertIn("other: broken, round 1", got.skipped)

    def test_an_error_that_nobody_thought_of_ends_nothing(self) -> None:
        got = run([Other()], None, 1, False, self.said.append)
        self.assertEqual(got.skipped, {"other: broken, round 1": "ZeroDivisionError: nothing was sent"})
        self.assertTrue(any("Traceback" in line for line in self.said))

    def test_it_says_how_long_it_will_take(self) -> None:
        now = iter(float(at) for at in range(0, 1000, 5))
        run([Fake()], ["good"], 3, True, self.said.append, clock=lambda: next(now))
        self.assertEqual(self.said[0], "0 of 3, about 30 s to go")
        # Once it was measured, what was measured counts: the clock went on by 5 seconds.
        ends = [line.partition("[")[2] for line in self.said if "good:" in line]
        self.assertEqual(
            ends,
            ["5 s; 1 of 3, about 10 s to go]", "5 s; 2 of 3, about 5 s to go]", "5 s; 3 of 3, about 0 s to go]"],
        )
