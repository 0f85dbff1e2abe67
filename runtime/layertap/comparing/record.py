"""Records: what a file computes on one machine, small enough to be compared on another.

A record has the sketches of all layers, the inputs unless they were left out, the digest of the
model, versions and device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from numpy.typing import NDArray

from layertap._cut.plan import peel
from layertap._engine.library import available_threads
from layertap._engine.program import Program
from layertap.cam.scores import ends_in_activation
from layertap.errors import InputError, UsageError
from layertap.extract.made_with import made_with
from layertap.format.attention_rows import SCORES
from layertap.format.digest import digest_of
from layertap.format.layer import Attention, Layer, channel_axis
from layertap.format.select import Selector
from layertap.format.text import number_of

from . import sizes
from .classes import best_classes
from .inputs import Batch
from .matching import Tensor, as_computed, no_layer_selected, tensors_of
from .sketch import Sketch, Sketching
from .stages import Stage, carried, divided, forget, nbytes_of, run_rounds, sharing_memory
from .tolerances import allowed_errors

MOST_INPUT_BYTES = 256 << 20
"""Most bytes of inputs in a record."""

MOST_BYTES = 1 << 30
"""Most bytes of what else a record holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One layer of a record."""

    tensor: Tensor
    allowed: float
    """The largest scaled error that passes."""
    sketch: Sketch


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a file computed."""

    name: str
    """The file."""
    made_with: Mapping[str, Any]
    """Versions, device and processor."""
    digest: Mapping[str, str]
    """Of graph and weights."""
    tolerance: float
    counts: tuple[int, ...]
    """The number of samples in each batch."""
    kept: int
    """How many values of each batch are kept, at most."""
    layers: tuple[Recorded, ...]
    """In the order in which they are computed."""
    hidden: Mapping[str, str]
    """Layers that are not recorded, with the reason."""
    inputs: tuple[Mapping[str, NDArray[Any]], ...]
    """Of each batch, by name; empty if they were left out."""
    input_names: tuple[str, ...]
    """The inputs of the model, in order."""

    @property
    def samples(self) -> int:
        """The number of samples."""
        return sum(self.counts)

    @property
    def table(self) -> list[Layer]:
        """The layers, to be selected from."""
        return [
            Layer(
                name=one.name,
                type=one.type,
                index=one.place,
                shape=one.shape,
                dtype=one.dtype,
                parameters=0,
                inbound=(),
                tensor=one.tensor,
                attention=_attention(one),
            )
            for one in (recorded.tensor for recorded in self.layers)
        ]

    @property
    def side(self) -> str:
        """The record in a sentence."""
        made = self.made_with
        return (
            f"{self.name} on {made.get('device')}, onnxruntime {made.get('onnxruntime')}, "
            f"{made.get('processor')}"
        )


def _attention(tensor: Tensor) -> Attention | None:
    """What marks the scores of attention in the table of a record; `None` for other layers."""
    if tensor.type != SCORES:
        return None
    heads = tensor.shape[1] if len(tensor.shape) == 4 else None
    return Attention(of=tensor.name.rpartition("/")[0], heads=heads or 0)


class _Feed(NamedTuple):
    """A batch on its way through the stages."""

    number: int
    feeds: Mapping[str, Any]
    live: dict[str, Any]


def make_record(
    program: Program,
    given: Iterable[Batch],
    tensors: Sequence[Tensor],
    hidden: Mapping[str, str],
    nbytes: Sequence[int],
    *,
    kept: int,
    tolerance: float | None = None,
    keep_inputs: bool = False,
    numbers: Sequence[int] | None = None,
) -> Record:
    """Run a file, and sketch its layers.

    Args:
        program: the file.
        given: the samples, of which the first side is used.
        tensors: what is recorded, in the order in which it is computed.
        hidden: what is not, with the reason.
        nbytes: about how many bytes each tensor takes for one sample.
        kept: how many values are kept of each batch.
        tolerance: see `layertap.compare`.
        keep_inputs: whether the inputs are part of the record.
        numbers: the numbers of the layers in another record, with the same positions.

    Raises:
        InputError: there is no sample.
        UsageError: the inputs are too large for a record.
    """
    leaves = peel(program.graph, [one.tensor for one in tensors])
    sources = [leaves[one.tensor].source for one in tensors]
    stages = divided(nbytes, sources, sizes.STAGE_BYTES)
    passed = carried(program.graph, [[tensors[at].tensor for at in stage] for stage in stages])
    makers = [Sketching(at, kept) for at in numbers or range(len(tensors))]
    outputs = {info.name for info in program.outputs}.intersection(one.tensor for one in tensors)
    final = {name: ends_in_activation(program, name) for name in outputs}
    counts: list[int] = []
    inputs: list[Mapping[str, Any]] = []
    held = 0

    def begin(batch: Batch) -> _Feed:
        nonlocal held
        counts.append(batch.count)
        if len(counts) * kept * len(tensors) * 8 > MOST_BYTES:
            raise UsageError(
                f"{number_of(len(tensors), 'layer')} of {number_of(sum(counts), 'sample')} take "
                f"more than {MOST_BYTES >> 20} MiB. Record fewer samples, or fewer layers "
                "(--layers)."
            )
        if keep_inputs:
            inputs.append(batch.a)
            held += sum(getattr(value, "nbytes", 0) for value in batch.a.values())
            if held > MOST_INPUT_BYTES:
                raise UsageError(
                    f"the inputs take more than {MOST_INPUT_BYTES >> 20} MiB. Record fewer images, "
                    "or leave the inputs out (--no-inputs), and give the same images to compare."
                )
        return _Feed(len(counts) - 1, batch.a, {})

    def end(one: _Feed, number: int) -> int:
        forget(one.live, passed.last, number)
        return nbytes_of(one.live)

    with (
        sharing_memory(program) as (own,),
        ThreadPoolExecutor(available_threads(), "layertap-recording") as pool,
    ):

        def stage(number: int) -> Callable[[_Feed], None]:
            indices = stages[number]
            run = Stage(own, [tensors[at].tensor for at in indices], passed.tensors[number])

            def compute(one: _Feed) -> None:
                found, late = run(one.feeds, one.live)
                one.live.update(late)

                def sketch(at: int) -> None:
                    tensor = tensors[at].tensor
                    value = found[tensor]
                    rank = getattr(value, "ndim", 0)
                    axis = channel_axis(program.axes(tensor, rank)) or None
                    classes = best_classes(value, final[tensor]) if tensor in final else None
                    makers[at].add(value, axis, classes)

                list(pool.map(sketch, indices))

            return compute

        run_rounds(
            iter(given), len(stages), begin, stage, end, sizes.WAITING_BYTES, sizes.MOST_SAMPLES
        )
    if not sum(counts):
        raise InputError("there is no sample to record. Give at least one.")
    for maker in makers:
        maker.round()
    allowed = allowed_errors(program, tolerance)
    digest = digest_of(program.source)
    return Record(
        name=program.name,
        made_with=made_with(program),
        digest={"graph": digest.graph, "weights": digest.weights},
        tolerance=allowed.tolerance,
        counts=tuple(counts),
        kept=kept,
        layers=tuple(
            Recorded(tensor=one, allowed=allowed.of(one.tensor), sketch=maker.sketch)
            for one, maker in zip(tensors, makers, strict=True)
        ),
        hidden=hidden,
        inputs=tuple(inputs),
        input_names=tuple(program.graph.inputs),
    )


def recorded_tensors(
    program: Program, layers: Selector | Iterable[Selector] | None
) -> tuple[list[Tensor], dict[str, str]]:
    """What of a file is recorded, in the order in which it is computed; and what is not.

    Raises:
        LayerNotFoundError: a selector matches nothing.
        UsageError: there is nothing to record.
    """
    tensors, hidden = tensors_of(program, scores=layers is not None)
    if layers is not None:
        names = {layer.name for layer in program.select(layers)}
        if not names:
            raise no_layer_selected()
        tensors = [one for one in tensors if one.name in names]
        hidden = {name: why for name, why in hidden.items() if name in names}
    if not tensors:
        raise UsageError(f"{program.name} has no layer to record.")
    return as_computed(program, tensors), hidden
