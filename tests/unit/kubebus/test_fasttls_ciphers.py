from __future__ import annotations

from pathlib import Path

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from kubebus.fastpath.ciphers import cipher_suites

X86 = "processor\t: 0\nflags\t\t: fpu vme aes avx2\n"
ARM_WITHOUT = "processor\t: 0\nFeatures\t: half thumb fastmult vfp edsp neon\n"
MIPS = "system type\t\t: MediaTek MT7621\ncpu model\t\t: MIPS 1004Kc\n"


class CipherTests(SynchronousTestCase):
    def suites(self, cpuinfo: str) -> bytes:
        path = Path(self.mktemp())
        path.write_text(cpuinfo)
        return cipher_suites(path)

    def test_aes_where_the_processor_has_it(self) -> None:
        self.assertTrue(self.suites(X86).startswith(b"TLS_AES_128_GCM"))

    def test_chacha_where_it_has_not(self) -> None:
        for cpuinfo in (ARM_WITHOUT, MIPS, ""):
            self.assertTrue(self.suites(cpuinfo).startswith(b"TLS_CHACHA20"))
        self.assertTrue(cipher_suites(Path("/nonexistent")).startswith(b"TLS_CHACHA20"))

    def test_openssl_knows_them_all(self) -> None:
        SSL.Context(SSL.TLS_METHOD).set_tls13_ciphersuites(self.suites(X86))
