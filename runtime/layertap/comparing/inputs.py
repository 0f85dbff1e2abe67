"""The samples of a comparison, batch by batch, as each of two files takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from layertap._engine.feeds import as_recipe, is_image
from layertap._engine.program import Program
from layertap.errors import ImageError, InputError, UsageError
from layertap.extract.batched import many
from layertap.extract.inputs import fixed_batch
from layertap.format.text import number_of

from .golden import feeds

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe

Feeds: TypeAlias = "dict[str, Any]"
"""Arrays by name of an input."""


class Batch(NamedTuple):
    """Some samples, as arrays."""

    a: Feeds
    """For the first file, by its names of inputs."""
    b: Feeds
    """For the second file."""
    count: int  # type: ignore[assignment]  # tuples have a method of this name
    """The number of samples."""


class Sides(NamedTuple):
    """What a comparison needs to know of two files to feed them."""

    a: Program
    b: Program
    needs_a: tuple[str, ...]
    """The inputs that the compared layers of the first file read."""
    needs_b: tuple[str, ...]


def golden_inputs(*programs: Program) -> Feeds:
    """The seeded inputs of the golden sample of the first file that has one.

    Raises:
        UsageError: none has one.
    """
    for program in programs:
        card = program.card
        if card is not None and card.golden is not None:
            return dict(feeds(card.golden, card.inputs))
    names = " and ".join(program.name for program in programs)
    raise UsageError(
        f"{names} {'have' if len(programs) > 1 else 'has'} no golden sample to run on. Give images "
        "or a batch."
    )


def batches(
    sides: Sides,
    inputs: Any,
    size: int,
    preprocess: Recipe | None,
    notes: list[str],
    failed: Callable[[str, ImageError], None] | None = None,
) -> Iterator[Batch]:
    """The samples for both files.

    Args:
        sides: the files.
        inputs: see `Model.activations`; `None` for the golden sample.
        size: the number of samples in a batch; where they cannot be divided, there is one batch.
        preprocess: a recipe for images, for both files instead of their own.
        notes: a sentence is added if a file is fed with the recipe of the other.
        failed: called with each image that cannot be read, and the reason; it is left out then.

    Raises:
        InputError: the inputs do not fit a file.
        ImageError: an image cannot be read, and there is no `failed`.
    """
    recipes = _recipes(sides, preprocess, notes)
    fixed = _batch_of_both(sides)
    if inputs is None:
        inputs = golden_inputs(sides.a, sides.b)
        if fixed is None:
            yield _prepared(sides, inputs, None, recipes)
            return
    for part, count in _parts(sides.a, inputs, size, fixed):
        images = isinstance(part, list) and len(part) > 1 and all(map(is_image, part))
        several = images and fixed is None
        try:
            yield _prepared(sides, part, count, recipes)
            continue
        except (ImageError, InputError) as exc:
            if several:  # one cannot be read, or they have different sizes
                pass
            elif failed is not None and isinstance(exc, ImageError) and count == 1:
                failed(str(part[0]), exc)
                continue
            else:
                raise
        for image in part:
            try:
                yield _prepared(sides, [image], 1, recipes)
            except ImageError as exc:
                if failed is None:
                    raise
                failed(str(image), exc)


def _prepared(
    sides: Sides, part: Any, count: int | None, recipes: tuple[Recipe | None, Recipe | None]
) -> Batch:
    """A batch as each file takes it; one for both where their inputs are alike."""
    a = sides.a.prepare_arrays(sides.needs_a, part, recipes[0])
    names = dict(zip(sides.a.graph.inputs, sides.b.graph.inputs, strict=False))
    shared = {names[name]: value for name, value in a.items() if name in names}
    alike = (
        recipes[0] == recipes[1]
        and sides.a.finished == sides.b.finished
        and [*sides.a.graph.inputs.values()] == [*sides.b.graph.inputs.values()]
    )
    if alike and shared.keys() >= {*sides.needs_b}:
        b = shared
    else:
        b = sides.b.prepare_arrays(sides.needs_b, _renamed(part, sides), recipes[1])
    return Batch(a, b, _length(a) if count is None else count)


def _recipes(
    sides: Sides, preprocess: Recipe | None, notes: list[str]
) -> tuple[Recipe | None, Recipe | None]:
    """The recipes that images are prepared by; `None` is a file's own, or none at all."""
    if preprocess is not None:
        recipe = as_recipe(preprocess)
        return recipe, recipe
    own = [program.preprocessing for program in (sides.a, sides.b)]
    finished = [program.picture_input is not None for program in (sides.a, sides.b)]
    if own[0] is None and own[1] is not None and not finished[0]:
        notes.append("A has no recipe for images and was fed with that of B.")
        return own[1], own[1]
    if own[1] is None and own[0] is not None and not finished[1]:
        notes.append("B has no recipe for images and was fed with that of A.")
        return own[0], own[0]
    return (own[0] if not finished[0] else None), (own[1] if not finished[1] else None)


def _batch_of_both(sides: Sides) -> int | None:
    """The size that batches of both files have; `None` if it is free.

    Raises:
        InputError: it is fixed in both, and not the same.
    """
    sizes: dict[int, Program] = {}
    for program in (sides.a, sides.b):
        first = next(iter(program.graph.inputs), None)
        size = None if first is None else fixed_batch(program, first)
        if size is not None:
            sizes.setdefault(size, program)
    if len(sizes) > 1:
        (one, a), (other, b) = sizes.items()
        raise InputError(
            f"{a.name} takes batches of {number_of(one, 'sample')}, and {b.name} of {other}: no "
            "batch fits both. Export one of them with a free batch."
        )
    return next(iter(sizes), None)


def _parts(
    program: Program, inputs: Any, size: int, fixed: int | None
) -> Iterator[tuple[Any, int | None]]:
    """The inputs in batches, of a size that is fixed or of any up to `size`.

    Raises:
        InputError: the samples do not fill batches of the fixed size.
    """
    try:
        given = many(program, inputs, fixed or size)
    except (UsageError, InputError):  # what cannot be divided is run at once
        given = None
    if given is None:
        return iter([(inputs, None)])
    if fixed is not None and given.total is not None and given.total % fixed:
        raise InputError(
            f"the files take batches of {number_of(fixed, 'sample')}, got {given.total}. Give a "
            f"multiple of {fixed}."
        )
    return given.parts


def _renamed(part: Any, sides: Sides) -> Any:
    """Arrays by name of an input with the names that the second file has.

    Where that has other names, inputs are the same by their order: Keras numbers them, too.
    """
    theirs = sides.b.graph.inputs
    if not isinstance(part, Mapping) or set(part) <= theirs.keys() | sides.b.graph.optional.keys():
        return part
    names = dict(zip(sides.a.graph.inputs, theirs, strict=False))
    return {names.get(name, name): value for name, value in part.items()}


def _length(arrays: Feeds) -> int:
    """The number of samples in a batch."""
    for value in arrays.values():
        shape = getattr(value, "shape", ())
        if shape:
            return int(shape[0])
    return 1
