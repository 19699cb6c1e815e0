# mypy: disallow-untyped-calls=False
"""docs/configuration.md tells of every option as it is.

``python -m tests.unit.kubebus.test_configuration_reference`` writes its tables anew.
"""

from __future__ import annotations

from collections.abc import Iterable
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


class ReferenceTests(SynchronousTestCase):
    def test_every_option(self) -> None:
        self.assertEqual(REFERENCE.read_text(), current(), "write it anew: see the top of this module")


if __name__ == "__main__":
    REFERENCE.write_text(current())
