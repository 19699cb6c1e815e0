"""Opens a store by its URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metasync.interfaces import Stageable, Store, StoreError

if TYPE_CHECKING:
    from metasync.whole import WholeStore

FORMS = "sqlite:PATH, etcd://HOST:PORT[,HOST:PORT…], etcds://…, or memory:"


def open_store(reactor: Any, url: str, **options: Any) -> Store:
    """Open a store.

    ``sqlite:PATH`` is the embedded store in a file, ``memory:`` one that forgets. ``etcd://`` names the members of
    an etcd cluster, ``etcds://`` the same over TLS, with ``?ca=FILE&cert=FILE&key=FILE&user=NAME&password-file=FILE``.
    A store's code is loaded only when it is chosen: an edge node on SQLite never pays for etcd's client.

    :param options: ``max_txn_ops``, ``max_request_bytes``; for SQLite also ``safe``.
    :raises StoreError: if the URL makes no sense, or the store cannot be opened.
    """
    scheme, colon, rest = url.partition(":")
    if scheme == "sqlite" and rest:
        from metasync.sqlite import SQLiteStore

        return SQLiteStore.open(reactor, rest.removeprefix("//"), **options)
    if scheme in ("etcd", "etcds") and rest.startswith("//") and len(rest) > 2:
        from metasync.etcd import EtcdStore

        return _whole(EtcdStore.open(reactor, url, **options))
    if scheme == "memory" and colon and not rest:
        from metasync.memory import MemoryStore

        return MemoryStore(reactor, **options)
    raise StoreError(f"{url!r} names no store; use {FORMS}")


def stageable(store: Store) -> Stageable:
    """The store as one that has stages, if need be by way of a :class:`metasync.whole.WholeStore`."""
    return store if isinstance(store, Stageable) else _whole(store)


def _whole(store: Store) -> WholeStore:
    from metasync.whole import WholeStore

    return WholeStore(store)
