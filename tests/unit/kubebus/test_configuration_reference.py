# mypy: disallow-untyped-calls=False
"""docs/configuration.md tells of every option as it is.

``python -m tests.unit.kubebus.test_configuration_reference`` writes its tables anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network
from pathlib import Path

import yaml
from twisted.trial.unittest import SynchronousTestCase

from appengine.tap import options as edge
from kubebus.config import Setting
from kubebus.tap import options as router

CHECKOUT = Path(__file__).parents[3]
REFERENCE = CHECKOUT / "docs" / "configuration.md"
MANIFEST = CHECKOUT / "examples" / "kubernetes" / "router.yaml"


def row(setting: Setting) -> str:
    """The line of the reference for one option."""
    if setting.flag:
        allowed, default = "true, false", "false"
    else:
        allowed = setting.allowed + ("; repeatable" if setting.repeat else "")
        default = "" if setting.default in (None, "", ()) else f"`{setting.default}`"
    doc, _, told = setting.doc.partition(" [default: ")
    return f"| `{setting.name}` | {doc} | {allowed.replace('|', '/')} | {told.rstrip(']') or default} |"


TABLES = (("twistd kubebus", router.Options.settings), ("twistd edgenode", edge.Options.settings))


def with_table(text: str, title: str, settings: Iterable[Setting]) -> str:
    """``text`` with the rows below the heading ``title`` as they should be."""
    head, heading, rest = text.partition(f"## `{title}`\n")
    before, rule, after = rest.partition("|---|---|---|---|\n")
    end = after.index("\n\n") + 1
    return head + heading + before + rule + "".join(f"{row(setting)}\n" for setting in settings) + after[end:]


def current() -> str:
    text = REFERENCE.read_text()
    for title, settings in TABLES:
        text = with_table(text, title, settings)
    return text


def parsed(path: str, toml: str) -> router.Options:
    Path(path).write_text(toml)
    options = router.Options()
    options.parseOptions(["--config", path])
    return options


class ReferenceTests(SynchronousTestCase):
    def test_every_option(self) -> None:
        self.assertEqual(REFERENCE.read_text(), current(), "write it anew: see the top of this module")

    def test_the_example_starts_a_router(self) -> None:
        toml = REFERENCE.read_text().partition("```toml\n")[2].partition("```")[0]
        self.assertEqual(
            parsed(self.mktemp(), toml)["advertise"], (*map(ip_network, ("192.168.10.0/24", "172.20.0.0/16")),)
        )

    def test_the_manifest_starts_a_router(self) -> None:
        documents = yaml.safe_load_all(MANIFEST.read_text())
        (toml,) = [each["data"]["kubebus.toml"] for each in documents if each["kind"] == "ConfigMap"]
        self.assertTrue(parsed(self.mktemp(), toml)["in-cluster"])


if __name__ == "__main__":
    REFERENCE.write_text(current())
