"""``kubebus``: the command for people. It talks to the daemon on this host and needs nothing but Python."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from kubebus import __version__
from kubebus.adminclient import AdminClient, AdminError
from kubebus.commands import command_modules
from kubebus.output import Output
from kubebus.sockets import EDGE_SOCKET, ROUTER_SOCKET

_EPILOG = f"""\
The daemons are 'twistd kubebus' (the router, in the cloud) and 'twistd edgenode' (on a device). Without --socket,
{ROUTER_SOCKET} is used if it exists, else {EDGE_SOCKET}.
'kubebus COMMAND --help' tells more. Exit status: 0 done, 1 failed, 2 wrong usage.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kubebus",
        description="Look after the network, the nodes and the metadata of an edge cluster, from one of its hosts.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"kubebus {__version__}")
    parser.add_argument("--socket", metavar="PATH", help="the daemon's administration socket")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in command_modules():
        module.add_commands(commands)
    _accept_common_options_anywhere(parser)
    return parser


def _accept_common_options_anywhere(parser: argparse.ArgumentParser) -> None:
    """Let ``--json`` and ``--socket`` stand after the command too, as people type them."""
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        for child in action.choices.values():
            taken = child._option_string_actions
            if "--json" not in taken:
                child.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
            if "--socket" not in taken:
                child.add_argument("--socket", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
            _accept_common_options_anywhere(child)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    args = make_parser().parse_args(argv)
    try:
        return args.run(args, AdminClient(args.socket), Output(sys.stdout, args.json)) or 0
    except AdminError as error:
        print(f"kubebus: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing may be written at exit either.
        sys.stdout = None
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
