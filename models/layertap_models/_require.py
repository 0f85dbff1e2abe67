"""Imports of optional packages, with an error that states what to install."""

from __future__ import annotations

import importlib
from typing import Any

from layertap.errors import DependencyError, install_hint


def require(module: str, *, to: str, install: str) -> Any:
    """Import an optional module.

    Args:
        module: the module's name.
        to: what the module is required for, for the error message.
        install: the command that installs it, for the error message.

    Raises:
        DependencyError: the module, or one of its dependencies, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        package = module.partition(".")[0]
        raise DependencyError(
            f"{package} is needed to {to}, and importing it failed: {exc}. "
            f"Install it with {install}."
        ) from exc


def require_keras() -> Any:
    """Import Keras, which imports TensorFlow.

    Raises:
        DependencyError: one of them is not installed.
    """
    return require("keras", to="build a model", install=install_hint("export"))
