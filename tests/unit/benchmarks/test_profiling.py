from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.profiling import COPYING, CRYPTO, KERNEL, OTHER, PYTHON, Sample, samples, shares, top

SCRIPT = """\
   4711     7efdaf302e37 _PyEval_EvalFrameDefault (/usr/lib/libpython3.11.so.1.0)
   4711 ffffffff821f39e5 finish_task_switch.isra.0 ([kernel.kallsyms])
   4711 ffffffff821f39e6 tun_get_user ([tun])
   4712 ffffffff821f39e7 rep_movs_alternative ([kernel.kallsyms])
   4712     7efdaf302e38 [unknown] (/lib/cryptography/hazmat/bindings/_rust.abi3.so)

a line of something else
"""


class ProfilingTests(SynchronousTestCase):
    def test_perfs_lines(self) -> None:
        found = list(samples(SCRIPT.splitlines()))
        self.assertEqual([sample.pid for sample in found], [4711, 4711, 4711, 4712, 4712])
        self.assertEqual(found[0].object, "/usr/lib/libpython3.11.so.1.0")
        self.assertEqual([sample.kind for sample in found], [PYTHON, KERNEL, KERNEL, COPYING, CRYPTO])

    def test_kinds(self) -> None:
        for symbol, library, kind in (
            ("__memmove_avx512_unaligned_erms", "/usr/lib/x86_64-linux-gnu/libc.so.6", COPYING),
            ("_copy_to_iter", "[kernel.kallsyms]", COPYING),
            ("_int_malloc", "/usr/lib/x86_64-linux-gnu/libc.so.6", OTHER),
            ("__vdso_clock_gettime", "[vdso]", OTHER),
            ("b_do_buildvalue", "/x/_cffi_backend.cpython-311-x86_64-linux-gnu.so", OTHER),
            ("select_epoll_poll", "/x/lib-dynload/select.cpython-311-x86_64-linux-gnu.so", PYTHON),
            ("PyDict_New", "/usr/bin/python3.11", PYTHON),
            ("EVP_EncryptUpdate", "/usr/lib/libcrypto.so.3", CRYPTO),
        ):
            self.assertEqual(Sample(1, symbol, library).kind, kind, symbol)

    def test_shares(self) -> None:
        got = shares(sample for sample in samples(SCRIPT.splitlines()) if sample.pid == 4711)
        self.assertEqual({kind: round(share) for kind, share in got.items() if share}, {PYTHON: 33, KERNEL: 67})
        self.assertEqual(shares([]), {})

    def test_the_functions_with_the_most(self) -> None:
        one, two = Sample(1, "tun_get_user+0x12", "[tun]"), Sample(1, "_copy_to_iter", "[kernel.kallsyms]")
        self.assertEqual(top([two, one, one, one], 1), [" 75.0 %  tun_get_user ([tun])"])
