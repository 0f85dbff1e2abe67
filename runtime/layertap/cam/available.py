"""The gradients that a file has."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from layertap.errors import LayerNotFoundError, ModelFileError

if TYPE_CHECKING:
    from layertap._engine.program import Program
    from layertap.format.card import Gradients, TensorInfo


def find(program: Program) -> Gradients | None:
    """The card's description of the file's gradients; `None` if it has none."""
    return program.card.gradients if program.card else None


def require(program: Program, layer: str = "LAYER") -> Gradients:
    """The card's description of the file's gradients.

    Args:
        layer: what the command in the error names.

    Raises:
        ModelFileError: it has none.
    """
    gradients = find(program)
    if gradients is None or not gradients.tensors:
        raise ModelFileError(f"{program.name} has no gradients. {_command(program, layer)}")
    return gradients


def of_inputs(
    program: Program, gradients: Gradients, inputs: Sequence[TensorInfo]
) -> dict[str, str]:
    """The inputs that the file has a gradient for, each with the name that it has there: its own,
    or that of its layer.

    Args:
        inputs: the model's, or some of them.

    Raises:
        LayerNotFoundError: there is none.
    """
    layers = {row.tensor: row.name for row in program.layers}
    found = {
        info.name: name
        for info in inputs
        for name in (info.name, layers.get(info.name, info.name))
        if name in gradients.tensors
    }
    if not found:
        raise missing(program, gradients.tensors, inputs[0].name if inputs else "input")
    return found


def missing(program: Program, known: Iterable[str], name: str) -> LayerNotFoundError:
    """The error for a layer without a gradient; `known` are the layers that have one."""
    return LayerNotFoundError(
        f"{program.name} has no gradient for {name!r}, only for {_listing(list(known))}. "
        f"{_command(program, name)}"
    )


def fixed_class(program: Program, gradients: Gradients) -> ModelFileError:
    """The error for a file in which the input that selects the class is no input any more."""
    return ModelFileError(
        f"{program.name} cannot give the gradient of a class: {gradients.weights!r}, the weights "
        "of the classes, is no input of the graph. Some programs (OpenVINO, onnxsim, onnxslim) "
        "turn optional inputs into constants. Give them a file that was written with --class-input "
        f"required; or add the gradients again: {_command(program, 'LAYER')}"
    )


def _listing(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:5]))
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _command(program: Program, layer: str) -> str:
    file = shlex.quote(str(program.source.path or "FILE.onnx"))
    return (
        f"`layertap gradients {file} --layers {shlex.quote(layer)} -o NEW.onnx` writes a file with "
        "it."
    )
