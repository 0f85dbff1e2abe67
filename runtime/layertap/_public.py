"""The decorator of public names, which sets `__module__` to their package."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def public(thing: T) -> T:
    """Set the `__module__` of a class or function to its top-level package.

    Help, tracebacks, `repr` and pickles then say `layertap.Model` or `layertap_export.Signature`,
    which stays true when the defining module is moved. Apply it last, above all other decorators:
    `dataclass`, for one, looks up names in the module of the definition.
    """
    thing.__module__ = thing.__module__.partition(".")[0]
    return thing
