"""The Modbus registers of the field devices: what the devices serve, and how the drivers read it.

A device numbers its samples and keeps the last ``SLOTS`` of them, as remote terminal units do: whoever was away reads
what was missed. Input registers (function 4):

| address | what |
|---|---|
| 0, 1 | number of the latest sample, high and low word; 0 before the first |
| 16 + 8 · (number mod SLOTS) | a sample: number (2 words), plant clock in s (2 words), up to four values (int16) |

Holding register 0 (functions 3, 6) of the valve: the opening that is wanted, in thousandths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PORT = 502
"""Modbus/TCP's own."""

SLOTS = 400
FIRST = 16
WIDTH = 8
REGISTERS = FIRST + SLOTS * WIDTH
COMMAND = 0
MAX_READ = 120
"""Registers that one request reads: the largest multiple of WIDTH within Modbus's limit of 125."""


@dataclass(frozen=True)
class Value:
    name: str
    unit: str
    resolution: float
    """What one count of the register is worth."""


VALUES = {
    "tank": (Value("level", "%", 0.025), Value("outflow", "m³/h", 0.1)),
    "pressure": (Value("pressure", "bar", 0.001), Value("demand", "m³/h", 0.1)),
    "valve": (
        Value("opening", "‰", 1.0),
        Value("flow", "m³/h", 0.1),
        Value("upstream", "bar", 0.001),
        Value("downstream", "bar", 0.001),
    ),
}
"""What the device of each site measures, in the order of its registers."""


@dataclass(frozen=True)
class Sample:
    number: int
    time: int
    """Seconds by the plant's clock."""
    values: dict[str, float]


def slot(number: int) -> int:
    """The first register of a sample."""
    return FIRST + number % SLOTS * WIDTH


def encode(site: str, sample: Sample) -> list[int]:
    """The eight registers of a sample."""
    words = [*_words(sample.number), *_words(sample.time)]
    for value in VALUES[site]:
        count = round(sample.values[value.name] / value.resolution)
        words.append(max(-32768, min(32767, count)) & 0xFFFF)
    return words + [0] * (WIDTH - len(words))


def decode(site: str, words: Sequence[int]) -> Sample:
    """The sample in eight registers."""
    values = {}
    for value, word in zip(VALUES[site], words[4:], strict=False):
        count = word - 0x10000 if word & 0x8000 else word
        values[value.name] = round(count * value.resolution, 6)
    return Sample(number_in(words[0:2]), number_in(words[2:4]), values)


def number_in(words: Sequence[int]) -> int:
    """An unsigned number of 32 bits, high word first."""
    return (words[0] << 16) | words[1]


def _words(number: int) -> tuple[int, int]:
    return (number >> 16) & 0xFFFF, number & 0xFFFF
