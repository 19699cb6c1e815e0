"""The import rule: which package may know of which, read from the sources themselves.

* ``edgectl`` and ``appengine`` may import ``metasync``'s interfaces, model and keys, and the follower, which is written
  against the interfaces alone; nothing else of ours;
* ``metasync`` and ``kubebus`` import no other package of ours;
* only ``kubebus.tap`` and ``appengine.tap*`` compose everything; nobody imports tests;
* inside a package, pure modules and interfaces import no adapter; only tests import a ``testing…`` module;
* no module of the library imports the reactor when it is itself imported.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from twisted.trial import unittest

CHECKOUT = Path(__file__).parents[1]
PACKAGES = ("appengine", "edgectl", "kubebus", "metasync")
SHARED = {"metasync.interfaces", "metasync.model", "metasync.keys", "metasync.following"}
"""What the rest may know of the store."""

MAY_IMPORT = {"appengine": SHARED, "edgectl": SHARED, "kubebus": set[str](), "metasync": set[str]()}
COMPOSERS = ("kubebus.tap", "appengine.tap", "kubebus.cli")

CLOUD_ONLY = ("etcd3", "grpc", "treq", "edgectl")
"""What costs memory at the edge and is of no use there."""


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of our packages: its dotted name and its file."""
    for package in PACKAGES:
        for path in sorted((CHECKOUT / package).rglob("*.py")):
            parts = path.relative_to(CHECKOUT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports_of(name: str, path: Path, *, top_level_only: bool = False) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a module imports (``from a import b`` gives ``a.b``)."""
    tree = ast.parse(path.read_text(), str(path))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    nodes = _top_level(tree) if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                stem = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*stem, base] if base else stem)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _top_level(tree: ast.Module) -> Iterator[ast.AST]:
    """What runs at import: everything but function bodies and what only type checkers read."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        waiting.extend(ast.iter_child_nodes(node))


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def is_composer(name: str) -> bool:
    top, _, rest = name.partition(".")
    return any(within(name, composer) for composer in COMPOSERS) or (top == "appengine" and rest.startswith("tap"))


def is_testing(name: str) -> bool:
    """Whether a module holds helpers for tests: ``testing``, ``testing_network``, …"""
    return any(part == "testing" or part.startswith("testing_") for part in name.split("."))


class ImportRuleTests(unittest.SynchronousTestCase):
    def check(self, broken: list[str]) -> None:
        if broken:
            self.fail("\n".join(broken))

    def test_between_packages(self) -> None:
        broken = []
        for name, path in modules():
            if is_composer(name):
                continue
            own = name.split(".")[0]
            for line, imported in imports_of(name, path):
                top = imported.split(".")[0]
                if top not in PACKAGES or top == own:
                    continue
                if not any(within(imported, allowed) for allowed in MAY_IMPORT[own]):
                    broken.append(f"{path.relative_to(CHECKOUT)}:{line}: {own} must not import {imported}")
        self.check(broken)

    def test_nothing_imports_tests(self) -> None:
        broken = []
        for name, path in modules():
            for line, imported in imports_of(name, path):
                helper = imported.split(".")[0] in PACKAGES and is_testing(imported)
                if within(imported, "tests") or (helper and not is_testing(name)):
                    broken.append(f"{path.relative_to(CHECKOUT)}:{line}: imports {imported}, which is for tests")
        self.check(broken)

    def test_pure_modules_know_no_adapter(self) -> None:
        """What the design calls pure imports no socket, no process, no database, no device."""
        pure = {
            "kubebus": ("frames", "session", "packets", "routes", "queues", "identity", "interfaces"),
            "metasync": ("model", "delta", "cursor", "conflict", "keys", "interfaces"),
            "edgectl": ("workqueue", "translate", "interfaces"),
            "appengine": ("podspec", "lifecycle", "probes", "status", "interfaces"),
        }
        outside = ("socket", "subprocess", "sqlite3", "docker", "pyroute2", "etcd3", "grpc", "treq", "OpenSSL")
        broken = []
        for name, path in modules():
            package, _, module = name.partition(".")
            if module not in pure[package]:
                continue
            for line, imported in imports_of(name, path):
                if any(within(imported, adapter) for adapter in outside):
                    broken.append(f"{path.relative_to(CHECKOUT)}:{line}: {name} is pure and imports {imported}")
        self.check(broken)

    def test_no_reactor_at_import(self) -> None:
        broken = []
        for name, path in modules():
            for line, imported in imports_of(name, path, top_level_only=True):
                if within(imported, "twisted.internet.reactor"):
                    broken.append(f"{path.relative_to(CHECKOUT)}:{line}: pass the reactor instead of importing it")
        self.check(broken)

    def test_plugins_import_nothing_of_ours(self) -> None:
        """``twistd --help`` loads every plugin: the code behind it loads only when chosen."""
        broken = []
        for path in sorted((CHECKOUT / "twistd_plugins").glob("*.py")):
            for line, imported in imports_of(path.stem, path, top_level_only=True):
                if imported.split(".")[0] in PACKAGES:
                    broken.append(f"{path.relative_to(CHECKOUT)}:{line}: imports {imported}")
        self.check(broken)

    def test_plugins_folder_is_no_package(self) -> None:
        self.assertFalse((CHECKOUT / "twistd_plugins/__init__.py").exists(), "it would overwrite Twisted's own")


class ReadingTests(unittest.SynchronousTestCase):
    """The rule is only as good as its reading of the sources."""

    SOURCE = """
from __future__ import annotations
from typing import TYPE_CHECKING
import metasync.sync
from . import sibling
from .. import other
from ..deep.er import thing
if TYPE_CHECKING:
    from twisted.internet import reactor
def late():
    from twisted.internet import reactor
"""

    def read(self, *, top_level_only: bool = False) -> list[str]:
        path = Path(self.mktemp())
        path.write_text(self.SOURCE)
        return [name for _, name in imports_of("package.sub.module", path, top_level_only=top_level_only)]

    def test_all_forms(self) -> None:
        found = self.read()
        for name in ("metasync.sync", "package.sub.sibling", "package.other", "package.deep.er.thing"):
            self.assertIn(name, found)
        self.assertEqual(found.count("twisted.internet.reactor"), 2)

    def test_what_runs_at_import(self) -> None:
        found = self.read(top_level_only=True)
        self.assertIn("metasync.sync", found)
        self.assertNotIn("twisted.internet.reactor", found)

    def test_within(self) -> None:
        self.assertTrue(within("metasync.model.KeyValue", "metasync.model"))
        self.assertFalse(within("metasync.models", "metasync.model"))
        self.assertTrue(is_composer("kubebus.tap.registry"))
        self.assertTrue(is_composer("appengine.tap_network"))
        self.assertFalse(is_composer("kubebus.tape"))


class EdgeImportTests(unittest.SynchronousTestCase):
    def test_edge_loads_nothing_of_the_cloud(self) -> None:
        """Importing all that the edge node is composed of leaves out what only the cloud needs."""
        taps = sorted(path.stem for path in (CHECKOUT / "appengine").glob("tap*") if path.name != "__pycache__")
        if not taps:
            raise unittest.SkipTest("there is no appengine.tap")
        script = f"import sys, {', '.join(f'appengine.{tap}' for tap in taps)}\nprint(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        loaded = [name for name in done.stdout.split() if any(within(name, cloud) for cloud in CLOUD_ONLY)]
        self.assertEqual(loaded, [])
