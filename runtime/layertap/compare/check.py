"""Checking a file on this machine against the golden sample that it contains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layertap._engine.program import program_of
from layertap._engine.stopping import time_limit
from layertap.errors import ModelFileError
from layertap.format.card import GoldenLayer
from layertap.format.digest import change_text, changed_parts, digest_of
from layertap.format.text import Readable, counted

from .golden import feeds, indices, sum_scale, weighted_sums
from .measures import check_tolerance, difference

if TYPE_CHECKING:
    from layertap._model import Model

TOLERANCE = 1e-4
"""Largest scaled error that passes unless the caller, or the export, said otherwise."""

UNSTEADY = 4.0
"""How many times as much is allowed where Keras itself was further than the tolerance from its
result in float64: up to three times by the file, and once by Keras, whose values these are."""


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
    could not hold the tolerance at the export."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CheckReport(Readable):
    """The result of a check. True if every layer passed."""

    device: str
    tolerance: float
    layers: tuple[LayerDeviation, ...]
    """In the order in which the layers run; gradients come last."""
    gradients: int = 0
    """The number of gradients among `layers`."""
    changed: tuple[str, ...] = ()
    """What is not as it was when the file was verified: of `graph`, `weights` and `card` (labels,
    preprocessing, axes). A file that was converted on purpose may still agree with the sample."""

    def __bool__(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> tuple[LayerDeviation, ...]:
        return tuple(layer for layer in self.layers if not layer.scaled <= layer.allowed)

    def __str__(self) -> str:
        if not self.changed:
            return self._result
        return f"{self._result.removesuffix('.')}. {_sentence(self.changed)}"

    @property
    def _result(self) -> str:
        if self.failed:
            first = self.failed[0]
            return (
                f"{len(self.failed)} of {len(self.layers)} layers differ from the "
                f"golden sample on {self.device}. The first to diverge is {first.name!r}, by "
                f"{first.scaled:.1e} of its scale; allowed are {first.allowed:.0e}."
            )
        worst = max(self.layers, key=lambda layer: layer.scaled)
        count = counted(len(self.layers) - self.gradients, self.gradients)
        return (
            f"{count} agree with the golden sample on {self.device}: largest "
            f"scaled error {worst.scaled:.1e} in {worst.name!r}, allowed {self.tolerance:.0e}"
        )


def check(
    model: Model, tolerance: float | None = None, *, timeout: float | None = None
) -> CheckReport:
    """Run the golden sample through all layers, and compare with Keras's results.

    Args:
        model: the opened file.
        tolerance: largest scaled error that passes; by default the tolerance of the export, which
            depends on the dtypes that Keras computed in.
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
    own = {} if tolerance is not None or checked is None else checked.layers
    if tolerance is None:
        tolerance = checked.tolerance if checked else TOLERANCE
    check_tolerance(tolerance)
    order = {layer.tensor: layer.index for layer in model.layers}
    names = sorted(golden.layers, key=lambda name: order.get(name, len(order)))
    fetch = program.fetch(names)
    sample = program.prepare(fetch.plan.needs, feeds(golden, model.card.inputs), None, watch=False)
    with time_limit(timeout):
        values = fetch(sample)
    allowed = {
        name: tolerance + UNSTEADY * one.reference for name, one in own.items() if one.reference
    }
    gradients = model.card.gradients.tensors.values() if model.card.gradients else ()
    stated = model.card.digest
    return CheckReport(
        changed=changed_parts(stated, digest_of(program.source, model.card)) if stated else (),
        device=model.device,
        tolerance=tolerance,
        gradients=len(golden.layers.keys() & set(gradients)),
        layers=tuple(
            LayerDeviation(
                name=name,
                scaled=_deviation(values[name], golden.layers[name]),
                allowed=allowed.get(name, tolerance),
            )
            for name in names
        ),
    )


def _sentence(parts: tuple[str, ...]) -> str:
    text = change_text(parts)
    return f"{text[0].upper()}{text[1:]}."


def _deviation(value: Any, expected: GoldenLayer) -> float:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        return float("inf")
    if value.shape != expected.shape or len(expected.values) > value.size:
        return float("inf")
    flat = value.astype(np.float64).ravel()
    sample = flat[indices(flat.size, len(expected.values))]
    values = difference(sample, np.array(expected.values), least_scale=expected.scale)
    # A scale may be larger than all values: that of a sigmoid far from 1.
    scale = max(expected.norm, expected.scale)
    norm = np.array([np.linalg.norm(flat)])
    norms = difference(norm, np.array([expected.norm]), least_scale=scale)
    if not expected.sums:  # a file of before format 1.3
        return values.larger(norms).scaled
    sums = difference(
        weighted_sums(flat, len(expected.sums)),
        np.array(expected.sums),
        least_scale=sum_scale(expected.scale, flat.size),
    )
    return values.larger(norms).larger(sums).scaled
