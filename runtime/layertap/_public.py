"""The mark of public names: each names its package as its module, wherever it is defined."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    T = TypeVar("T")


def public(thing: T) -> T:
    """Set the `__module__` of a class or function to its top-level package.

    Help, tracebacks, `repr` and pickles then say `layertap.Model`, which stays true when the module
    that defines it is moved. It goes above all other decorators: `dataclass`, for one, looks up
    names in the module that a class was defined in.
    """
    thing.__module__ = thing.__module__.partition(".")[0]
    return thing
