"""Wrapping methods of library classes for a time, for the calls that one thread makes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

_lock = threading.RLock()


@contextmanager
def wrapped(owner: Any, name: str, wrapper: Callable[..., Any]) -> Iterator[None]:
    """Let `wrapper(original, *args, **kwargs)` stand for `owner.name` in this block, which is a
    method of a class or a function of a module.

    Only in calls that this thread makes: those of others pass through untouched. Another thread
    that wants to wrap something waits until this block is left.
    """
    thread = threading.get_ident()
    with _lock:
        original = vars(owner)[name]

        # AutoGraph must not rewrite us where a user's function that it rewrites calls Keras.
        @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
        def function(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:
                return original(*args, **kwargs)
            return wrapper(original, *args, **kwargs)

        setattr(owner, name, function)
        try:
            yield
        finally:
            setattr(owner, name, original)
