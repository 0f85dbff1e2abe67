"""Checking a file on this machine against the golden sample that it contains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np

from layertap._arguments import count
from layertap._engine.program import HasProgram, Program, program_of
from layertap._engine.stopping import time_limit
from layertap._public import public
from layertap.errors import InputError, ModelFileError
from layertap.format.card import Card, Golden, GoldenLayer, TensorInfo
from layertap.format.digest import change_text, changed_parts, digest_of
from layertap.format.text import Readable, Text, aligned, counted

from .golden import feeds, indices, norm, weighted_sums
from .measures import sketched_error
from .tolerances import allowed_errors


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

    @property
    def passed(self) -> bool:
        """Whether `scaled` is allowed."""
        return self.scaled <= self.allowed


@public
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
        """The layers that did not pass, in the order of `layers`."""
        return tuple(layer for layer in self.layers if not layer.passed)

    def worst(self, most: int | None = None) -> tuple[LayerDeviation, ...]:
        """The layers by how much of what is allowed they use, the largest share first.

        Args:
            most: how many; by default all.

        Raises:
            UsageError: `most` is less than 1.
        """
        found = sorted(self.layers, key=_share, reverse=True)
        return tuple(found if most is None else found[: count("worst", most)])

    def table(self, worst: int | None = None) -> str:
        """A line for each layer: its scaled error, what is allowed, and whether it passed.

        Args:
            worst: only so many layers, as `worst` gives them; by default all, in their order.

        Raises:
            UsageError: `worst` is less than 1.
        """
        rows = self.layers if worst is None else self.worst(worst)
        cells = [("layer", "scaled error", "allowed", "")]
        for row in rows:
            verdict = "" if row.passed else "differs"
            cells.append((row.name, f"{row.scaled:.1e}", f"{row.allowed:.0e}", verdict))
        return Text(aligned(cells, right=(1, 2)))

    def to_dict(self, worst: int | None = None) -> dict[str, Any]:
        """The report as JSON-compatible objects; an infinite error, of a NaN or of another shape,
        is `None`.

        Args:
            worst: see `table`.

        Raises:
            UsageError: `worst` is less than 1.
        """
        rows = self.layers if worst is None else self.worst(worst)
        return {
            "passed": bool(self),
            "device": self.device,
            "tolerance": self.tolerance,
            "compared": len(self.layers),
            "failed": len(self.failed),
            "gradients": self.gradients,
            "narrow": list(self.narrow),
            "changed": list(self.changed),
            "not_run": self.not_run,
            "layers": [
                {
                    "name": row.name,
                    "scaled": row.scaled if math.isfinite(row.scaled) else None,
                    "allowed": row.allowed,
                    "passed": row.passed,
                }
                for row in rows
            ],
        }

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
        agreeing = counted(len(self.layers) - self.gradients, self.gradients)
        verb = "agrees" if len(self.layers) == 1 else "agree"
        allowed = f"{self.tolerance:.0e}"
        if self.narrow or self.quantized:
            ends = [f"{end(x.allowed for x in self.layers):.0e}" for end in (min, max)]
            allowed = f"{' to '.join(dict.fromkeys(ends))}{dtypes}"
        return (
            f"{agreeing} {verb} with the golden sample on {self.device}: largest "
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
    model: HasProgram, tolerance: float | None = None, *, timeout: float | None = None
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
    card = program.card
    golden = card.golden if card else None
    if card is None or golden is None or not golden.layers:
        raise ModelFileError(f"{program.name} has no golden sample to check against{_why(card)}")
    allowed = allowed_errors(program, tolerance)
    order = {layer.tensor: layer.index for layer in program.layers}
    gradients = set(card.gradients.tensors.values()) if card.gradients else set()
    names = sorted(golden.layers, key=lambda name: order.get(name, len(order)))
    with time_limit(timeout):
        values, not_run = _computed(program, golden, card.inputs, names, gradients)
    names = [name for name in names if name in values]
    stated = card.digest
    return CheckReport(
        changed=changed_parts(stated, digest_of(program.source, card)) if stated else (),
        device=program.engine.device,
        tolerance=allowed.tolerance,
        gradients=len(gradients.intersection(names)),
        narrow=allowed.dtypes(names),
        quantized=card.quantized.to if card.quantized and tolerance is None else "",
        not_run=not_run,
        layers=tuple(
            LayerDeviation(
                name=name,
                scaled=_deviation(values[name], golden.layers[name]),
                allowed=allowed.of(name),
            )
            for name in names
        ),
    )


def _why(card: Card | None) -> str:
    """Why a file has no golden sample, and what has one."""
    if card is not None and card.golden is not None:
        return ": its outputs are no numbers, or rounding alone moves them too far for a check."
    if card is not None and card.stripped:
        return (
            ": --strip left it out. Check the file that this one was made from, or write this one "
            "again without --strip."
        )
    if card is not None and card.made_from is not None and card.made_from.step == "cut":
        return (
            ": a part has none if it needs layers as inputs. Check the file that it was cut from"
            + (f", {card.made_from.file!r}." if card.made_from.file else ".")
        )
    return "; files that layertap exports do."


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


def _share(row: LayerDeviation) -> float:
    """The share of what is allowed; infinite for a NaN."""
    share = row.scaled / row.allowed if row.allowed else row.scaled
    return math.inf if math.isnan(share) else share


def _sentence(parts: tuple[str, ...]) -> str:
    text = change_text(parts)
    return f"{text[0].upper()}{text[1:]}."


def _deviation(value: Any, expected: GoldenLayer) -> float:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        return float("inf")
    if value.shape != expected.shape or len(expected.values) > value.size:
        return float("inf")
    flat = value.ravel()
    known = expected.sums or ()  # none in a file of before format 1.3
    return sketched_error(
        flat[indices(flat.size, len(expected.values))].astype(np.float64),
        norm(flat),
        weighted_sums(flat, len(known)),
        np.array(expected.values),
        expected.norm,
        np.array(known),
        scale=expected.scale,
        size=flat.size,
    ).scaled
