# mypy: disallow-untyped-calls=False
"""Options of the daemons: from the command line, and from a TOML file with the same names.

A wrong name or value names itself, where it stands (the option, or file and line), and what is allowed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path
from typing import Any, ClassVar

from twisted.python.usage import Options, UsageError

from kubebus.identity import InvalidIdentity, check_name
from kubebus.interfaces import IPAddress, IPNetwork
from kubebus.joinstring import HostPort

_SHOWN = 40
_DNS_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Setting:
    """One option.

    :ivar name: as on the command line (``--name``) and in the file.
    :ivar doc: one line for people.
    :ivar parse: makes the value from its text, or raises ``ValueError``.
    :ivar allowed: what is allowed, in words; shown with every wrong value and in the help.
    :ivar default: the value (not the text) if the option is not given.
    :ivar repeat: the option may be given several times, in the file as a list; its value is a tuple.
    :ivar flag: the option has no value on the command line, and is true or false in the file.
    """

    name: str
    doc: str
    parse: Callable[[str], Any] = str
    allowed: str = "any text"
    default: Any = None
    repeat: bool = False
    flag: bool = False

    def read(self, text: str, where: str) -> Any:
        """:raises UsageError: if ``text`` is not allowed."""
        try:
            return self.parse(text)
        except ValueError as error:
            detail = str(error)
            reason = f" ({detail})" if detail and self.parse is not str else ""
            # Cut short: a mistyped join string is still a secret.
            shown = repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
            raise UsageError(
                f"{where}: {self.name} = {shown} is not allowed{reason}; allowed: {self.allowed}"
            ) from error


class SettingsOptions(Options):
    """Options made from :attr:`settings`, for a ``twistd`` plugin. After parsing, every name has its value.

    What is given on the command line goes before the file, and the file before the default. Subclasses check
    what depends on several values in :meth:`check`.
    """

    settings: ClassVar[Sequence[Setting]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        known = [*cls.settings, CONFIG]
        cls.optFlags = [[s.name, None, s.doc] for s in known if s.flag]  # type: ignore[attr-defined]
        cls.optParameters = [  # type: ignore[attr-defined]
            [s.name, None, None, _help(s)] for s in known if not s.flag and not s.repeat
        ]
        for setting in known:
            if setting.repeat:
                setattr(cls, f"opt_{setting.name.replace('-', '_')}", _collector(setting))

    def __init__(self) -> None:
        self._given: dict[str, list[str]] = {}
        super().__init__()

    def postOptions(self) -> None:
        """Put every value in its place; called by ``usage.Options`` after parsing.

        :raises UsageError: on anything wrong.
        """
        path = self["config"]
        filed = {} if path is None else read_file(Path(path), self.settings)
        for setting in self.settings:
            self[setting.name] = self._value(setting, filed)
        self.check()

    def check(self) -> None:
        """Look at values together; raise ``UsageError`` if they do not fit."""

    def _value(self, setting: Setting, filed: Mapping[str, Any]) -> Any:
        where = f"--{setting.name}"
        if setting.flag:
            return bool(self[setting.name]) or filed.get(setting.name, bool(setting.default))
        if setting.repeat:
            given = self._given.get(setting.name)
            if given is not None:
                return tuple(setting.read(text, where) for text in given)
        elif self[setting.name] is not None:
            return setting.read(self[setting.name], where)
        return filed.get(setting.name, setting.default)


CONFIG = Setting("config", "a TOML file with any of these options, by the same names", allowed="FILE")


def _help(setting: Setting) -> str:
    default = "" if setting.default in (None, (), "") else f" [default: {_shown(setting.default)}]"
    repeat = "; may be repeated" if setting.repeat else ""
    return f"{setting.doc} ({setting.allowed}{repeat}){default}"


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _collector(setting: Setting) -> Callable[[SettingsOptions, str], None]:
    def collect(options: SettingsOptions, value: str) -> None:
        options._given.setdefault(setting.name, []).append(value)

    collect.__doc__ = _help(setting)
    return collect


def read_file(path: Path, settings: Iterable[Setting]) -> dict[str, Any]:
    """The values in a TOML file.

    :raises UsageError: if it cannot be read, or on anything in it that is not allowed.
    """
    try:
        text = path.read_text()
        table = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    known = {setting.name: setting for setting in settings}
    values = {}
    for name, value in table.items():
        where = f"{path}, line {_line(text, name)}"
        if name not in known:
            raise UsageError(f"{where}: there is no option {name!r}{_suggestion(name, known)}")
        values[name] = _from_toml(known[name], value, where)
    return values


def _from_toml(setting: Setting, value: object, where: str) -> Any:
    if setting.flag:
        if not isinstance(value, bool):
            raise UsageError(f"{where}: {setting.name} = {value!r} is not allowed; allowed: true, false")
        return value
    if setting.repeat:
        items = value if isinstance(value, list) else [value]
        return tuple(setting.read(_scalar(setting, item, where), where) for item in items)
    return setting.read(_scalar(setting, value, where), where)


def _scalar(setting: Setting, value: object, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        kind = {bool: "true or false", list: "a list", dict: "a table"}.get(type(value), "a date or time")
        raise UsageError(f"{where}: {setting.name} may not be {kind}; allowed: {setting.allowed}")
    return str(value)


def _line(text: str, name: str) -> int:
    pattern = re.compile(rf"""\s*(\[\s*)?(["']?){re.escape(name)}\2\s*[=.\]]""")
    for number, line in enumerate(text.splitlines(), 1):
        if pattern.match(line):
            return number
    return 1


def _suggestion(name: str, known: Iterable[str]) -> str:
    # Only who has mistyped a name pays for it.
    from difflib import get_close_matches

    names = sorted(known)
    close = get_close_matches(name, names, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(names)}"


# Parsers for what several options share. Each raises ValueError.


def name(text: str) -> str:
    try:
        return check_name(text, "name")
    except InvalidIdentity as error:
        raise ValueError(str(error)) from error


def host_port(text: str) -> HostPort:
    return HostPort.parse(text)


def public_address(text: str) -> str:
    """The text itself, if it is ``NAME``, ``NAME:PORT`` or the same with an address."""
    host = HostPort.parse(text).host
    try:
        ip_address(host)
    except ValueError:
        labels = host.rstrip(".").split(".")
        if len(host) > 253 or not all(_DNS_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
            raise ValueError("it is neither a DNS name nor an address") from None
    return text


def address(text: str) -> IPAddress:
    return ip_address(text)


def network(text: str) -> IPNetwork:
    return ip_network(text)


def network4(text: str) -> IPv4Network:
    return IPv4Network(text)


def port(text: str) -> int:
    return integer(1, 65535)(text)


def integer(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise ValueError(f"it must be from {least} to {most}")
        return value

    return parse


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DURATION = "a number with s, m, h or d, like 90s or 24h; without a unit: seconds"


def duration(text: str) -> float:
    """Seconds, from ``90``, ``90s``, ``15m``, ``24h`` or ``30d``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if match is None:
        raise ValueError("it is not a duration")
    return float(match[1]) * _UNITS[match[2] or "s"]


def seconds(least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = duration(text)
        if not least <= value <= most:
            raise ValueError(f"it must be from {least:g} s to {most:g} s")
        return value

    return parse


def congestion(text: str) -> str | None:
    """The name of a congestion control; ``None`` for the kernel's own."""
    if not re.fullmatch(r"[a-z0-9_]{1,15}", text):
        raise ValueError("names of congestion controls are short, and of lower-case letters, digits and underscores")
    return None if text == "default" else text


CONGESTION_SETTING = Setting(
    "congestion",
    "the congestion control of this side of the links, where the kernel has it; 'auto': BBR on paths that are long or "
    "lose packets, CUBIC on others; 'default': the kernel's own",
    congestion,
    "'auto', 'default', or a name in /proc/sys/net/ipv4/tcp_available_congestion_control",
    "auto",
)


HEARTBEAT_SETTINGS = (
    Setting(
        "heartbeat",
        "heartbeats on an idle link; a dead one is noticed after 2.6 times as long at the latest",
        seconds(1, 3600),
        DURATION,
        30.0,
    ),
    Setting(
        "probe",
        "how long data may go without an answer before the other side is asked; a dead link in use is noticed after "
        "2.6 times as long",
        seconds(1, 600),
        DURATION,
        5.0,
    ),
)
"""For both ends of a link; each judges by its own."""


def choice(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError("it is none of these")
        return text

    return parse
