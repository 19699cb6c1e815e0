"""The last word to a member that the listener refuses, in the link's protocol."""

from __future__ import annotations

from kubebus.control import Close, encode
from kubebus.frames import CONTROL, frame
from kubebus.linkerrors import LinkRefused, LinkRevoked
from kubebus.tokens import Refusal, Refused


def farewell(refused: Refused) -> bytes:
    """What tells it why."""
    code = LinkRevoked.code if refused.refusal is Refusal.REVOKED else LinkRefused.code
    return frame(CONTROL, encode(Close(code, str(refused))))
