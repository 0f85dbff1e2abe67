"""How many bytes layers take, and how many may be in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layertap._engine.feeds import as_recipe
from layertap._engine.program import Program
from layertap.errors import UsageError
from layertap.format.cost import activation_costs

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe

STAGE_BYTES = 32 << 20
"""Most bytes of activations of one file that a stage computes, unless a single layer has more."""

WAITING_BYTES = 64 << 20
"""Most bytes that wait between two stages, of several samples."""

MOST_SAMPLES = 16
"""Most samples in a batch, and most that wait between two stages."""

UNKNOWN_BYTES = 1 << 20
"""What a layer takes of which the file does not say how large it is."""


def bytes_of_layers(
    program: Program, names: Sequence[str], inputs: Any, preprocess: Recipe | None
) -> list[int]:
    """About how many bytes each layer takes for one sample.

    Args:
        program: the file.
        names: of its layers, or of outputs.
        inputs: what it will be fed; `None` for the golden sample.
        preprocess: the recipe for images instead of the file's.
    """
    size = _free_sizes(program, inputs, preprocess)
    try:
        costs = activation_costs(program.layers, program.card, size)
    except UsageError:
        costs = activation_costs(program.layers, program.card)
    known = {
        layer.name: cost.nbytes
        for layer, cost in zip(program.layers, costs, strict=True)
        if cost.nbytes is not None
    }
    return [known.get(name, UNKNOWN_BYTES) for name in names]


def _free_sizes(program: Program, inputs: Any, preprocess: Recipe | None) -> tuple[int, ...] | None:
    """The sizes of the free axes of the first input, as far as they are known before any run."""
    if not program.inputs:
        return None
    shape = program.inputs[0].shape
    free = [axis for axis, dim in enumerate(shape) if axis and dim is None]
    if isinstance(inputs, Mapping):
        inputs = inputs.get(program.inputs[0].name)
    given = getattr(inputs, "shape", None)
    if isinstance(given, tuple) and len(given) == len(shape):
        return tuple(given[axis] for axis in free)
    recipe = program.preprocessing
    if preprocess is not None:
        recipe = as_recipe(preprocess)
    if recipe is not None and recipe.size is not None and len(free) == 2:
        return recipe.size
    golden = program.card.golden if program.card else None
    if golden is not None and golden.inputs and len(golden.inputs[0].shape) == len(shape):
        return tuple(golden.inputs[0].shape[axis] for axis in free)
    return None
