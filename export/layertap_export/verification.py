"""Comparing a file with Keras, layer by layer, on the same batches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import layertap
from layertap._layer import Shape
from layertap._session import import_onnxruntime
from layertap._table import shape_text
from layertap.card import Card, Golden, Gradients, LayerCheck, Verification
from layertap.errors import ModelFileError, UsageError
from layertap.images import ImageSource
from layertap.preprocessing import Preprocessing

from .batches import DOUBLINGS, Batch, seeded_batches
from .errors import ExportError, VerificationError
from .golden_values import digits, golden_layer
from .gradient_check import GradientCheck
from .loading import load_model
from .recording import Recorder, named_leaves
from .sample_sizes import has_free_sizes
from .tracing import model_inputs, packed

TOLERANCE = 1e-4
"""Largest scaled error that passes unless the caller says otherwise."""

Activations = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDifference:
    """How far one layer of the file is from Keras's, over all batches."""

    name: str
    max_abs: float
    """Largest absolute difference."""
    scaled: float
    """Largest, over the batches, of `max_abs` divided by Keras's largest absolute value."""
    problem: str = ""
    """A wrong shape or dtype, or a NaN, which fails whatever the tolerance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationReport:
    """What came of comparing a file with Keras. True if every layer passed."""

    file: str
    tolerance: float
    batches: tuple[str, ...]
    layers: tuple[LayerDifference, ...]
    """In the order in which the layers run."""
    golden: Golden
    """Keras's values on the first batch."""
    gradients: Gradients | None = None
    """What the file has of gradients; whether rows of weights broadcast was found out by a run."""

    def __bool__(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> tuple[LayerDifference, ...]:
        return tuple(x for x in self.layers if x.problem or x.scaled > self.tolerance)

    @property
    def worst(self) -> LayerDifference:
        """The layer with the largest scaled error."""
        return max(self.layers, key=lambda layer: layer.scaled)

    def check(self) -> None:
        """Raise VerificationError, with the table of the worst layers, unless all passed."""
        if self.failed:
            raise VerificationError(str(self), self)

    def __str__(self) -> str:
        if not self.failed:
            worst = self.worst
            return (
                f"verified {self._counted} against Keras on {len(self.batches)} batches "
                f"({'; '.join(self.batches)}): largest scaled error {worst.scaled:.1e} "
                f"in {worst.name!r}, allowed {self.tolerance:.0e}"
            )
        return "\n".join(self._failure())

    @property
    def _counted(self) -> str:
        shown = self.gradients.tensors.values() if self.gradients else ()
        gradients = sum(x.name in shown for x in self.layers)
        layers = f"{len(self.layers) - gradients} layers"
        if not gradients:
            return layers
        return f"{layers} and {gradients} gradient{'s' if gradients > 1 else ''}"

    def _failure(self, rows: int = 10) -> Iterator[str]:
        first, *others = self.failed
        others = sorted(others, key=lambda x: (not x.problem, -x.scaled))[: rows - 1]
        yield (
            f"{self.file} is not what Keras computes: {len(self.failed)} of {len(self.layers)} "
            f"layers differ by more than {self.tolerance:.0e} of their scale. "
            f"The first to diverge is {first.name!r}."
        )
        width = max(len(x.name) for x in [first, *others])
        yield f"{'layer':{width}}  max abs diff  scaled error"
        for x in [first, *others]:
            yield f"{x.name:{width}}  {x.max_abs:12.2e}  {x.scaled:12.2e}  {x.problem}".rstrip()

    def for_card(self) -> Verification:
        """The same for the card; two digits, so that equal exports are equal bytes."""
        return Verification(
            tolerance=self.tolerance,
            batches=self.batches,
            onnxruntime=import_onnxruntime().__version__,
            layers={
                x.name: LayerCheck(max_abs=digits(x.max_abs, 2), scaled=digits(x.scaled, 2))
                for x in self.layers
            },
        )


def verify(
    path: str | os.PathLike[str],
    model: Any,
    *,
    tolerance: float = TOLERANCE,
    samples: Sequence[ImageSource] = (),
    weights: str | os.PathLike[str] | None = None,
    unsafe: bool = False,
) -> VerificationReport:
    """Compare a file that layertap exported with the Keras model it was made from.

    Args:
        path: the `.onnx` file.
        model: a `keras.Model`, or what `layertap export` takes.
        tolerance: largest scaled error that passes.
        samples: images to verify on beside the seeded batches.
        weights: for a `"package.module:function"`, a file handed to it as `weights`.
        unsafe: load files that hold Python code (Lambda layers).

    Returns:
        The report; false if a layer differs (nothing is raised for that).

    Raises:
        ModelFileError: the file cannot be read or was not made by layertap.
        ExportError: the model cannot be loaded or run, or is not the one in the file.
    """
    card = layertap.open(path).card
    if card is None:
        raise ModelFileError(
            f"{os.fspath(path)!r} has no layertap card, so there is nothing to compare by name. "
            "`layertap export` writes files that have one."
        )
    if isinstance(model, (str, os.PathLike)):
        model = load_model(model, weights=weights, unsafe=unsafe)
    _check_same_inputs(model, card, os.fspath(path))
    return verify_file(Path(path), model, card, tolerance=tolerance, samples=samples)


def _check_same_inputs(model: Any, card: Card, path: str) -> None:
    given = [(info.name, info.shape) for info in model_inputs(model)]
    expected = [(info.name, info.shape) for info in card.inputs]
    if given != expected:
        raise ExportError(
            f"{path!r} was not made from this model: its inputs are {_listed(expected)}, "
            f"the model's are {_listed(given)}."
        )


def _listed(inputs: Sequence[tuple[str, Shape]]) -> str:
    return ", ".join(f"{name!r} {shape_text(shape)}" for name, shape in inputs)


def verify_file(
    path: Path,
    model: Any,
    card: Card,
    *,
    tolerance: float = TOLERANCE,
    samples: Sequence[ImageSource] = (),
    check: GradientCheck | None = None,
) -> VerificationReport:
    """Compare every output of the file with Keras's.

    Args:
        path: the file.
        model: the Keras model it was made from.
        card: its card.
        tolerance: largest scaled error that passes.
        samples: the user's own images, compared too, with the card's preprocessing.
        check: compares the file's gradients; by default on the layers that the file exposes.

    Raises:
        ExportError: onnxruntime cannot open or run the file, or Keras the model.
        UsageError: the tolerance is no finite number from 0 up.
    """
    if not 0 <= tolerance < np.inf:
        raise UsageError(f"the tolerance {tolerance} makes no sense: give a number from 0 up.")
    session = _opened(path)
    gradients = set(card.gradients.tensors.values()) if card.gradients else set()
    wanted = [x.name for x in session.get_outputs() if x.name not in gradients]
    if card.gradients and check is None:
        complete = all(layer.exposed for layer in card.layers)
        check = GradientCheck(onnx.load(path), card, model, complete=complete)
    totals: dict[str, LayerDifference] = {}
    batches: list[str] = []
    golden: Golden | None = None
    for batch, expected in _references(model, card, wanted, samples):
        golden = golden or _golden(batch, expected)
        actual = _run(session, card, batch, path)
        for name in wanted:
            found = _difference(name, actual.pop(name), expected.get(name))
            totals[name] = _larger(totals.get(name), found)
        for name, value, other in check.pairs(batch.arrays) if check else ():
            totals[name] = _larger(totals.get(name), _difference(name, value, other))
        batches.append(batch.label)
    assert golden is not None  # there are always seeded batches
    if check:
        golden = replace(golden, layers={**golden.layers, **check.golden})
    return VerificationReport(
        file=str(path),
        tolerance=tolerance,
        batches=tuple(batches),
        layers=tuple(sorted(totals.values(), key=lambda x: _place(card, x.name))),
        golden=golden,
        gradients=check.measured if check else None,
    )


def _opened(path: Path) -> Any:
    """A plain onnxruntime session over the whole file, as any client would make it."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as exc:
        raise ExportError(f"onnxruntime cannot open the exported file: {exc}") from exc


def _run(session: Any, card: Card, batch: Batch, path: Path) -> dict[str, NDArray[Any]]:
    feeds = {info.name: x for info, x in zip(card.inputs, batch.arrays, strict=True)}
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, feeds), strict=True))
    except Exception as exc:
        raise ExportError(f"onnxruntime cannot run the exported file: {exc}") from exc


def _references(
    model: Any, card: Card, wanted: Sequence[str], samples: Sequence[ImageSource]
) -> Iterator[tuple[Batch, Activations]]:
    """The batches, each with what Keras makes of it."""
    recipe = Preprocessing.from_dict(card.preprocessing) if card.preprocessing else None
    doublings = range(DOUBLINGS + 1) if has_free_sizes(card.inputs) else range(1)
    for doubling in doublings:
        try:
            for batch in seeded_batches(model, card.inputs, recipe, doubling):
                yield batch, reference(model, card, batch.arrays, wanted)
            break
        except Exception as exc:
            # A deep network may shrink small sizes to nothing.
            if doubling == doublings[-1]:
                raise ExportError(f"Keras cannot run the model on a test batch: {exc}") from exc
    if samples:
        pixels = (recipe or Preprocessing()).batch(samples)
        label = f"{' x '.join(map(str, pixels.shape))}, your images"
        yield Batch(label, (pixels,)), reference(model, card, (pixels,), wanted)


def reference(
    model: Any, card: Card, arrays: Sequence[NDArray[Any]], wanted: Sequence[str]
) -> Activations:
    """What Keras itself gives, run eagerly, by the names of the file's outputs."""
    tensors = {layer.name: layer.tensor for layer in card.layers if layer.tensor in wanted}
    recorder = Recorder(keep=tensors.__contains__)
    with recorder.recording():
        result = model(packed(model, arrays), training=False)
    values = {
        str(tensors[name]): tensor.numpy()
        for call in recorder.calls
        for name, tensor in call.outputs
    }
    for info, (_, tensor) in zip(card.outputs, named_leaves(result), strict=True):
        values[info.name] = tensor.numpy()
    return values


def _difference(name: str, actual: NDArray[Any], expected: NDArray[Any] | None) -> LayerDifference:
    """Shape and dtype first, then values; a NaN equals only a NaN."""
    problem = ""
    if expected is None:
        problem = "the model has no such layer"
    elif actual.shape != expected.shape:
        problem = f"shape {actual.shape} instead of {expected.shape}"
    elif actual.dtype != expected.dtype:
        problem = f"dtype {actual.dtype} instead of {expected.dtype}"
    if expected is None or problem:
        return LayerDifference(name=name, max_abs=np.inf, scaled=np.inf, problem=problem)
    if actual.dtype.kind not in "fiub":
        unequal = float(np.mean(actual != expected)) if actual.size else 0.0
        return LayerDifference(name=name, max_abs=unequal, scaled=unequal)
    finite = np.isfinite(expected)
    same = np.isnan(actual) == np.isnan(expected) if actual.dtype.kind == "f" else finite
    if not np.all(same) or not np.array_equal(np.isfinite(actual), finite):
        return LayerDifference(name=name, max_abs=np.inf, scaled=np.inf, problem="NaN or infinite")
    if not finite.all():
        actual, expected = actual[finite], expected[finite]
    kind = np.float64 if actual.dtype.kind != "f" or actual.dtype.itemsize > 4 else np.float32
    # float32 values subtract without a further rounding that matters here, in half the memory.
    delta = np.abs(np.subtract(actual, expected, dtype=kind))
    max_abs = float(delta.max(initial=0))
    scale = float(np.abs(expected.astype(kind, copy=False)).max(initial=0))
    return LayerDifference(name=name, max_abs=max_abs, scaled=max_abs / scale if scale else max_abs)


def _larger(one: LayerDifference | None, other: LayerDifference) -> LayerDifference:
    if one is None:
        return other
    return LayerDifference(
        name=one.name,
        max_abs=max(one.max_abs, other.max_abs),
        scaled=max(one.scaled, other.scaled),
        problem=one.problem or other.problem,
    )


def _golden(batch: Batch, expected: Activations) -> Golden:
    layers = {}
    for name, value in sorted(expected.items()):
        if value.dtype.kind in "fiub" and np.isfinite(value).all():
            layers[name] = golden_layer(value)
    return Golden(seed=0, inputs=batch.golden, layers=layers)


def _place(card: Card, name: str) -> int:
    """Where a layer runs; outputs that are no layer come last."""
    places_of = {layer.name: layer.index for layer in card.layers}
    return places_of.get(name, len(card.layers))
