"""Classes and functions of a model's own, which Keras cannot know."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from layertap.errors import suggest
from layertap_export.errors import ModelLoadError

Given: TypeAlias = "str | type | Any"
"""`"package.module:name"`, or a class or function itself."""


def custom_objects_of(given: Mapping[str, Any] | Iterable[Given]) -> dict[str, Any]:
    """Custom objects by the names under which Keras looks for them.

    Args:
        given: a mapping of that kind; or classes, functions, and `"package.module:name"`s, where
            the name may be that of a mapping too.

    Raises:
        ModelLoadError: there is no such module, or nothing of that name in it.
    """
    if isinstance(given, Mapping):
        return dict(given)
    found: dict[str, Any] = {}
    for item in [given] if isinstance(given, str) else given:
        value = imported(item) if isinstance(item, str) else item
        if isinstance(value, Mapping):
            found |= value
        elif hasattr(value, "__name__"):
            found[value.__name__] = value
        else:
            raise ModelLoadError(
                f"{item!r} is a {type(value).__name__}; a custom object is a class, a function, or "
                "a dict of them by their names."
            )
    return found


def imported(place: str) -> Any:
    """What `package.module:name` names. The current folder is searched for the module too.

    Raises:
        ModelLoadError: there is no such module, or nothing of that name in it.
    """
    module_name, name = split_place(place)
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as exc:
        raise ModelLoadError(f"cannot import the module {module_name!r}: {exc}") from exc
    except Exception as exc:
        raise ModelLoadError(
            f"the module {module_name!r} failed: {type(exc).__name__}: {exc}"
        ) from exc
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            near = suggest(name, [known for known in dir(module) if not known.startswith("_")])
            raise ModelLoadError(f"the module {module_name!r} has no {name!r}.{near}")
        value = getattr(value, part)
    return value


def split_place(place: str) -> tuple[str, str]:
    """The module and the name in `package.module:name`.

    Raises:
        ModelLoadError: it is not of that form.
    """
    module, _, name = place.partition(":")
    if not module or not name:
        raise ModelLoadError(f"{place!r} names nothing: give package.module:name.")
    return module, name


_UNKNOWN = re.compile(
    r"Could not locate (?:class|function) '([^']+)'"
    r"|Unknown (?:layer|object|initializer|[a-z ]*function|[a-z]+): '?([\w>]+(?:\.\w+)*)'?"
    r"|Could not interpret [a-z ]+ identifier: '?([\w>]+(?:\.\w+)*)'?"
)


def unknown_in(message: str) -> str | None:
    """The class or function that Keras says it does not know; `None` if it says something else."""
    found = _UNKNOWN.search(message)
    return next(name for name in found.groups() if name) if found else None
