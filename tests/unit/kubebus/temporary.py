"""A path for a test to use, which is gone after it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase


def temporary(case: SynchronousTestCase) -> Path:
    """A path in a new directory. Nothing is there yet; the directory goes when the test ends."""
    directory = tempfile.mkdtemp()
    case.addCleanup(shutil.rmtree, directory)
    return Path(directory) / "path"
