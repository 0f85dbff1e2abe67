"""Receptive fields: which pixels of the input a position of a layer depends on.

The terms are those of Araujo, Norris and Sim 2019: Computing Receptive Fields of Convolutional
Neural Networks. https://distill.pub/2019/computing-receptive-fields
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from layertap._arguments import count
from layertap._engine.program import Program
from layertap._escaping import one_line
from layertap._public import public
from layertap._record import Record, as_json
from layertap.errors import UsageError, suggest
from layertap.format.layer import Layer
from layertap.format.select import as_selectors, is_single

from .influence import measured_box
from .links import Reach
from .reading_back import Walker
from .samples import is_random, sample

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe

PERIOD = 840
"""After so many positions of a layer, the fields repeat: enlargements by 2 to 8 take turns."""

Box = tuple[tuple[int, int], ...]
"""For each axis, the first position and the one after the last."""


@public
class ReceptiveField(Record):
    """Which positions of an input one position of a layer depends on.

    Positions are those between samples and channels: rows and columns of an image, steps of a
    sequence. Each tuple has one item for each axis of the input's positions, in its order.
    """

    layer: str
    """Name of the layer."""
    input: str
    """Name of the model's input."""
    layer_size: tuple[int, ...]
    """Number of positions of the layer along each of its axes."""
    input_size: tuple[int, ...]
    """The same of the input."""
    size: tuple[int, ...] | None
    """Number of positions of the input that the windows of convolutions and poolings reach, edges
    apart, so it may be larger than the input. Where positions differ, as after an enlargement, it
    is the largest. `None` if an operator mixes axes, or if only `whole` leads to the input."""
    stride: tuple[float, ...] | None
    """By how many positions of the input the field moves for each position of the layer; integers
    unless an enlargement makes them fractions."""
    start: tuple[int, ...] | None
    """The first position of the input that the windows of the layer's first position reach;
    negative in the padding."""
    whole: str | None
    """The layer because of which every position depends on the whole input along some axis, such as
    a global pooling or attention; `None` if there is none. `size` leaves it out."""
    mixed: str | None
    """The layer that mixes axes, such as a reshaping, so that there is no `size`; `None` if none
    does."""
    at: tuple[int, ...]
    """The position of the layer that `box` belongs to."""
    box: Box | None
    """What it depends on: `(first, after the last)` for each axis. It is exact as far as the
    operators tell, whatever the weights are. `None` if it depends on nothing, as in a padding."""
    unclipped: Box | None
    """The same for the windows alone, with positions in the padding; `None` as for `size`."""
    measured: Box | None = None
    """The part of `box` in which changed values changed the layer in runs; `None` if nothing did,
    or if it was not measured."""

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-compatible values."""
        return as_json(self)

    def __str__(self) -> str:
        """For people."""
        lines = [
            f"{one_line(self.layer)} {times(self.layer_size)}, of {one_line(self.input)} "
            f"{times(self.input_size)}"
        ]
        if self.size is not None and self.stride is not None and self.start is not None:
            lines.append(
                f"size {times(self.size)}, stride {times(self.stride)}, start "
                f"{', '.join(map(str, self.start))}"
            )
        if self.mixed is not None:
            lines.append(f"no size: {one_line(self.mixed)} mixes positions")
        if self.whole is not None:
            lines.append(f"reads the whole input through {one_line(self.whole)}")
        lines.append(f"at {', '.join(map(str, self.at))}: {box_text(self.box)}")
        if self.measured is not None:
            lines.append(f"measured: {box_text(self.measured)}")
        return "\n".join(lines)


def times(values: Sequence[float]) -> str:
    """Numbers of several axes: `7 x 7`."""
    return " x ".join(f"{value:g}" for value in values)


def box_text(box: Box | None) -> str:
    """A box with the names of its axes: `rows 3:14, columns 0:9`."""
    if box is None:
        return "nothing"
    names = _AXES.get(len(box), ())
    spans = [f"{first}:{last}" for first, last in box]
    return ", ".join(
        f"{name} {span}" for name, span in zip(names or [""] * len(box), spans, strict=True)
    )


_AXES = {1: ("positions",), 2: ("rows", "columns"), 3: ("depth", "rows", "columns")}


def receptive_field(
    program: Program,
    layers: Any,
    at: Sequence[int] | int | None = None,
    *,
    input_name: str | None = None,
    size: Sequence[int] | None = None,
    measure: Any = None,
    preprocess: Recipe | None = None,
) -> Any:
    """See `Model.receptive_field`."""
    asked = as_selectors(layers)
    if is_single(program.layers, asked):
        layer = program.layer(asked)
        return Fields(program, [layer], input_name, size, measure, preprocess).of(layer, at)
    chosen = program.select(asked)
    fields = Fields(program, chosen, input_name, size, measure, preprocess)
    return {one.name: fields.of(one, at) for one in chosen if fields.has_positions(one)}


class Windows(NamedTuple):
    """What the windows alone give, for each axis of the input's positions."""

    size: tuple[int, ...]
    stride: tuple[float, ...]
    start: tuple[int, ...]
    reaches: tuple[Reach, ...]


class Fields:
    """The receptive fields of some layers, from one run of the file."""

    def __init__(
        self,
        program: Program,
        layers: Sequence[Layer],
        input_name: str | None = None,
        size: Sequence[int] | None = None,
        measure: Any = None,
        preprocess: Recipe | None = None,
    ) -> None:
        """
        Args:
            layers: those that will be asked for.
            input_name: the input, if the layers depend on several that have positions.
            size: of the first input's free axes.
            measure: what to measure on: `"random"`, or an input; `None` for no measurement.
            preprocess: a recipe for an image.
        """
        self._program = program
        self._input_name = self._checked(input_name)
        inputs: Any = None
        if measure is not None and not is_random(measure):
            needs = [*program.graph.inputs]
            inputs = program.prepare_arrays(needs, measure, preprocess)
        if inputs is None or size is not None:
            inputs = sample(program, size)
        self._inputs = inputs
        self._measure = measure is not None
        self._walker = Walker(program, [str(one.tensor) for one in layers if one.exposed], inputs)

    def _checked(self, name: str | None) -> str | None:
        known = self._program.graph.inputs
        if name is not None and (not isinstance(name, str) or name not in known):
            raise UsageError(
                f"{self._program.name} has no input {name!r}, only {', '.join(map(repr, known))}."
                f"{suggest(str(name), [*known])}"
            )
        return name

    def has_positions(self, layer: Layer) -> bool:
        """Whether a layer has axes between samples and channels."""
        return bool(self._positions(str(layer.tensor)))

    def of(
        self, layer: Layer, at: Sequence[int] | int | None = None, *, box: bool = True
    ) -> ReceptiveField:
        """The field of one layer.

        Args:
            at: the position; by default the one in the middle.
            box: whether to find the box, which takes a second walk.

        Raises:
            UsageError: the layer has no positions, `at` is not one of them, or it is not known
                what an operator reads.
        """
        tensor, walker = str(layer.tensor), self._walker
        shape, space = walker.shapes.get(tensor, ()), self._positions(tensor)
        if not space:
            raise UsageError(
                f"{layer.name!r} has no positions, only samples and channels: each value is one of "
                "the whole input. Choose a layer with feature maps."
            )
        layer_size = tuple(shape[axis] for axis in space)
        place = self._place(layer, at, layer_size)
        reaches = [Reach()] * len(shape)
        for number, axis in enumerate(space):
            along = np.arange(max(shape[axis], PERIOD + 1), dtype=np.int64)
            reaches[axis] = Reach(number, along, along)
        found = walker.reach(tensor, reaches)
        name = self._input(layer, found)
        own = [found[name][axis] for axis in self._positions(name)]
        windows = _windows(own)
        along_axes = dict(zip(space, place, strict=True))
        exact = self._box(tensor, shape, along_axes, name) if box else None
        return ReceptiveField(
            layer=layer.name,
            input=name,
            layer_size=layer_size,
            input_size=tuple(walker.shapes[name][axis] for axis in self._positions(name)),
            size=windows.size if windows else None,
            stride=windows.stride if windows else None,
            start=windows.start if windows else None,
            whole=self._name(one.whole for one in own),
            mixed=self._name(one.mixed for one in own),
            at=place,
            box=exact,
            unclipped=_unclipped(windows, place) if windows else None,
            measured=self._measured(tensor, along_axes, name, exact),
        )

    def _place(
        self, layer: Layer, at: Sequence[int] | int | None, size: Sequence[int]
    ) -> tuple[int, ...]:
        if at is None:
            return tuple(one // 2 for one in size)
        given: Any = [at] if np.ndim(at) == 0 and not isinstance(at, str) else at
        if isinstance(given, str) or np.ndim(given) != 1 or len(given) != len(size):
            raise UsageError(
                f"at must be {len(size)} integers for {layer.name!r}, which has {times(size)} "
                f"positions, got {at!r}."
            )
        found = tuple(count("at", one, 0) for one in given)
        if any(one >= most for one, most in zip(found, size, strict=True)):
            raise UsageError(
                f"at {found} is outside of {layer.name!r}, which has {times(size)} positions, "
                "counted from 0."
            )
        return found

    def _positions(self, name: str) -> list[int]:
        """The axes of a tensor that are neither samples nor channels."""
        axes = self._program.axes(name, len(self._walker.shapes.get(name, ())))
        return [axis for axis, letter in enumerate(axes) if letter not in "NC"]

    def _input(self, layer: Layer, found: Mapping[str, Any]) -> str:
        """The input whose positions are meant."""
        if self._input_name is not None:
            if self._input_name not in found:
                raise UsageError(f"{layer.name!r} does not depend on {self._input_name!r}.")
            names = [self._input_name]
        else:
            names = [name for name in found if self._positions(name)]
        if not found:
            raise UsageError(f"{layer.name!r} does not depend on any input.")
        if len(names) > 1:
            raise UsageError(
                f"{layer.name!r} depends on several inputs: {', '.join(map(repr, names))}. Choose "
                "one with input_name."
            )
        if not names or not self._positions(names[0]):
            raise UsageError(
                f"the inputs of {layer.name!r} have no positions, only samples and channels."
            )
        return names[0]

    def _name(self, nodes: Iterable[int | None]) -> str | None:
        """The layer of the first node."""
        known = [node for node in nodes if node is not None]
        return self._walker.name_of(min(known)) if known else None

    def _box(
        self, tensor: str, shape: Sequence[int], place: Mapping[int, int], name: str
    ) -> Box | None:
        marks = [np.ones(size, bool) for size in shape]
        for axis, at in place.items():
            marks[axis][:] = False
            marks[axis][at] = True
        found = self._walker.marks(tensor, marks).get(name)
        if found is None:
            return None
        hits = [np.flatnonzero(found[axis]) for axis in self._positions(name)]
        return tuple((int(one[0]), int(one[-1]) + 1) for one in hits)

    def _measured(
        self, tensor: str, place: Mapping[int, int], name: str, box: Box | None
    ) -> Box | None:
        if not self._measure or box is None:
            return None
        axes = self._positions(name)
        return measured_box(self._program, tensor, place, self._inputs, name, axes)


def _windows(reaches: Sequence[Reach]) -> Windows | None:
    """Sizes, strides and starts; `None` if some are not known."""
    size: list[int] = []
    stride: list[float] = []
    start: list[int] = []
    for one in reaches:
        if one.mixed is not None or one.low is None or one.high is None:
            return None
        size.append(int((one.high - one.low).max()) + 1)
        start.append(int(one.low[0]))
        moved, steps = int(one.low[PERIOD] - one.low[0]), PERIOD
        stride.append(moved // steps if moved % steps == 0 else moved / steps)
    return Windows(tuple(size), tuple(stride), tuple(start), tuple(reaches))


def _unclipped(windows: Windows, place: Sequence[int]) -> Box:
    return tuple(
        (int(one.low[place[one.axis]]), int(one.high[place[one.axis]]) + 1)
        for one in windows.reaches
        if one.low is not None and one.high is not None and one.axis is not None
    )
