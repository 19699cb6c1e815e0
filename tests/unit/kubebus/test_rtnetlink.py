from __future__ import annotations

import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class RtnetlinkTests(SynchronousTestCase):
    def test_only_what_is_needed_is_loaded(self) -> None:
        names = run("import sys, kubebus.rtnetlink; print(*sys.modules)").split()
        self.assertIn("pyroute2.iproute.linux", names)
        for name in (
            "pyroute2.ndb",
            "pyroute2.conntrack",
            "pyroute2.nftables",
            "pyroute2.ipdb",
            "unittest",
            "argparse",
        ):
            self.assertNotIn(name, names)

    def test_unittest_is_itself_again(self) -> None:
        code = "import kubebus.rtnetlink\nfrom unittest import TestCase, mock\nprint(TestCase.__module__, mock.Mock)"
        self.assertEqual(run(code), "unittest.case <class 'unittest.mock.Mock'>")

    def test_it_works(self) -> None:
        code = "from kubebus.rtnetlink import IPRoute\nwith IPRoute() as ip: print(ip.link_lookup(ifname='lo'))"
        self.assertEqual(run(code), "[1]")

    def test_errors_are_caught_by_their_name(self) -> None:
        code = (
            "from kubebus.rtnetlink import IPRoute, NetlinkError\n"
            "with IPRoute() as ip:\n try: ip.link('del', index=999999)\n except NetlinkError as e: print(e.code)"
        )
        self.assertIn(run(code), ("1", "19"))

    def test_others_still_get_the_whole_package(self) -> None:
        code = "import kubebus.rtnetlink, pyroute2\nprint(pyroute2.NDB.__name__, pyroute2.IPRoute.__name__)"
        self.assertEqual(run(code), "NDB IPRoute")

    def test_a_package_that_is_there_already_is_used(self) -> None:
        code = "import pyroute2, kubebus.rtnetlink as r\nprint(r.IPRoute is pyroute2.IPRoute)"
        self.assertEqual(run(code), "True")
