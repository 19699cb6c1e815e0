"""What seals the CAs that routers share: the same for one key for ever; what was sealed in the earlier way opens."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.filepath import FilePath
from twisted.trial.unittest import SynchronousTestCase

from edgectl.sharedca import Pair, share
from kubebus.tap.sharing import SharedAuthorities, earlier_secret, sealing_secret
from metasync.memory import MemoryStore

NUMBER = 0x00C0FFEE  # Small, so that its encoding has zeros in front.
KEY = ec.derive_private_key(NUMBER, ec.SECP256R1())
GOLDEN = "987cbf25fac196cb9132015050ae1b0ec4655e7e3fba4924229d93d9a3edd537"


def never() -> Pair:
    raise AssertionError("there is one already")


class SecretTests(SynchronousTestCase):
    def test_it_comes_from_the_number_alone(self) -> None:
        """RFC 5869, by hand: no encoding of a library's has a part in it."""
        extracted = hmac.digest(b"\0" * 32, NUMBER.to_bytes(32, "big"), hashlib.sha256)
        info = b"kubebus shared CAs 2, secp256r1 key of network default"
        self.assertEqual(sealing_secret(KEY, "default"), hmac.digest(extracted, info + b"\x01", hashlib.sha256))
        # As it was when this was written.
        self.assertEqual(sealing_secret(KEY, "default").hex(), GOLDEN)

    def test_others_have_others(self) -> None:
        secrets = {
            sealing_secret(KEY, "default"),
            sealing_secret(KEY, "other"),
            sealing_secret(ec.derive_private_key(NUMBER + 1, ec.SECP256R1()), "default"),
            sealing_secret(ec.derive_private_key(NUMBER, ec.SECP384R1()), "default"),
            earlier_secret(KEY, "default"),
        }
        self.assertEqual(len(secrets), 5)

    def test_what_was_sealed_before_is_opened_and_sealed_anew(self) -> None:
        store, folder = MemoryStore(Clock()), Path(FilePath(self.mktemp()).path)
        old = Pair(b"certificate", b"key")
        made = share(store, "default", "api", earlier_secret(KEY, "default"), None, lambda: old)
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(made)), old)
        # A router that has nothing in its state directory.
        authorities = SharedAuthorities(store, "default", lambda: KEY)
        self.successResultOf(Deferred.fromCoroutine(authorities.bring("api", folder / "ca", never)))
        self.assertEqual((folder / "ca.key").read_bytes(), b"key")
        again = share(store, "default", "api", sealing_secret(KEY, "default"), None, never)
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(again)), old)
