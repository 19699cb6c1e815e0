# mypy: disallow-untyped-calls=False
"""``python -m appengine.balancer --policy FILE`` (in an image of its own: ``python -m balancer``).

It serves until SIGTERM. The file is read again whenever it changes.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import Logger, globalLogBeginner, textFileLogObserver

from .policy import Policy, PolicyError
from .rim import Rim

_log = Logger("balancer")
_READ = 1.0
"""Seconds between looks at the policy's file."""


class PolicyFile:
    """A file that a ConfigMap swaps under us."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text = path.read_text()
        self.policy = Policy.parse(self._text)

    def changed(self) -> Policy | None:
        """The policy if it is another now. One that is wrong is told of once, and not followed."""
        try:
            text = self._path.read_text()
        except OSError:
            return None
        if text == self._text:
            return None
        self._text = text
        try:
            self.policy = Policy.parse(text)
        except PolicyError as error:
            _log.error("{path} is not followed: {error}", path=self._path, error=error)
            return None
        return self.policy


def main(reactor: Any) -> int:
    parser = argparse.ArgumentParser(prog="balancer", description="Spread work between near and far workers.")
    parser.add_argument("--policy", type=Path, required=True, help="a JSON file; see docs/balancing.md")
    parser.add_argument("--port", type=int, default=8080, help="the TCP port to listen on (%(default)s)")
    parser.add_argument("--own", action="append", default=[], help="an address of this pod, to be no worker of others")
    options = parser.parse_args()
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)], redirectStandardIO=False)
    try:
        file = PolicyFile(options.policy)
    except (OSError, PolicyError) as error:
        print(f"balancer: {options.policy}: {error}", file=sys.stderr)
        return 1
    own = [each for each in [*options.own, *os.environ.get("OWN_ADDRESSES", "").split(",")] if each]
    rim = Rim(reactor, file.policy, own)

    def look() -> None:
        policy = file.changed()
        if policy is not None:
            _log.info("a changed policy is followed: {places}", places=", ".join(each.name for each in policy.places))
            rim.adopt(policy)

    looking = LoopingCall(look)
    looking.clock = reactor
    looking.start(_READ)
    rim.start()
    reactor.addSystemEventTrigger("before", "shutdown", rim.stop)
    # Where the kernel has no IPv6, IPv4 alone will do.
    endpoint = TCP6ServerEndpoint if Path("/proc/net/if_inet6").exists() else TCP4ServerEndpoint
    endpoint(reactor, options.port).listen(rim.site()).addErrback(_cannot_listen, reactor)
    reactor.run()
    return 0


def _cannot_listen(failure: Any, reactor: Any) -> None:
    _log.error("cannot listen: {why}", why=failure.getErrorMessage())
    reactor.stop()


def run() -> int:
    from twisted.internet import reactor

    return main(reactor)


if __name__ == "__main__":
    sys.exit(run())
