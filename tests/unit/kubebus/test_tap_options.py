# mypy: disallow-untyped-calls=False
"""What ``twistd kubebus`` refuses to guess."""

from __future__ import annotations

from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from appengine.tap.options import Options as EdgeOptions
from kubebus.tap.options import Options


class SecretsTests(SynchronousTestCase):
    """Whose Secrets come to a VM with a public address is said, never assumed."""

    def parse(self, *arguments: str) -> Options:
        options = Options()
        options.parseOptions(["--public-address", "edge.example.com", "--router-name", "r", *arguments])
        return options

    def test_a_real_cluster_needs_a_choice(self) -> None:
        for cluster in (("--kubeconfig", "x"), ("--in-cluster",)):
            with self.subTest(cluster):
                error = self.assertRaises(UsageError, self.parse, *cluster)
                self.assertIn("--namespace NAME", str(error))
                self.assertIn("--all-namespaces", str(error))
                self.assertEqual(
                    ("shop", "web"), self.parse(*cluster, "--namespace=shop", "--namespace=web")["namespace"]
                )
                self.assertEqual((), self.parse(*cluster, "--all-namespaces")["namespace"])

    def test_both_at_once_contradict(self) -> None:
        arguments = ("--kubeconfig", "x", "--namespace", "shop", "--all-namespaces")
        self.assertIn("exclude each other", str(self.assertRaises(UsageError, self.parse, *arguments)))

    def test_standalone_and_no_kubernetes_need_none(self) -> None:
        self.assertTrue(self.parse("--standalone")["standalone"])
        self.assertFalse(self.parse()["all-namespaces"])


class PodCidrTests(SynchronousTestCase):
    def parse(self, *arguments: str) -> Options:
        options = Options()
        options.parseOptions(["--public-address", "edge.example.com", "--router-name", "r", *arguments])
        return options

    def test_adopting_needs_a_cluster_that_allocates_and_its_range(self) -> None:
        cluster = ("--kubeconfig", "x", "--namespace", "shop", "--advertise", "10.244.0.0/16")
        self.assertTrue(self.parse("--adopt-pod-cidr", *cluster)["adopt-pod-cidr"])
        for arguments, why in (
            ((*cluster, "--set-pod-cidr"), "exclude each other"),
            (("--standalone", "--advertise", "10.244.0.0/16"), "needs a real cluster"),
            (cluster[:4], "as --advertise"),
        ):
            with self.subTest(arguments):
                error = self.assertRaises(UsageError, self.parse, "--adopt-pod-cidr", *arguments)
                self.assertIn(why, str(error))


class RedialTests(SynchronousTestCase):
    def parse(self, *arguments: str) -> object:
        options = EdgeOptions()
        options.parseOptions(arguments)
        return options["redial"]

    def test_bounds(self) -> None:
        self.assertEqual([60.0, 1.0, 3600.0], [self.parse(), self.parse("--redial", "1"), self.parse("--redial", "1h")])
        for wrong in ("0.5", "2h", "never"):
            self.assertIn("redial", str(self.assertRaises(UsageError, self.parse, "--redial", wrong)))


class LeaseTests(SynchronousTestCase):
    def parse(self, *arguments: str) -> object:
        options = EdgeOptions()
        options.parseOptions(arguments)
        return options["takeover-lease"]

    def test_bounds(self) -> None:
        """Shorter ones leave no time to stop; longer ones are not reckoned with by the others."""
        self.assertEqual(15.0, self.parse())
        self.assertEqual([6.0, 60.0], [self.parse("--takeover-lease", each) for each in ("6", "1m")])
        for wrong in ("5.9", "61s", "0", "nan", "soon"):
            error = self.assertRaises(UsageError, self.parse, "--takeover-lease", wrong)
            self.assertIn("takeover-lease", str(error))


class CongestionTests(SynchronousTestCase):
    def parse(self, *arguments: str) -> object:
        options = EdgeOptions()
        options.parseOptions(arguments)
        return options["congestion"]

    def test_a_name_or_the_kernels_own(self) -> None:
        self.assertEqual("auto", self.parse())
        self.assertEqual("cubic", self.parse("--congestion", "cubic"))
        self.assertIsNone(self.parse("--congestion", "default"))

    def test_what_is_no_name(self) -> None:
        error = self.assertRaises(UsageError, self.parse, "--congestion", "BBR v2")
        self.assertIn("lower-case", str(error))
