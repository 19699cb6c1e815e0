"""What an etcd URL says. Nothing here connects."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from metasync.etcd import Address
from metasync.etcd_wire import capacity, txn_of
from metasync.interfaces import StoreError, TxnTooLarge
from metasync.model import Compare, Put


class AddressTests(SynchronousTestCase):
    def test_members(self) -> None:
        address = Address.parse("etcd://10.0.0.1:2379,10.0.0.2")
        self.assertEqual((address.endpoints, address.tls), (("10.0.0.1:2379", "10.0.0.2:2379"), False))

    def test_security(self) -> None:
        address = Address.parse("etcds://host:1?ca=/a&cert=/c&key=/k&user=u&password-file=/p&max-txn-ops=512")
        self.assertEqual((address.tls, address.ca, address.user, address.max_txn_ops), (True, "/a", "u", 512))

    def test_nonsense(self) -> None:
        for url in (
            "etcd://",
            "etcd://host/path",
            "etcd://host?colour=red",
            "etcds://host?cert=/c",
            "etcd://host?max-txn-ops=many",
        ):
            self.assertRaises(StoreError, Address.parse, url)


class NestingTests(SynchronousTestCase):
    def test_manyOperationsAreTransactionsInOne(self) -> None:
        for count in (1, 128, 129, 1000, capacity(128)):
            request = txn_of([Compare.absent(b"x")], [Put(b"%d" % i, b"") for i in range(count)], (), 128)
            inner = [len(each.request_txn.success) for each in request.success if each.HasField("request_txn")]
            self.assertLessEqual(len(request.success), 128)
            if inner:
                self.assertEqual(sum(inner), count)
                self.assertLessEqual(len(request.success) + max(inner), 128)

    def test_thereIsAnEnd(self) -> None:
        self.assertRaises(TxnTooLarge, txn_of, (), [Put(b"%d" % i, b"") for i in range(capacity(128) + 1)], (), 128)
