"""The lean agent: what it keeps out, and that what is kept out is there where it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.trial import unittest

from appengine.lean import LATE, command

CHECKOUT = Path(__file__).parents[3]


def in_another_python(code: str, *options: str) -> str:
    """What the code prints, in a Python that has imported nothing yet."""
    done = subprocess.run(
        [sys.executable, *options, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class LeanTests(unittest.SynchronousTestCase):
    def test_what_the_agent_imports_leaves_the_second_openssl_out(self) -> None:
        loaded = in_another_python(
            "from appengine.lean import slim; slim()\n"
            "import sys, twisted.scripts.twistd, twisted.internet.reactor, appengine.tap.device, appengine.service\n"
            "print(*(name for name, module in sys.modules.items() if module is not None))\n",
            "-OO",
        ).split()
        self.assertIn("OpenSSL.SSL", loaded)
        self.assertIn("appengine.service", loaded)
        for name in (
            "_ssl",
            "_hashlib",
            "service_identity",
            "unittest",
            "http.client",
            "urllib.request",
            "cmd",
            "twisted.web.http",
            "html.entities",
            "lzma",
            "docker",
        ):
            self.assertNotIn(name, loaded)

    def test_what_is_late_is_there_when_it_is_used(self) -> None:
        told = in_another_python(
            "from appengine.lean import slim; slim()\n"
            "import hashlib, hmac, ssl, sys\n"
            "before = '_ssl' in sys.modules\n"
            "from http.cookiejar import CookieJar\n"
            "context = ssl.create_default_context()\n"
            "import ssl as again\n"
            "print(before, isinstance(context, again.SSLContext), CookieJar().__class__.__module__)\n"
            "print(hashlib.sha256(b'').hexdigest()[:8], hmac.new(b'', b'', 'sha256').hexdigest()[:8])\n"
        )
        self.assertEqual(told.split(), ["False", "True", "http.cookiejar", "e3b0c442", "b613679a"])

    def test_what_is_imported_from_what_is_late_works_when_it_is_called(self) -> None:
        told = in_another_python(
            "from appengine.lean import slim; slim()\n"
            "import sys\n"
            "from html import escape\n"
            "from twisted.python.compat import escape as twisteds\n"
            "before = 'html.entities' in sys.modules\n"
            "print(before, escape('<'), twisteds('>', quote=False), 'html.entities' in sys.modules)\n"
            "from html.entities import name2codepoint\n"
            "import html, html.parser, tempfile, zipfile\n"
            "print(html.unescape('&auml;') == chr(name2codepoint['auml']), html.parser.HTMLParser.__name__)\n"
            "with tempfile.TemporaryDirectory() as folder:\n"
            "    from twisted.python.zippath import ZipArchive\n"
            "    with zipfile.ZipFile(folder + '/a.zip', 'w') as made:\n"
            "        made.writestr('x', '')\n"
            "    print(ZipArchive(folder + '/a.zip').listdir())\n"
            "import os; print(os.path.exists(folder))\n"
        )
        self.assertEqual(told.split(), ["False", "&lt;", "&gt;", "True", "True", "HTMLParser", "['x']", "False"])

    def test_a_node_can_join_and_be_probed(self) -> None:
        """Twisted's own endpoints for TLS."""
        told = in_another_python(
            "from appengine.lean import slim; slim()\n"
            "from twisted.internet import reactor\n"
            "from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS\n"
            "from twisted.internet.protocol import Factory, Protocol\n"
            "from kubebus.tlsconfig import StrangerTLS\n"
            "from appengine.httpget import _trusting\n"
            "for creator in (StrangerTLS(), _trusting()):\n"
            "    endpoint = wrapClientTLS(creator, TCP4ClientEndpoint(reactor, '127.0.0.1', 1))\n"
            "    endpoint.connect(Factory.forProtocol(Protocol)).addErrback(lambda why: print(why.type.__name__))\n"
            "reactor.callLater(1, reactor.stop)\n"
            "reactor.run()\n",
            "-OO",
        )
        self.assertEqual(told.split(), ["ConnectionRefusedError"] * 2)

    def test_everything_late_exists(self) -> None:
        for name in LATE:
            in_another_python(f"import {name}")

    def becomes(self, *start: str, **environment: str) -> str:
        """What the program executes when its options are read; nothing, if it stays as it is."""
        script = Path(self.mktemp()).absolute() / "twistd"
        script.parent.mkdir()
        script.write_text(
            "import os, sys\n"
            "def execve(program, arguments, environment):\n"
            "    print(*arguments, environment['MALLOC_ARENA_MAX'], environment.get('KEPT'), flush=True)\n"
            "    os._exit(0)\n"
            "os.execve = execve\n"
            "from appengine.lean import replace_twistd\n"
            "replace_twistd()\n"
        )
        return subprocess.run(
            [sys.executable, *start, str(script), "-n", "edgenode", "--no-pods"],
            env={"PYTHONPATH": str(CHECKOUT), "KEPT": "kept", **environment},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout

    def test_twistd_becomes_lean_with_the_same_arguments(self) -> None:
        self.assertEqual(
            self.becomes().split(),
            [*command(["-n", "edgenode", "--no-pods"]), "1", "kept"],
        )

    def test_it_stays_as_it_is_where_it_is_told_to_or_is_lean_already(self) -> None:
        self.assertEqual(self.becomes(EDGENODE_PLAIN="1"), "")
        self.assertEqual(self.becomes("-OO"), "")
        self.assertEqual(self.becomes("-Wignore"), "")

    def test_it_runs_nothing_but_the_agent(self) -> None:
        done = subprocess.run(
            [*command([]), "web"], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=60
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn("Unknown command: web", done.stdout + done.stderr)

    def test_help_has_the_words_of_the_options(self) -> None:
        done = subprocess.run(
            [*command([]), "edgenode", "--help"], cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60
        )
        self.assertIn("run no pods: network and metadata only", " ".join(done.stdout.split()))
