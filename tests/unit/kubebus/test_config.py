# mypy: disallow-untyped-calls=False
"""Options from the command line and from a file: the same names, the same rules, messages that help."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from kubebus.config import (
    DURATION,
    Setting,
    SettingsOptions,
    duration,
    host_port,
    integer,
    name,
    network,
    port,
    public_address,
)
from kubebus.joinstring import HostPort
from tests.unit.kubebus.temporary import temporary


class Sample(SettingsOptions):
    settings = (
        Setting("node-name", "the node's name", name, "an RFC 1123 label", "edge"),
        Setting("listen-port", "the public port", port, "1 to 65535", 443),
        Setting("advertise", "a subnet", network, "CIDR", (), repeat=True),
        Setting("public-address", "where we are", host_port, "HOST[:PORT]", (), repeat=True),
        Setting("renew-after", "how long", duration, DURATION, 60.0),
        Setting("state-dir", "where state is kept", Path, "DIRECTORY", Path("/var/lib/x")),
        Setting("standalone", "run an API", flag=True),
    )

    def check(self) -> None:
        if self["standalone"] and self["node-name"] == "alone":
            raise UsageError("not alone")


class CommandLineTests(SynchronousTestCase):
    def parse(self, *args: str) -> Sample:
        options = Sample()
        options.parseOptions(list(args))
        return options

    def fails(self, pattern: str, *args: str) -> None:
        with self.assertRaisesRegex(UsageError, pattern):
            self.parse(*args)

    def test_defaults(self) -> None:
        options = self.parse()
        self.assertEqual(options["node-name"], "edge")
        self.assertEqual(options["listen-port"], 443)
        self.assertEqual(options["advertise"], ())
        self.assertIs(options["standalone"], False)

    def test_values(self) -> None:
        options = self.parse(
            *("--advertise", "10.0.0.0/8", "--advertise=fd00::/8", "--listen-port", "7443", "--standalone"),
            *("--renew-after=15m", "--public-address", "bus.example"),
        )
        self.assertEqual(options["advertise"], (ip_network("10.0.0.0/8"), ip_network("fd00::/8")))
        self.assertEqual(options["listen-port"], 7443)
        self.assertEqual(options["renew-after"], 900.0)
        self.assertEqual(options["public-address"], (HostPort("bus.example", 443),))
        self.assertIs(options["standalone"], True)

    def test_wrong_values_name_themselves(self) -> None:
        self.fails(
            r"--listen-port: listen-port = '70000' is not allowed \(it must be .*\); allowed: 1 to 65535",
            "--listen-port=70000",
        )
        self.fails("--advertise: advertise = '10.0.0.1/8' .*host bits set.*allowed: CIDR", "--advertise", "10.0.0.1/8")
        self.fails("--node-name: node-name = 'Edge_1' .* RFC 1123", "--node-name", "Edge_1")
        self.fails("no-such", "--no-such")

    def test_values_that_do_not_fit_together(self) -> None:
        self.fails("not alone", "--standalone", "--node-name=alone")

    def test_help_shows_what_is_allowed(self) -> None:
        text = " ".join(str(Sample()).split())
        self.assertIn("the public port (1 to 65535) [default: 443]", text)
        self.assertIn("a subnet (CIDR; may be repeated)", text)
        self.assertIn("--config=", text)


class FileTests(SynchronousTestCase):
    def parse(self, text: str, *args: str) -> Sample:
        self.path = temporary(self)
        self.path.write_text(text)
        options = Sample()
        options.parseOptions(["--config", str(self.path), *args])
        return options

    def fails(self, text: str, pattern: str) -> None:
        with self.assertRaisesRegex(UsageError, pattern) as context:
            self.parse(text)
        self.assertIn(str(self.path), str(context.exception))

    def test_values(self) -> None:
        options = self.parse(
            """
            node-name = "cam-7"
            listen-port = 7443
            advertise = ["10.0.0.0/8", "fd00::/8"]
            public-address = "bus.example:1"
            renew-after = "2h"
            standalone = true
            """
        )
        self.assertEqual(options["node-name"], "cam-7")
        self.assertEqual(options["listen-port"], 7443)
        self.assertEqual(options["advertise"], (ip_network("10.0.0.0/8"), ip_network("fd00::/8")))
        self.assertEqual(options["public-address"], (HostPort("bus.example", 1),))
        self.assertEqual(options["renew-after"], 7200.0)
        self.assertIs(options["standalone"], True)

    def test_the_command_line_goes_first(self) -> None:
        options = self.parse('listen-port = 1\nadvertise = ["10.0.0.0/8"]', "--listen-port=2", "--advertise=fd00::/8")
        self.assertEqual(options["listen-port"], 2)
        self.assertEqual(options["advertise"], (ip_network("fd00::/8"),))

    def test_wrong_names_and_values(self) -> None:
        self.fails("a = 1\n", r"line 1: there is no option 'a'; there are: advertise, listen-port")
        self.fails("\n\nlisten_port = 1\n", r"line 3: there is no option 'listen_port'; did you mean 'listen-port'\?")
        self.fails("[standalone]\nx = 1\n", r"line 1: standalone = \{'x': 1\} is not allowed; allowed: true, false")
        self.fails("[listen-port]\nx = 1\n", r"line 1: listen-port may not be a table; allowed: 1 to 65535")
        self.fails('node-name="x"\nlisten-port = "x"\n', r"line 2: listen-port = 'x' .*allowed: 1 to 65535")
        self.fails("listen-port = true\n", "listen-port may not be true or false")
        self.fails("listen-port = [1]\n", "listen-port may not be a list")
        self.fails("listen-port = 2001-01-01\n", "listen-port may not be a date")
        self.fails('advertise = ["10.0.0.0/8", "x"]\n', "line 1: advertise = 'x'")
        self.fails("standalone = 1\n", "allowed: true, false")
        self.fails("listen-port = \n", r"is not TOML: .*line 1")
        self.fails('config = "other"\n', "there is no option 'config'")

    def test_missing_file(self) -> None:
        with self.assertRaisesRegex(UsageError, "/nowhere/x.toml cannot be read: .*No such file"):
            Sample().parseOptions(["--config", "/nowhere/x.toml"])

    def test_file_of_other_bytes(self) -> None:
        path = temporary(self)
        path.write_bytes(b"\xff\xfe")
        with self.assertRaisesRegex(UsageError, f"{path} cannot be read"):
            Sample().parseOptions(["--config", str(path)])


class ParserTests(SynchronousTestCase):
    def test_durations(self) -> None:
        for text, seconds in (("90", 90), ("90s", 90), ("1.5m", 90), ("24h", 86400), ("30d", 2592000)):
            self.assertEqual(duration(text), seconds)
        for text in ("", "-1", "1y", "h", "1 h 2"):
            self.assertRaises(ValueError, duration, text)

    def test_public_addresses(self) -> None:
        for text in ("203.0.113.1", "bus.example", "bus:8443", "2001:db8::1", "[2001:db8::1]:8443", "x-1.example."):
            self.assertEqual(public_address(text), text)
        for text in ("", "bus example", "bü.example", "-x.example", "a..b", "203.0.113", "203.0.113.999", "bus:0"):
            self.assertRaises(ValueError, public_address, text)

    def test_integers(self) -> None:
        self.assertEqual(integer(1, 3)("3"), 3)
        for text in ("0", "4", "x", "1.0"):
            self.assertRaises(ValueError, integer(1, 3), text)
