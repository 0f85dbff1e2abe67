"""Custom classes and functions of a model, which Keras needs to load it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from layertap.errors import suggest
from layertap_export.errors import ModelLoadError

CustomObject: TypeAlias = "str | type | Any"
"""A reference `"package.module:name"`, or a class or function."""


def custom_objects_of(given: Mapping[str, Any] | Iterable[CustomObject]) -> dict[str, Any]:
    """Custom objects by the names under which Keras looks them up.

    Args:
        given: such a mapping; or classes, functions, and references `"package.module:name"` to
            classes, functions, or such mappings.

    Raises:
        ModelLoadError: a module cannot be imported, does not have the name, or an object is not a
            class or function.
    """
    if isinstance(given, Mapping):
        return dict(given)
    found: dict[str, Any] = {}
    for item in [given] if isinstance(given, str) else given:
        value = import_object(item) if isinstance(item, str) else item
        if isinstance(value, Mapping):
            found |= value
        elif hasattr(value, "__name__"):
            found[value.__name__] = value
        elif isinstance(item, str):  # a constant, which the code of a Lambda layer may use
            found[split_reference(item)[1]] = value
        else:
            raise ModelLoadError(
                f"invalid custom object {item!r} of type {type(value).__name__}: expected a class, "
                "a function, or a dict of them by name."
            )
    return found


def import_object(reference: str) -> Any:
    """Import the object that `package.module:name` refers to.

    The module may be in the current folder, which is added to `sys.path`.

    Raises:
        ModelLoadError: the module cannot be imported, or does not have the name.
    """
    module_name, name = split_reference(reference)
    _look_here()
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


def find_module(name: str) -> None:
    """Check that there is a module or package of this name, without importing it.

    Of a module inside a package, the outermost package is looked for.

    Raises:
        ModelLoadError: there is none.
    """
    outermost = name.partition(".")[0]
    _look_here()
    try:
        found = outermost in sys.modules or importlib.util.find_spec(outermost) is not None
    except (ImportError, ValueError):  # what a finder raises
        return
    if not found:
        here = [item.removesuffix(".py") for item in os.listdir() if item.endswith(".py")]
        raise ModelLoadError(
            f"cannot import the module {name!r}: there is no module {outermost!r}, neither in this "
            f"folder nor installed.{suggest(outermost, here)}"
        )


def _look_here() -> None:
    """Let Python find modules in the current folder."""
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)


def split_reference(reference: str) -> tuple[str, str]:
    """The module and the name in `package.module:name`.

    Raises:
        ModelLoadError: the reference does not have this form.
    """
    module, _, name = reference.rpartition(":") if ".py:" in reference else reference.partition(":")
    if module.endswith(".py") and not os.path.isabs(module):  # the module's file, as it is called
        parts = os.path.normpath(module.removesuffix(".py")).split(os.sep)
        module = ".".join(parts) if all(map(str.isidentifier, parts)) else module
    if not module or not name:
        raise ModelLoadError(f"expected package.module:name, got {reference!r}.")
    return module, name


_UNKNOWN = re.compile(
    r"Could not locate (?:class|function) '([^']+)'"
    r"|Cannot deserialize object of type `(\w+)`"
    r"|Unknown (?:layer|object|initializer|[a-z ]*function|[a-z]+): '?([\w>]+(?:\.\w+)*)'?"
    r"|Could not interpret [a-z ]+ identifier: '?([\w>]+(?:\.\w+)*)'?"
)


def unknown_name_in(message: str) -> str | None:
    """The class or function that a message of Keras reports as unknown, or `None`."""
    found = _UNKNOWN.search(message)
    return next(name for name in found.groups() if name) if found else None
