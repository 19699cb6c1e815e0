"""What the site's nodes share: its scope of application data, as the pods of the campus reach it at their node.

Each node proves namespaces by a secret of its own, so a pod that may run on several nodes has the tokens of all: files
in the folder METADATA_TOKENS that are named as the nodes are.
"""

from __future__ import annotations

import os
from pathlib import Path

from examples.metadata import Metadata

NODES = "nodes/"
"""``nodes/<node>``: what the balancer of a node tells of itself."""
JOURNAL = "journal/"
"""``journal/<UID of the writing pod>/<number>``: the watch kept."""


def site_data() -> Metadata:
    """By SITE, METADATA_ADDRESS, METADATA_TOKENS and NODE_NAME, as the manifest sets them."""
    token = (Path(os.environ["METADATA_TOKENS"]) / os.environ["NODE_NAME"]).read_text().strip()
    return Metadata(os.environ["METADATA_ADDRESS"], f"site.{os.environ['SITE']}", token)
