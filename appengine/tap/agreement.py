"""Leases within the site, composed of the roster and the links of the site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from appengine.takeover.agreement import SERVICE, Agreement
from appengine.takeover.timing import LeaseTiming
from kubebus.site import SiteService


def agreement(reactor: Any, site: SiteService, state: Path, timing: LeaseTiming) -> Agreement:
    """Not started yet. A node without pods votes, too.

    :param state: the folder where it keeps by whose votes it goes.
    """
    links, keeper = site.links, site.keeper
    made = Agreement(
        reactor,
        links.identity.name,
        lambda peer: links.site_endpoint(peer, SERVICE),
        state,
        vouched=keeper.history.knows,
        timing=timing,
    )

    def roster_changed() -> None:
        roster = keeper.roster
        if roster is None:
            made.roster(keeper.site)
        else:
            made.roster(keeper.site, roster.revision, [member.name for member in roster.members])

    keeper.watch(roster_changed)
    roster_changed()
    links.watch(made.link)
    links.serve(SERVICE, made.factory())
    return made
