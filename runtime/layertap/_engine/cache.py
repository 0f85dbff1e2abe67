"""A cache of recent results, shared by threads."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Cache(Generic[T]):
    """Keeps the results that were used last. Threads that need the same one make it once."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._forget()
        _caches.add(self)

    def _forget(self) -> None:
        self._slots: OrderedDict[Hashable, _Slot[T]] = OrderedDict()
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Drop all results."""
        with self._lock:
            self._slots.clear()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result for `key`; made now if it is not in the cache."""
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
            while len(self._slots) > self._size:
                self._slots.popitem(last=False)
        with slot.lock:
            if not slot.made:
                slot.made.append(make())
            return slot.made[0]


class _Slot(Generic[T]):
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made: list[T] = []


_caches: weakref.WeakSet[Cache[Any]] = weakref.WeakSet()
"""All caches in this process."""


def forget_all() -> None:
    """In a forked process: drop all results, and locks that other threads held."""
    for cache in list(_caches):
        cache._forget()
