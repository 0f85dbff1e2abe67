"""Checks of arguments that callers give: what is of another type is refused in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layertap.errors import InputError, UsageError, suggest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def count(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """An integer, of Python or numpy; a truth value is none.

    Raises:
        UsageError: it is another value, or not between `least` and `most`.
    """
    from operator import index

    try:
        number = index(value) if not isinstance(value, bool) and not _has_axes(value) else None
    except TypeError:
        number = None
    if number is None:
        raise UsageError(f"{name} must be an integer of at least {least}, got {_shown(value)}.")
    if number < least:
        raise UsageError(f"{name} must be at least {least}, got {number}.")
    if most is not None and number > most:
        raise UsageError(f"{name} must be at most {most}, got {_shown(number)}.")
    return number


def sizes(name: str, value: Any) -> tuple[int, ...]:
    """Several integers of at least 1.

    Raises:
        UsageError: it is something else.
    """
    try:
        items = tuple(value)
    except TypeError:
        items = None
    if items is None or isinstance(value, (str, bytes)):
        raise UsageError(f"{name} must be several integers, as in (320, 240), got {_shown(value)}.")
    return tuple(count(f"each size in {name}", item) for item in items)


def number(name: str, value: Any, least: float = 0.0, *, finite: bool = True) -> float:
    """A number, which is not NaN.

    Raises:
        UsageError: it is another value, less than `least`, or infinite although `finite`.
    """
    try:
        plain = isinstance(value, (bool, str, bytes)) or _has_axes(value)
        found = math.nan if plain else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not least <= found <= math.inf or (finite and found == math.inf):
        kind = "a finite number of" if finite else "a number of"
        raise UsageError(f"{name} must be {kind} at least {least:g}, got {_shown(value)}.")
    return found


def array(name: str, value: Any) -> npt.NDArray[np.float64]:
    """An array of float64, which a copy is made of only if it has another dtype.

    Raises:
        InputError: it is not numbers.
    """
    import numpy as np

    try:
        return np.asarray(value, np.float64)
    except Exception as exc:  # an array-like may raise anything
        raise InputError(f"{name} must be an array of numbers, got {_shown(value)}.") from exc


def items(name: str, value: Any) -> list[Any]:
    """The items of a list or another iterable.

    Raises:
        InputError: it has none.
    """
    try:
        return list(value)
    except TypeError as exc:
        raise InputError(f"{name} must be a list, got {_shown(value)}.") from exc


def flag(name: str, value: Any) -> bool:
    """A truth value, or what Python takes for one.

    Raises:
        UsageError: it has none, as an array of several numbers.
    """
    try:
        return bool(value)
    except Exception as exc:  # an object's own code may raise anything
        raise UsageError(f"{name} must be True or False, got {_shown(value)}.") from exc


def choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """One of several words.

    Raises:
        UsageError: it is none of them.
    """
    if isinstance(value, str) and value in choices:
        return value
    words = " or ".join(map(repr, choices)) if len(choices) < 3 else ", ".join(map(repr, choices))
    near = suggest(value, choices) if isinstance(value, str) else ""
    raise UsageError(f"{name} must be {words}, got {_shown(value)}.{near}")


def _has_axes(value: Any) -> bool:
    return bool(getattr(value, "shape", ()))


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - an object's own code, or an integer of too many digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:97]}..."
