"""Images as commands are given them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from layertap import _model
from layertap._engine.pictures import as_stored
from layertap._engine.program import program_of
from layertap.errors import ImageError, UsageError
from layertap.extract.images import PreparedImage, list_images, read_images
from layertap.extract.progress import Meter, Silent, on_stream
from layertap.format.recipe import value_range
from layertap.format.text import shape_text
from layertap.images.preprocessing import Preprocessing, example

from .printing import tell
from .ready_batch import load_ready, ready_batch


def recipe_for(model: _model.Model, args: argparse.Namespace) -> Preprocessing:
    """The recipe of `--preprocess`, or the file's own, in the order of axes of the model's input.

    For a finished file, which prepares pictures itself, it keeps their size and levels.

    Raises:
        UsageError: there is none.
        InputError: its images would not have the size of the model's input.
    """
    program = program_of(model)
    facts = program.finished
    if facts is not None and facts.image is not None:
        if args.preprocess:
            raise UsageError(f"{args.file!r} prepares pictures itself. Leave out --preprocess.")
        return as_stored(facts)
    recipe = Preprocessing.of(args.preprocess) if args.preprocess else model.preprocessing
    if recipe:
        program.prepared = value_range(recipe.to_dict())  # so that no batch of it causes a warning
        return program.fitted(recipe, images=1)
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


def batch_size(model: _model.Model, args: argparse.Namespace) -> int:
    """The number of images that are run at once: 1 if a finished file takes one picture."""
    return 1 if program_of(model).picture_input is not None else int(args.batch_size)


class ImageInput:
    """The images that a command was given, and what could not be read of them."""

    def __init__(
        self, inputs: Sequence[str], output: str | None = None, *, progress: bool = True
    ) -> None:
        """Find the images, and those of the folders, among `inputs`.

        Args:
            inputs: paths of images and folders.
            output: the folder that the command writes to, which is left out.
            progress: whether progress is shown on stderr; not if a line is printed for each image.
        """
        self.failures: list[str] = []
        self.inputs = inputs
        self._reporter = on_stream(sys.stderr) if progress else Silent()
        self.paths = list_images(inputs, self._failed, output)

    def prepared(self, recipe: Preprocessing) -> Iterator[PreparedImage]:
        """The images as the model takes them, one at a time, and the progress on stderr.

        What cannot be read is printed and added to `failures`.
        """
        before = len(self.failures)
        meter = Meter(self._reporter, len(self.paths), 0, before)
        try:
            for read, image in enumerate(read_images(self.paths, recipe, self._failed), 1):
                yield image
                failed = len(self.failures)
                meter.update(read + failed - before, failed)
        finally:
            meter.close()

    def _failed(self, _: str, error: ImageError) -> None:
        self.failures.append(str(error))
        self._reporter.pause()
        tell(f"layertap: {error}")


class Samples:
    """The images or the ready batch that a command was given, and what could not be read."""

    def __init__(self, inputs: Sequence[str]) -> None:
        """
        Args:
            inputs: paths of images and folders, or of one ready batch; or none.
        """
        ready = ready_batch(inputs)
        given = ImageInput(inputs if ready is None else [], progress=False)
        self.failures = given.failures
        self.unreadable = ready is None and bool(inputs) and not given.paths
        """Whether there were images, none of which can be read."""
        self.inputs: Any = (given.paths or None) if ready is None else load_ready(ready)
        """Paths of images, or arrays, see `load_ready`; `None` if there are none."""

    def failed(self, _: str, error: ImageError) -> None:
        """Say that an image cannot be read."""
        self.failures.append(str(error))
        tell(f"layertap: {error}")
