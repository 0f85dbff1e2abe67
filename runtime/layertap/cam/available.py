"""Which gradients a file gives."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING

from layertap.errors import LayerNotFoundError, ModelFileError

if TYPE_CHECKING:
    from layertap._engine.program import Program
    from layertap.format.card import Gradients


def find(program: Program) -> Gradients | None:
    """What the file says of its gradients; `None` where it gives none."""
    return program.card.gradients if program.card else None


def require(program: Program) -> Gradients:
    """What the file says of its gradients.

    Raises:
        ModelFileError: it gives none.
    """
    gradients = find(program)
    if gradients is None or not gradients.tensors:
        raise ModelFileError(f"{program.name} gives no gradients. {_command(program, 'LAYER')}")
    return gradients


def missing(program: Program, known: Iterable[str], name: str) -> LayerNotFoundError:
    """The error for a layer that is not among those that the file `known` gives gradients of."""
    return LayerNotFoundError(
        f"{program.name} gives no gradient of {name!r}, but of {_listing(list(known))}. "
        f"{_command(program, name)}"
    )


def _listing(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:5]))
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _command(program: Program, layer: str) -> str:
    file = shlex.quote(str(program.source.path or "FILE.onnx"))
    return (
        f"`layertap gradients {file} --layers {shlex.quote(layer)} -o NEW.onnx` writes a file that "
        "does."
    )
