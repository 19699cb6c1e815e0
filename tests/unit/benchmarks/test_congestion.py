from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.congestion import permitted
from tests.lab.waiting import LabError


class CongestionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.settings = Path(self.mktemp())
        self.settings.mkdir()
        (self.settings / "tcp_available_congestion_control").write_text("reno bbr cubic\n")
        self.allowed = self.settings / "tcp_allowed_congestion_control"
        self.allowed.write_text("reno bbr\n")

    def test_it_is_permitted_meanwhile(self) -> None:
        with permitted({"cubic", "reno"}, self.settings):
            self.assertEqual(self.allowed.read_text().split(), ["reno", "bbr", "cubic"])
        self.assertEqual(self.allowed.read_text(), "reno bbr\n")

    def test_it_is_taken_back_after_an_error(self) -> None:
        def fail() -> None:
            with permitted({"cubic", "reno"}, self.settings):
                raise KeyError

        self.assertRaises(KeyError, fail)
        self.assertEqual(self.allowed.read_text(), "reno bbr\n")

    def test_what_is_permitted_already_is_left_alone(self) -> None:
        self.allowed.chmod(0o400)
        with permitted({"bbr"}, self.settings):
            self.assertEqual(self.allowed.read_text(), "reno bbr\n")

    def test_a_kernel_without_it(self) -> None:
        with self.assertRaisesRegex(LabError, "no congestion control 'vegas'; it has reno, bbr, cubic"):
            permitted(["vegas"], self.settings).__enter__()
