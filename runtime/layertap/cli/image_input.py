"""Images as commands are given them, and the names of the files that they write."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator

from layertap import _model
from layertap._engine.program import program_of
from layertap.errors import ImageError, UsageError
from layertap.extract.images import PreparedImage, read_images
from layertap.format.file_names import clash_key, file_name
from layertap.format.text import shape_text
from layertap.images.preprocessing import Preprocessing, example

from .printing import tell


def recipe_for(model: _model.Model, args: argparse.Namespace) -> Preprocessing:
    """The recipe of `--preprocess`, or the file's own, in the order of axes of the model's input.

    Raises:
        UsageError: there is none.
    """
    recipe = Preprocessing.load(args.preprocess) if args.preprocess else model.preprocessing
    if recipe:
        return program_of(model).fitted(recipe)
    shapes = [info.shape for info in model.inputs if len(info.shape) == 4 or not info.dtype]
    if not shapes:
        inputs = ", ".join(f"{info.name} {shape_text(info.shape)}" for info in model.inputs)
        raise UsageError(
            f"{args.file!r} takes no images; its input is {inputs}. Give a ready batch: .npy, or "
            ".npz with an array for each input."
        )
    raise UsageError(
        f"{args.file!r} does not say how an image becomes its input. Say it in a file for "
        f"--preprocess, as in {example(shapes[0])}, or give a ready batch (.npy)."
    )


def prepared(
    inputs: Iterable[str], recipe: Preprocessing, failures: list[str]
) -> Iterator[PreparedImage]:
    """The images, and those of the folders, among `inputs`.

    What cannot be read is printed and added to `failures`.
    """

    def failed(_: str, error: ImageError) -> None:
        failures.append(str(error))
        tell(f"layertap: {error}")

    return read_images(inputs, recipe, failed)


def free_name(image: str, layer: str, taken: set[str]) -> str:
    """`chest.bn`; with a number where two images or layers would have the same file."""
    plain = file_name(f"{image}.{layer}")
    name, number = plain, 1
    while clash_key(name) in taken:
        number += 1
        name = f"{plain}_{number}"
    taken.add(clash_key(name))
    return name
