# mypy: disallow-untyped-calls=False
"""docs/configuration.md tells of every option as it is."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from appengine.tap import options as edge
from kubebus.config import Setting
from kubebus.tap import options as router

REFERENCE = Path(__file__).parents[3] / "docs" / "configuration.md"


def row(setting: Setting) -> str:
    """The line of the reference for one option."""
    if setting.flag:
        allowed, default = "true, false", "false"
    else:
        allowed = setting.allowed + ("; repeatable" if setting.repeat else "")
        default = "" if setting.default in (None, "", ()) else f"`{setting.default}`"
    doc, _, told = setting.doc.partition(" [default: ")
    return f"| `{setting.name}` | {doc} | {allowed.replace('|', '/')} | {told.rstrip(']') or default} |"


class ReferenceTests(SynchronousTestCase):
    def test_every_option(self) -> None:
        for title, settings in (
            ("twistd kubebus", router.Options.settings),
            ("twistd edgenode", edge.Options.settings),
        ):
            section = REFERENCE.read_text().partition(f"## `{title}`")[2].partition("\n## ")[0]
            lines = [line for line in section.splitlines() if line.startswith("| `")]
            expected = [row(setting) for setting in settings]
            self.assertEqual(lines, expected, f"the table of {title} should be:\n" + "\n".join(expected))
