"""How the items of a collection become inputs of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layertap._engine.feeds import as_recipe
from layertap._engine.program import Program
from layertap.errors import ImageError, UsageError
from layertap.format.text import shape_text
from layertap.images.preprocessing import Preprocessing, example

from .images import naming_images
from .items import Items

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe


def recipe_for(program: Program, preprocess: Recipe | None) -> Preprocessing | None:
    """The given recipe, or the file's, in the order of axes of the model's input; `None` if there
    is none.

    Raises:
        PreprocessingError: it is invalid.
        InputError: its images would not have the size of the model's input.
    """
    recipe = program.preprocessing if preprocess is None else as_recipe(preprocess)
    return None if recipe is None else program.fitted(recipe, images=1)


def check_readable(program: Program, items: Items, recipe: Preprocessing | None) -> None:
    """Check that images can become inputs.

    Raises:
        UsageError: they are images, and there is no recipe, or the model takes none.
    """
    if items.ready or recipe is not None:
        return
    raise no_recipe(program)


def check_fits(program: Program, items: Items, name: str) -> None:
    """Check that rows that are ready fit the model, by the first one.

    Args:
        program: the model's.
        items: the rows.
        name: of the input.

    Raises:
        InputError: it has another shape, or no numbers.
    """
    if not items.ready:
        return
    try:
        row = items.read(0).content
    except ImageError:  # that row fails
        return
    with naming_images([items.items[0].id]):
        batch = np.repeat(np.asarray(row)[None], fixed_batch(program, name) or 1, axis=0)
        program.prepare((name,), {name: batch}, None, watch=False)


def fixed_batch(program: Program, name: str) -> int | None:
    """The size that the batch of an input always has; `None` if it may have any.

    Args:
        program: the model's.
        name: of the input.
    """
    dims = program.graph.inputs[name].dims
    size = dims[0] if dims else None
    return size if isinstance(size, int) and size >= 1 else None


def no_recipe(program: Program) -> UsageError:
    """The error for images that nobody says how to prepare."""
    if program.finished is not None:
        return UsageError(
            f"{program.name} is a finished file, which reads pictures itself. Use the file that "
            "it was made from."
        )
    shapes = [info.shape for info in program.inputs if len(info.shape) == 4 or not info.dtype]
    if not shapes:
        inputs = ", ".join(f"{info.name} {shape_text(info.shape)}" for info in program.inputs)
        return UsageError(
            f"{program.name} takes no images; its input is {inputs}. Give arrays that are ready, "
            "with a row for each item."
        )
    return UsageError(
        f"{program.name} does not say how an image becomes its input. Give a recipe, as in "
        f"preprocess={example(shapes[0])}, or arrays that are ready, with a row for each item."
    )
