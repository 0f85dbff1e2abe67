"""Checking a file on this machine against the golden sample that it contains."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layertap._engine.program import Program, program_of
from layertap._engine.stopping import time_limit
from layertap.errors import InputError, ModelFileError
from layertap.format.card import Golden, GoldenLayer, TensorInfo
from layertap.format.digest import change_text, changed_parts, digest_of
from layertap.format.narrow import narrow_tensors
from layertap.format.text import Readable, counted

from .golden import feeds, indices, norm, sum_scale, weighted_sums
from .measures import check_tolerance, difference

if TYPE_CHECKING:
    from layertap._model import Model

TOLERANCE = 1e-4
"""Largest scaled error that passes unless the caller, or the export, said otherwise."""

UNSTEADY = 4.0
"""How many times as much is allowed where Keras itself was further than the tolerance from its
result in float64: up to three times by the file, and once by Keras, whose values these are."""

KINKS = 0.05
"""How much is allowed for a gradient in a file that computes in 16 bits: rounding decides on which
side of 0 the inputs of a relu are, and each has another slope there. Measured: up to 6.3e-3."""


QUANTIZED = 1.5
"""How many times the deviation is allowed that was measured when the file was quantised: where a
value is between two steps of quantisation, rounding decides for one of them, on each machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDeviation:
    """How far one layer on this machine is from Keras's result at the export."""

    name: str
    scaled: float
    """Largest difference of the golden values divided by the layer's scale, relative difference of
    the norms, or largest difference of the sums divided by `sum_scale`, whichever is largest;
    infinite for a NaN."""
    allowed: float
    """Largest scaled error that passes: the tolerance of the check, or more where Keras itself
    could not hold the tolerance at the export, or where the file computes in 16 bits or was
    quantised."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CheckReport(Readable):
    """The result of a check. True if every layer passed."""

    device: str
    tolerance: float
    layers: tuple[LayerDeviation, ...]
    """In the order in which the layers run; gradients come last."""
    gradients: int = 0
    """The number of gradients among `layers`."""
    narrow: tuple[str, ...] = ()
    """The dtypes of 16 bits that the file computes in, for example `float16`."""
    quantized: str = ""
    """The dtype that the file was quantised to by `layertap quantize`; empty for other files."""
    not_run: str = ""
    """Why the gradients could not be computed here; empty if they could."""
    changed: tuple[str, ...] = ()
    """What is not as it was when the file was verified: of `graph`, `weights` and `card` (labels,
    preprocessing, axes). A file that was converted on purpose may still agree with the sample."""

    def __bool__(self) -> bool:
        return not self.failed and not self.not_run

    @property
    def failed(self) -> tuple[LayerDeviation, ...]:
        return tuple(layer for layer in self.layers if not layer.scaled <= layer.allowed)

    def __str__(self) -> str:
        if not self.changed:
            return self._result
        return f"{self._result.removesuffix('.')}. {_sentence(self.changed)}"

    @property
    def _result(self) -> str:
        dtypes = f" ({' and '.join(self.narrow)})" if self.narrow else ""
        if self.quantized:
            dtypes = f", as quantised to {self.quantized}"
        if self.failed:
            first = self.failed[0]
            return (
                f"{len(self.failed)} of {len(self.layers)} layers differ from the "
                f"golden sample on {self.device}. The first to diverge is {first.name!r}, by "
                f"{first.scaled:.1e} of its scale; allowed are {first.allowed:.0e}{dtypes}."
                f"{self._without_gradients}"
            )
        worst = max(self.layers, key=lambda layer: layer.scaled)
        count = counted(len(self.layers) - self.gradients, self.gradients)
        allowed = f"{self.tolerance:.0e}"
        if self.narrow or self.quantized:
            ends = [f"{end(x.allowed for x in self.layers):.0e}" for end in (min, max)]
            allowed = f"{' to '.join(dict.fromkeys(ends))}{dtypes}"
        return (
            f"{count} agree with the golden sample on {self.device}: largest "
            f"scaled error {worst.scaled:.1e} in {worst.name!r}, allowed {allowed}"
            f"{'.' if self.not_run else ''}{self._without_gradients}"
        )

    @property
    def _without_gradients(self) -> str:
        if not self.not_run:
            return ""
        return (
            f" The gradients in the file cannot be computed: {self.not_run} `layertap gradients` "
            "writes them again."
        )


def check(
    model: Model, tolerance: float | None = None, *, timeout: float | None = None
) -> CheckReport:
    """Run the golden sample through all layers, and compare with Keras's results.

    Args:
        model: the opened file.
        tolerance: largest scaled error that passes; by default the tolerance of the export, which
            depends on the dtypes that Keras computed in, or more for layers that the file, which
            may have been converted since, computes in float16 or bfloat16; see `format.narrow`. In
            a file from `layertap quantize` it is larger by 1.5 times the deviation that was
            measured then.
        timeout: time in seconds after which the run is stopped, see `Model.activations`.

    Raises:
        ModelFileError: the file contains no golden sample.
        UsageError: the tolerance is negative or not a number.
        RunTimeoutError: the run took longer than `timeout`.
    """
    program = program_of(model)
    golden = model.card.golden if model.card else None
    if model.card is None or golden is None or not golden.layers:
        raise ModelFileError(
            f"{program.name} has no golden sample to check against; files that layertap exports do."
        )
    checked = model.card.verification
    quantized = model.card.quantized if tolerance is None else None
    narrow = narrow_tensors(program.source, program.graph) if tolerance is None else {}
    own = {} if tolerance is not None or checked is None else checked.layers
    if tolerance is None:
        tolerance = checked.tolerance if checked else TOLERANCE
    check_tolerance(tolerance)
    order = {layer.tensor: layer.index for layer in model.layers}
    gradients = set(model.card.gradients.tensors.values()) if model.card.gradients else set()
    names = sorted(golden.layers, key=lambda name: order.get(name, len(order)))
    with time_limit(timeout):
        values, not_run = _computed(program, golden, model.card.inputs, names, gradients)
    names = [name for name in names if name in values]
    allowed = {
        name: tolerance + UNSTEADY * one.reference for name, one in own.items() if one.reference
    }
    for name in narrow.keys() & set(names):
        least = KINKS if name in gradients else 0.0
        allowed[name] = max(allowed.get(name, tolerance), narrow[name].tolerance, least)
    if quantized is not None:
        for name, deviation in quantized.golden.items():
            allowed[name] = allowed.get(name, tolerance) + QUANTIZED * deviation
    stated = model.card.digest
    return CheckReport(
        changed=changed_parts(stated, digest_of(program.source, model.card)) if stated else (),
        device=model.device,
        tolerance=tolerance,
        gradients=len(gradients.intersection(names)),
        narrow=tuple(sorted({narrow[name].dtype for name in narrow.keys() & set(names)})),
        quantized=quantized.to if quantized else "",
        not_run=not_run,
        layers=tuple(
            LayerDeviation(
                name=name,
                scaled=_deviation(values[name], golden.layers[name]),
                allowed=allowed.get(name, tolerance),
            )
            for name in names
        ),
    )


def _computed(
    program: Program,
    golden: Golden,
    inputs: Sequence[TensorInfo],
    names: Sequence[str],
    gradients: AbstractSet[str],
) -> tuple[dict[str, Any], str]:
    """The values for the golden sample, and why the gradients are not among them.

    A converter to float16 may leave gradients that onnxruntime cannot compute.
    """
    arrays = feeds(golden, inputs)

    def run(asked: Sequence[str]) -> dict[str, Any]:
        fetch = program.fetch(asked)
        return fetch(program.prepare(fetch.plan.needs, arrays, None, watch=False))

    try:
        return run(names), ""
    except (ModelFileError, InputError) as exc:
        layers = [name for name in names if name not in gradients]
        if len(layers) in (0, len(names)):
            raise
        return run(layers), str(exc)


def _sentence(parts: tuple[str, ...]) -> str:
    text = change_text(parts)
    return f"{text[0].upper()}{text[1:]}."


def _deviation(value: Any, expected: GoldenLayer) -> float:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        return float("inf")
    if value.shape != expected.shape or len(expected.values) > value.size:
        return float("inf")
    flat = value.ravel()
    sample = flat[indices(flat.size, len(expected.values))].astype(np.float64)
    values = difference(sample, np.array(expected.values), least_scale=expected.scale)
    # A scale may be larger than all values: that of a sigmoid far from 1.
    scale = max(expected.norm, expected.scale)
    norms = difference(np.array([norm(flat)]), np.array([expected.norm]), least_scale=scale)
    if not expected.sums:  # a file of before format 1.3
        return values.larger(norms).scaled
    sums = difference(
        weighted_sums(flat, len(expected.sums)),
        np.array(expected.sums),
        least_scale=sum_scale(expected.scale, flat.size),
    )
    return values.larger(norms).larger(sums).scaled
