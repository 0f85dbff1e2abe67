"""Packages that only some models need, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from layertap.errors import DependencyError


def require(module: str, *, to: str, install: str) -> Any:
    """Import `module`; `to` says what for, `install` what pip should be given.

    Raises:
        DependencyError: it, or something that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        package = module.partition(".")[0]
        raise DependencyError(
            f"{package} is needed to {to}, and importing it failed: {exc}. "
            f"Install it with: pip install {install!r}"
        ) from exc


def require_keras() -> Any:
    """Keras, with the TensorFlow below it.

    Raises:
        DependencyError: one of them is not installed.
    """
    return require("keras", to="build a model", install="layertap[export]")
