"""The result of comparing a file with its model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from layertap._engine.library import import_onnxruntime
from layertap._public import public
from layertap.errors import LayertapWarning
from layertap.format.card import Golden, Gradients, LayerCheck, TableRows, Verification
from layertap.format.layer import Shape
from layertap.format.text import Readable, counted, finite, printable, shape_text
from layertap_export.errors import VerificationError

from .golden_values import digits


@public
@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDifference:
    """How far one layer of the file is from Keras's, over all batches."""

    name: str
    max_abs: float
    """Largest absolute difference."""
    scaled: float
    """Largest, over the batches, of `max_abs` divided by the scale of Keras's values."""
    problem: str = ""
    """A wrong shape or dtype, or a NaN; these fail at any tolerance."""
    from_float64: float | None = None
    """The file's largest scaled error against Keras in float64, if that was requested."""
    keras_from_float64: float | None = None
    """The same error of Keras itself; the smaller of the two is closer to the truth."""
    reference_error: float | None = None
    """Where `scaled` is over the tolerance and the layer passes: how far Keras is from itself, from
    Keras in float64 or, where that is not known, after a change of the input by a millionth."""
    worse: bool = False
    """Whether the layer fails because the file is worse than Keras; see `reference_error`."""


@public
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class VerificationReport(Readable):
    """The result of comparing a file with its model. True if every layer passed."""

    file: str
    tolerance: float
    batches: tuple[str, ...]
    layers: tuple[LayerDifference, ...]
    """In the order in which the layers run."""
    golden: Golden
    """Keras's values on the first batch."""
    gradients: Gradients | None = None
    """The gradients in the file; `broadcasts` was measured."""
    reference: str = "Keras"
    """What it was compared with: `Keras`, or `TensorFlow` for a signature."""
    per_sample: frozenset[str] = frozenset()
    """The outputs whose first axis had the size of every batch."""
    misnamed: frozenset[str] = frozenset()
    """The outputs whose first axis is named after the batch, but has another size."""
    misdeclared: Mapping[str, Shape] = field(default_factory=dict)
    """By name of an input or output whose arrays do not have the declared sizes: the shape with
    `None` for these sizes."""
    tables: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """By the name of the layer that reads it, how many rows of a table (weights that an input is an
    index of, the keys of a vocabulary) were read in all batches, and how many it has."""
    hardly_read: tuple[str, ...] = ()
    """The names of tables of which many rows were not read, so that faults in them may remain."""
    inputs: tuple[str, ...] = ()
    """The names of the model's inputs."""
    notes: tuple[str, ...] = ()
    """In words: batches that the model does not take, and outputs whose number of axes varies."""

    def __bool__(self) -> bool:
        return not self.failed and not self.misnamed and not self.misdeclared

    @property
    def failed(self) -> tuple[LayerDifference, ...]:
        return tuple(
            x
            for x in self.layers
            if x.problem or x.worse or (x.scaled > self.tolerance and x.reference_error is None)
        )

    @property
    def unsteady(self) -> tuple[LayerDifference, ...]:
        """The layers that are over the tolerance and pass, because Keras itself is as far off."""
        failed = self.failed
        return tuple(x for x in self.layers if x.reference_error is not None and x not in failed)

    @property
    def worst(self) -> LayerDifference:
        """The layer with the largest scaled error; of those that are not `unsteady` if possible."""
        unsteady = self.unsteady
        return max(self.layers, key=lambda x: (x not in unsteady, x.scaled))

    def raise_if_failed(self) -> None:
        """Raise VerificationError, with the table of the worst layers, unless all passed."""
        if not self:
            raise VerificationError(str(self), self)

    def check(self) -> None:
        """Do the same as `raise_if_failed`; this is its former name."""
        self.raise_if_failed()

    def __str__(self) -> str:
        if self.misnamed and not self.failed:
            return (
                f"{self.file} says that the first axis of {min(self.misnamed)!r} is that of the "
                "batch, and it has another size."
            )
        if self.misdeclared and not self.failed:
            name, shape = next(iter(self.misdeclared.items()))
            return (
                f"{self.file} declares sizes of {name!r} that its arrays do not have; these are "
                f"free: {shape_text(shape)}."
            )
        if not self.failed:
            return (
                f"verified {self._counted} against {self.reference} on {len(self.batches)} "
                f"batches ({'; '.join(self.batches)}){self._of_steady()}{self._of_unsteady()}"
                f"{self._against_float64()}{self._rows}{self._refused}"
            )
        return "\n".join(self._failure()) + self._against_float64()

    def _of_steady(self) -> str:
        worst = self.worst
        if worst in self.unsteady:
            return ""
        return (
            f": largest scaled error {worst.scaled:.1e} in {worst.name!r}, allowed "
            f"{self.tolerance:.0e}"
        )

    def _of_unsteady(self) -> str:
        count = len(self.unsteady)
        if not count:
            return ""
        worst = max(self.unsteady, key=lambda x: x.scaled)
        some = "1 of these differs" if count == 1 else f"{count} of these differ"
        known = worst.from_float64 is not None
        source = (
            "from float64 or if the input changes by 1e-06"
            if known
            else "if the input changes by 1e-06 or sums are rounded otherwise"
        )
        return (
            f"\n{some} by more than {self.tolerance:.0e}, up to {worst.scaled:.1e} in "
            f"{worst.name!r}: {self.reference} is not more exact there, its own result differs by "
            f"{worst.reference_error:.1e} {source}"
        )

    def warn_of_rows(self, stacklevel: int) -> None:
        """Warn, with a `LayertapWarning`, of tables of which many rows were not read."""
        if not self.hardly_read or self.failed:
            return
        shown = [
            f"{self.tables[name][0]:,} of {self.tables[name][1]:,} rows of {name!r}"
            for name in self.hardly_read[:3]
        ]
        more = len(self.hardly_read) - len(shown)
        warnings.warn(
            f"the comparison with {self.reference} read {', '.join(shown)}"
            + (f" and of {more} more" if more else "")
            + ": an error in the other rows is not noticed. Give batches that read them: --sample "
            f"FILE.npz with the names {', '.join(self.inputs)} (samples= in Python).",
            LayertapWarning,
            stacklevel=stacklevel + 1,
        )

    @property
    def _rows(self) -> str:
        """Which share of the tables was read, as a line of its own; empty without tables."""
        if not self.tables:
            return ""
        shown = [
            f"{name!r} {read:,} of {rows:,}"
            for name, (read, rows) in sorted(self.tables.items(), key=_share)
        ]
        more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
        return f"\nrows of tables that were read: {', '.join(shown[:5])}{more}"

    @property
    def _refused(self) -> str:
        """The first notes, one a line."""
        more = f" and {len(self.notes) - 3} more" if len(self.notes) > 3 else ""
        return "".join(f"\n{note}" for note in self.notes[:3]) + more

    def _against_float64(self) -> str:
        known = [x for x in self.layers if x.from_float64 is not None]
        if not known:
            return ""
        ours = max(known, key=lambda x: x.from_float64 or 0.0)
        theirs = max(known, key=lambda x: x.keras_from_float64 or 0.0)
        closer = sum((x.from_float64 or 0) <= (x.keras_from_float64 or 0) for x in known)
        return (
            f"\nagainst Keras in float64 the file's largest scaled error is "
            f"{ours.from_float64:.1e} in {ours.name!r}, Keras's own "
            f"{theirs.keras_from_float64:.1e} in {theirs.name!r}; the file is as close or closer "
            f"in {closer} of {len(known)} layers"
        )

    @property
    def _counted(self) -> str:
        shown = self.gradients.added if self.gradients else ()
        gradients = sum(x.name in shown for x in self.layers)
        count = len(self.layers) - gradients
        return counted(count, gradients, self._noun)

    @property
    def _noun(self) -> str:
        return "output" if self.reference == "TensorFlow" else "layer"

    def _failure(self, rows: int = 10) -> Iterator[str]:
        count, (first, *others) = len(self.layers), self.failed
        others = sorted(others, key=lambda x: (not x.problem, -x.scaled))[: rows - 1]
        yield (
            f"{self.file} is not what {self.reference} computes: {len(self.failed)} of "
            f"{count} {self._noun}s differ by more than {self.tolerance:.0e} of their "
            f"scale. The first to diverge is {first.name!r}."
        )
        names = {x.name: printable(x.name) for x in [first, *others]}
        width = max(map(len, names.values()))
        yield f"{'layer':{width}}  max abs diff  scaled error"
        for x in [first, *others]:
            reason = x.problem
            if x.worse and x.from_float64 is not None and x.keras_from_float64 is not None:
                reason = (
                    f"from float64: {x.from_float64:.1e}, "
                    f"{self.reference} {x.keras_from_float64:.1e}"
                )
            name = f"{names[x.name]:{width}}"
            yield f"{name}  {x.max_abs:12.2e}  {x.scaled:12.2e}  {reason}".rstrip()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-compatible objects. Errors that are NaN are `None`, infinite ones the
        text `inf`."""
        failed = {x.name for x in self.failed}
        return {
            "passed": bool(self),
            "file": self.file,
            "reference": self.reference,
            "tolerance": self.tolerance,
            "batches": list(self.batches),
            "compared": len(self.layers),
            "failed": len(failed),
            "misnamed": sorted(self.misnamed),
            "misdeclared": {name: list(shape) for name, shape in self.misdeclared.items()},
            "tables": {
                name: {"read": read, "rows": rows} for name, (read, rows) in self.tables.items()
            },
            "notes": list(self.notes),
            "layers": [
                {
                    "name": x.name,
                    "passed": x.name not in failed,
                    "max_abs": finite(x.max_abs),
                    "scaled": finite(x.scaled),
                    "problem": x.problem,
                    "from_float64": _finite(x.from_float64),
                    "keras_from_float64": _finite(x.keras_from_float64),
                    "reference_error": _finite(x.reference_error),
                }
                for x in self.layers
            ],
        }

    def for_card(self) -> Verification:
        """The card's entry, rounded to two digits, so that equal exports are equal bytes."""
        return Verification(
            tolerance=self.tolerance,
            batches=self.batches,
            onnxruntime=import_onnxruntime().__version__,
            layers={
                x.name: LayerCheck(
                    max_abs=digits(x.max_abs, 2),
                    scaled=digits(x.scaled, 2),
                    reference=None if x.reference_error is None else digits(x.reference_error, 2),
                )
                for x in self.layers
            },
            tables={
                name: TableRows(read=read, rows=rows) for name, (read, rows) in self.tables.items()
            }
            or None,
        )


def _finite(number: float | None) -> float | str | None:
    return None if number is None else finite(number)


def _share(item: tuple[str, tuple[int, int]]) -> float:
    read, rows = item[1]
    return read / rows if rows else 1.0
