"""How large an error may be: the tolerance of the export, and what 16 bits, quantisation or Keras
explain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from layertap._engine.program import Program
from layertap.format.narrow import Narrow, narrow_tensors

from .measures import check_tolerance

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


class Allowed(NamedTuple):
    """The largest scaled errors that pass, by tensor."""

    tolerance: float
    """Of tensors of which nothing else is known."""
    unsteady: Mapping[str, float]
    """Of tensors in which Keras itself was over the tolerance."""
    narrow: Mapping[str, Narrow]
    """The tensors that are computed in 16 bits."""
    gradients: frozenset[str]
    """The tensors that are gradients."""
    quantized: Mapping[str, float]
    """How far quantisation moved a tensor of the golden sample."""

    def of(self, tensor: str) -> float:
        """The largest scaled error that passes for a tensor."""
        allowed = self.unsteady.get(tensor, self.tolerance)
        if tensor in self.narrow:
            least = KINKS if tensor in self.gradients else 0.0
            allowed = max(allowed, self.narrow[tensor].tolerance, least)
        return allowed + QUANTIZED * self.quantized.get(tensor, 0.0)

    def dtypes(self, tensors: Iterable[str]) -> tuple[str, ...]:
        """The dtypes of 16 bits that some of the tensors are computed in."""
        return tuple(sorted({self.narrow[x].dtype for x in tensors if x in self.narrow}))


def allowed_errors(program: Program, tolerance: float | None = None) -> Allowed:
    """The largest scaled errors that pass for a file.

    Args:
        program: the file.
        tolerance: the same for all tensors; by default that of the export, which depends on the
            dtypes that Keras computed in, or more for tensors that the file computes in 16 bits,
            and those in which Keras itself could not hold it.

    Raises:
        UsageError: the tolerance is negative or not a number.
    """
    card = program.card
    gradients = frozenset(card.gradients.tensors.values() if card and card.gradients else ())
    if tolerance is not None:
        check_tolerance(tolerance)
        return Allowed(tolerance, {}, {}, gradients, {})
    checked = card.verification if card else None
    tolerance = checked.tolerance if checked else TOLERANCE
    check_tolerance(tolerance)
    own = checked.layers if checked else {}
    return Allowed(
        tolerance,
        {name: tolerance + UNSTEADY * x.reference for name, x in own.items() if x.reference},
        narrow_tensors(program.source, program.graph),
        gradients,
        card.quantized.golden if card and card.quantized else {},
    )
