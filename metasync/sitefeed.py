"""The feed of a site: pods that its members may take over from each other, from the cloud to each member.

A node has it for the site that the registry says it is in, which the server's hello names. It stands under the
same keys at both ends, so that nobody mistakes one site's for another's; a node that is no longer of a site loses
what it had of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from metasync.feeds import Outlet
from metasync.interfaces import Store
from metasync.keys import SiteKeys, cursor_key, sites_prefix
from metasync.lineage import Lineage
from metasync.model import Delete, KeyRange
from metasync.session import Feeds
from metasync.source import SourceFeed
from metasync.target import TargetFeed

SITE_FEED: Final = "site/"
_SITE_SCOPE: Final = "site."


def site_scope(site: str) -> str:
    """The scope of application data that the nodes of a site share."""
    return f"{_SITE_SCOPE}{site}"


def site_among(scopes: Sequence[str]) -> str | None:
    """The site of a node that shares in these scopes, if it has one."""
    return next((scope.removeprefix(_SITE_SCOPE) for scope in scopes if scope.startswith(_SITE_SCOPE)), None)


def add_site_source(
    feeds: Feeds, network: str, scopes: Sequence[str], store: Store, lineage: Lineage, outlet: Outlet
) -> None:
    """At the cloud. There is no target: nobody at the edge can write it."""
    site = site_among(scopes)
    if site is not None:
        name, prefix = SITE_FEED + site, SiteKeys(network, site).desired.encode()
        feeds.sources[name] = SourceFeed(name, store, prefix, lineage, outlet)


def add_site_target(feeds: Feeds, network: str, node: str, scopes: Sequence[str], store: Store, outlet: Outlet) -> None:
    """At the node."""
    site = site_among(scopes)
    if site is not None:
        name, prefix = SITE_FEED + site, SiteKeys(network, site).desired.encode()
        feeds.targets[name] = TargetFeed(name, store, prefix, cursor_key(network, node, name), outlet)


async def leave_other_sites(store: Store, network: str, node: str, scopes: Sequence[str]) -> None:
    """Remove from a node's store what it had of sites that it is not of, with the cursors; nothing, if it has none."""
    everything = KeyRange.prefix(sites_prefix(network).encode())
    cursors = KeyRange.prefix(cursor_key(network, node, SITE_FEED))
    site = site_among(scopes)
    if site is None:
        ranges = [everything, cursors]
    else:
        mine = KeyRange.prefix(SiteKeys(network, site).prefix.encode())
        cursor = cursor_key(network, node, SITE_FEED + site)
        assert mine.end is not None
        ranges = [
            KeyRange(everything.start, mine.start),
            KeyRange(mine.end, everything.end),
            KeyRange(cursors.start, cursor),
            KeyRange(cursor + b"\0", cursors.end),
        ]
    await store.txn((), [Delete(keys) for keys in ranges])
