from __future__ import annotations

from pathlib import Path
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
        report.save(results(), folder, quick=True)
        again = Results()
        again.add(OURS, {"stream_1": 5.0})
        report.save(again, folder, quick=True)
        loaded = report.load(folder)
        self.assertEqual(loaded.samples["stream_1"], {OURS: [5.0]})
        self.assertEqual(loaded.median("ping_idle", OPENVPN), 0.2)

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
    subjects = ("good", "bad", "absent")
    log: list[str] = []

    def missing(self, subject: str) -> str | None:
        return "it is not installed" if subject == "absent" else None

    def measure(self, subject: str, quick: bool) -> dict[str, float]:
        self.log.append(subject)
        if subject == "bad":
            raise LabError("it does not work")
        return {"stream_1": 1.0}


class RunnerTests(SynchronousTestCase):
    def test_subjects_are_interleaved_and_failures_are_visible(self) -> None:
        Fake.log = []
        said: list[str] = []
        got = run([Fake()], None, 2, True, said.append)
        self.assertEqual(Fake.log, ["good", "bad", "bad", "good"])
        self.assertEqual(got.samples, {"stream_1": {"good": [1.0, 1.0]}})
        self.assertEqual(len(got.skipped), 3)
        self.assertTrue(any("SKIPPED absent" in line for line in said))
        self.assertTrue(any("FAILED bad" in line for line in said))

    def test_only_some(self) -> None:
        Fake.log = []
        run([Fake()], ["good"], 1, True, lambda line: None)
        self.assertEqual(Fake.log, ["good"])
