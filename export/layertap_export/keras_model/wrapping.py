"""Changing library code for a while: methods and functions, and settings.

Everything here holds one lock. Another thread that wants to change something waits until the block
is left, so that blocks which overlap in time nest, and each restores what it found.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.RLock()


@contextmanager
def wrapped(owner: Any, name: str, wrapper: Callable[..., Any]) -> Iterator[None]:
    """Let `wrapper(original, *args, **kwargs)` replace `owner.name` in this block.

    Only calls that this thread makes go to the wrapper; those of other threads go to the original.

    Args:
        owner: a class, a module or an object. If an object only inherits the method, the name is
            removed from it again at the end.
        name: of a method or function.
        wrapper: takes the original as its first argument, and for a method of a class the object as
            its second.
    """
    import tensorflow as tf  # not above: a file is looked for before TensorFlow is imported

    thread = threading.get_ident()
    change, remove = object.__setattr__, object.__delattr__  # Keras tracks what is set otherwise
    if isinstance(owner, type):
        change, remove = type.__setattr__, type.__delattr__
    with _lock:
        own = name in vars(owner)
        original = vars(owner)[name] if own else getattr(owner, name)

        # AutoGraph must not rewrite this where a user's function that it rewrites calls Keras.
        @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
        @functools.wraps(original)
        def function(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:
                return original(*args, **kwargs)
            return wrapper(original, *args, **kwargs)

        change(owner, name, function)
        try:
            yield
        finally:
            if own:
                change(owner, name, original)
            else:
                remove(owner, name)


@contextmanager
def setting(
    read: Callable[[], T], write: Callable[[T], object], change: Callable[[T], T]
) -> Iterator[None]:
    """Change a library's setting in this block, for all threads.

    Args:
        read: returns the setting.
        write: sets it.
        change: returns its value in the block, given the one before.
    """
    with _lock:
        before = read()
        write(change(before))
        try:
            yield
        finally:
            write(before)
