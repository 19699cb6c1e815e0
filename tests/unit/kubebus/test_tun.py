"""The TUN device in memory keeps the contract, and the real one's faults are told well."""

from __future__ import annotations

import os
from collections.abc import Callable
from unittest import mock

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from kubebus.packets import swap_header
from kubebus.testing_net import MemoryTun, TunContract, tcp_gso_packet, udp_packet
from kubebus.tun import LinuxTun, open_tun
from kubebus.tundevice import TunError


class MemoryTunTests(TunContract, SynchronousTestCase):
    here, there = "10.250.0.2", "10.10.0.5"

    def setUp(self) -> None:
        self.device = self.tun = MemoryTun()
        self.send = lambda size: self.tun.route(udp_packet(self.here, self.there, bytes(size)))
        self.arrived = lambda: [payload[38:] for payload in self.tun.written]
        self.spin = self.check

    def check(self, condition: Callable[[], bool]) -> None:
        self.assertTrue(condition())


class ByteOrderTests(SynchronousTestCase):
    """A pipe stands for the kernel of a big-endian host that knows no TUNSETVNETLE."""

    def test_headers_are_swapped_in_both_directions(self) -> None:
        ours, kernels = os.pipe()
        os.set_blocking(ours, False)
        self.addCleanup(os.close, kernels)
        payload = tcp_gso_packet("10.250.0.2", "10.10.0.5", 1000)
        received: list[bytes] = []
        device = LinuxTun(MemoryReactorClock(), "kb0", ours, swapped=True)
        self.addCleanup(device.close)
        device.start(lambda frames: received.extend(frames.payloads()), self.fail)
        os.write(kernels, swap_header(payload))
        device.doRead()
        self.assertEqual(received, [payload])
        kernel, other = os.pipe()
        self.addCleanup(os.close, kernel)
        writer = LinuxTun(MemoryReactorClock(), "kb0", other, swapped=True)
        self.addCleanup(writer.close)
        self.assertTrue(writer.write(payload))
        self.assertEqual(os.read(kernel, 70000), swap_header(payload))


class OpenTests(SynchronousTestCase):
    def test_no_device_file(self) -> None:
        with mock.patch("os.open", side_effect=FileNotFoundError(2, "No such file or directory")):
            error = self.assertRaises(TunError, open_tun, MemoryReactorClock(), "kb0")
        self.assertIn("modprobe tun", str(error))
