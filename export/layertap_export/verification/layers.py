"""Comparing a file with Keras, layer by layer, on the same batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from numpy.typing import NDArray

import layertap
from layertap._engine.library import import_onnxruntime
from layertap.errors import ModelFileError, UsageError, suggest
from layertap.format.card import Card, Golden, Gradients, LayerCheck, Verification
from layertap.format.layer import Shape
from layertap.format.text import counted, shape_text
from layertap.images.load import ImageSource
from layertap.images.preprocessing import Preprocessing
from layertap_export.convert.dtypes import as_in_file
from layertap_export.errors import ExportError, VerificationError, keras_words
from layertap_export.keras_model.float64 import in_float64
from layertap_export.keras_model.inputs import model_inputs
from layertap_export.keras_model.loading import load_model
from layertap_export.keras_model.signatures import Signature
from layertap_export.keras_model.tracing import Trace, returned, trace
from layertap_export.keras_model.variables import in_place
from layertap_export.keras_model.wrapping import setting

from .batches import Batch, seeded_batches
from .error_scales import least_scales
from .golden_values import digits, golden_layer
from .gradient_check import GradientCheck
from .sample_sizes import doublings

REFERENCES = ("keras", "float64")
"""What a file is compared with: Keras as it is; `float64` adds Keras in float64."""

TOLERANCE = 1e-4
"""Largest scaled error that passes in float32 and float64 unless the caller says otherwise."""

Activations = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDifference:
    """How far one layer of the file is from Keras's, over all batches."""

    name: str
    max_abs: float
    """Largest absolute difference."""
    scaled: float
    """Largest, over the batches, of `max_abs` divided by the scale of Keras's values."""
    problem: str = ""
    """A wrong shape or dtype, or a NaN, which fails whatever the tolerance."""
    from_float64: float | None = None
    """The file's largest scaled error against Keras in float64, if that was asked for."""
    keras_from_float64: float | None = None
    """That of Keras itself: which of the two is closer to the truth?"""


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
    reference: str = "Keras"
    """What it was compared with: `TensorFlow` for a signature, of which there are only outputs."""
    per_sample: frozenset[str] = frozenset()
    """The outputs whose first axis had the size of every batch."""

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
            worst, truth = self.worst, self._against_float64()
            return (
                f"verified {self._counted} against {self.reference} on {len(self.batches)} "
                f"batches ({'; '.join(self.batches)}): largest scaled error "
                f"{worst.scaled:.1e} in {worst.name!r}, allowed {self.tolerance:.0e}{truth}"
            )
        return "\n".join(self._failure())

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
        shown = self.gradients.tensors.values() if self.gradients else ()
        gradients = sum(x.name in shown for x in self.layers)
        count = len(self.layers) - gradients
        return counted(count, gradients, self._things(count))

    def _things(self, count: int) -> str:
        if self.reference != "TensorFlow":
            return "layers"
        return "output" if count == 1 else "outputs"

    def _failure(self, rows: int = 10) -> Iterator[str]:
        count, (first, *others) = len(self.layers), self.failed
        others = sorted(others, key=lambda x: (not x.problem, -x.scaled))[: rows - 1]
        yield (
            f"{self.file} is not what {self.reference} computes: {len(self.failed)} of {count} "
            f"{self._things(count)} differ by more than {self.tolerance:.0e} of their scale. The "
            f"first to diverge is {first.name!r}."
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
    tolerance: float | None = None,
    samples: Sequence[ImageSource] = (),
    weights: str | os.PathLike[str] | None = None,
    custom_objects: Mapping[str, Any] | Iterable[Any] = (),
    signature: str | None = None,
    unsafe: bool = False,
    reference: str = "keras",
    progress: Callable[[str], None] = lambda stage: None,
) -> VerificationReport:
    """Compare a file that layertap exported with the Keras model it was made from.

    Args:
        path: the `.onnx` file.
        model: a `keras.Model` or `tf_keras.Model`, or what `layertap export` takes.
        tolerance: largest scaled error that passes; by default what the export allowed.
        samples: images to verify on beside the seeded batches.
        weights: for a `"package.module:function"`, a file handed to it as `weights`, or loaded
            into the model that it returns.
        custom_objects: the model's own classes and functions, as `load_model` takes them.
        signature: of a SavedModel, the signature to compare with; by default the one that the file
            was made from.
        unsafe: load files that hold Python code (Lambda layers).
        reference: with `float64` the report also says how far the file and Keras itself are from
            the same model in float64. Whether a layer passes does not hang on it.
        progress: called with the name of each stage.

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
        progress("loading the model")
        model = load_model(
            model,
            weights=weights,
            custom_objects=custom_objects,
            signature=signature or card.source.signature,
            unsafe=unsafe,
        )
    _check_same_inputs(model, card, os.fspath(path))
    if tolerance is None:
        tolerance = card.verification.tolerance if card.verification else TOLERANCE
    progress(f"comparing with {reference_of(model)}")
    return verify_file(
        Path(path), model, card, tolerance=tolerance, samples=samples, reference=reference
    )


def _check_same_inputs(model: Any, card: Card, path: str) -> None:
    inputs = model.inputs if isinstance(model, Signature) else model_inputs(model).infos
    given = [(info.name, info.shape) for info in inputs]
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
    reference: str = "keras",
    traced: Trace | None = None,
    check: GradientCheck | None = None,
) -> VerificationReport:
    """Compare every output of the file with Keras's.

    Args:
        path: the file.
        model: the Keras model it was made from.
        card: its card.
        tolerance: largest scaled error that passes.
        samples: the user's own images, compared too, with the card's preprocessing.
        reference: one of `REFERENCES`.
        traced: a trace of the model, if there is one whose symbols are all in the file.
        check: compares the file's gradients; by default on the layers that the file exposes.

    Raises:
        ExportError: onnxruntime cannot open or run the file, or Keras the model.
        UsageError: the tolerance is no finite number from 0 up, or there is no such reference.
    """
    if reference not in REFERENCES:
        raise UsageError(
            f"there is no reference {reference!r}; give 'keras' or 'float64'."
            + suggest(reference, REFERENCES)
        )
    if not 0 <= tolerance < np.inf:
        raise UsageError(f"the tolerance {tolerance} makes no sense: give a number from 0 up.")
    session = _opened(path)
    gradients = set(card.gradients.tensors.values()) if card.gradients else set()
    wanted = [x.name for x in session.get_outputs() if x.name not in gradients]
    if card.gradients and check is None:
        complete = all(layer.exposed for layer in card.layers if layer.why_not is None)
        check = GradientCheck(onnx.load(path), card, model, complete=complete)
    precisely = _precise_runner(model, card, wanted) if reference == "float64" else None
    least = least_scales(path)
    totals: dict[str, LayerDifference] = {}
    batches: list[str] = []
    golden: Golden | None = None
    per_sample = set(wanted)
    for batch, expected in _references(model, card, wanted, samples, traced):
        golden = golden or _golden(batch, expected, least)
        sizes = tuple(len(array) for array in batch.arrays if array.ndim)[:1]
        per_sample &= {name for name, value in expected.items() if value.shape[:1] == sizes}
        actual = _run(session, card, batch, path)
        truth = precisely(batch.arrays) if precisely else {}
        for name in wanted:
            ours, theirs = actual.pop(name), expected.pop(name, None)
            smallest = least.get(name, 0.0)
            found = _difference(name, ours, theirs, smallest)
            if theirs is not None and name in truth:
                exact = truth.pop(name)
                found = replace(
                    found,
                    from_float64=_scaled(ours, exact, smallest),
                    keras_from_float64=_scaled(theirs, exact, smallest),
                )
            totals[name] = _larger(totals.get(name), found)
        for name, value, other in check.pairs(batch.arrays) if check else ():
            totals[name] = _larger(totals.get(name), _difference(name, value, other, 0.0))
        batches.append(batch.label)
    assert golden is not None  # there are always seeded batches
    if check:
        golden = replace(golden, layers={**golden.layers, **check.golden})
    ends = _places(card)
    return VerificationReport(
        file=str(path),
        tolerance=tolerance,
        batches=tuple(batches),
        # Outputs that are no layer come last.
        layers=tuple(
            sorted(totals.values(), key=lambda x: ends.get(x.name, (len(card.layers), 0)))
        ),
        golden=golden,
        gradients=check.measured if check else None,
        reference=reference_of(model),
        per_sample=frozenset(per_sample),
    )


def reference_of(model: Any) -> str:
    """What computes the values that a file is compared with."""
    return "TensorFlow" if isinstance(model, Signature) else "Keras"


def _opened(path: Path) -> Any:
    """A plain onnxruntime session over the whole file, as any client would make it."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    # Rearranged for speed, the weights of a large model would be in memory once more.
    options.add_session_config_entry("session.disable_prepacking", "1")
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
    model: Any,
    card: Card,
    wanted: Sequence[str],
    samples: Sequence[ImageSource],
    traced: Trace | None,
) -> Iterator[tuple[Batch, Activations]]:
    """The batches, each with what Keras makes of it."""
    recipe = Preprocessing.from_dict(card.preprocessing) if card.preprocessing else None
    run = runner(model, card, wanted, traced)
    choices = doublings(card.inputs)
    for doubling in choices:
        try:
            for batch in seeded_batches(model, card.inputs, recipe, doubling):
                expected = run(batch.arrays)
                empty = [name for name, value in expected.items() if value.size == 0]
                if empty and doubling != choices[-1]:
                    raise ValueError(f"layer {empty[0]!r} gives nothing at this size")
                yield batch, expected
            break
        except Exception as exc:
            # A deep network may shrink small sizes to nothing.
            if doubling == choices[-1]:
                raise ExportError(
                    f"Keras cannot run the model on a test batch: {keras_words(exc)}"
                ) from exc
    if samples:
        pixels = (recipe or Preprocessing()).batch(samples)
        label = f"{' x '.join(map(str, pixels.shape))}, your images"
        yield Batch(label, (pixels,)), run((pixels,))


def runner(
    model: Any, card: Card, wanted: Collection[str], traced: Trace | None = None
) -> Callable[[Sequence[NDArray[Any]]], Activations]:
    """What Keras itself gives for a batch, by the names of the file's outputs.

    The layers run as a TensorFlow function, as in `model.predict`: there the calls that are to be
    compared are those of the export, also where some are in loops. The model's own outputs come
    from a plain call of the model.
    """
    if isinstance(model, Signature):
        return lambda arrays: {k: as_in_file(v) for k, v in model.run(arrays).items()}
    tensors = {layer.name: layer.tensor for layer in card.layers if layer.tensor in wanted}
    if traced is None or not traced.runs:
        traced = trace(model, tensors, to_run=True)
    inputs = model_inputs(model)

    def run(arrays: Sequence[NDArray[Any]]) -> Activations:
        own = returned(model, inputs, arrays)  # what Keras refuses it refuses here, in its words
        with _unoptimised():
            flat = traced.function(*map(tf.convert_to_tensor, arrays))[len(traced.outputs) :]
        names = [tensors[row.layer.name] for row in traced.rows if row.symbol is not None]
        values = {str(name): as_in_file(in_place(x)) for name, x in zip(names, flat, strict=True)}
        for info, leaf in zip(card.outputs, own, strict=True):
            values[info.name] = as_in_file(in_place(leaf.value))
        return values

    return run


def _precise_runner(
    model: Any, card: Card, wanted: Collection[str]
) -> Callable[[Sequence[NDArray[Any]]], Activations]:
    """The same in float64."""
    copy = in_float64(model)
    run = runner(copy, card, wanted)
    # A model may say of an input that it is float32, whatever the layers compute in.
    dtypes = [np.dtype(info.dtype) for info in model_inputs(copy).infos]
    return lambda arrays: run(
        [x.astype(to) if x.dtype.kind == "f" else x for x, to in zip(arrays, dtypes, strict=True)]
    )


def _unoptimised() -> AbstractContextManager[None]:
    """Run functions as they were traced. To optimise a graph takes longer than to run it twice."""
    optimizer, switch = tf.config.optimizer, "disable_meta_optimizer"
    return setting(
        lambda: {switch: False, **optimizer.get_experimental_options()},
        optimizer.set_experimental_options,
        lambda before: {**before, switch: True},
    )


def _difference(
    name: str, actual: NDArray[Any], expected: NDArray[Any] | None, least: float
) -> LayerDifference:
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
    scale = float(np.abs(expected.astype(kind, copy=False)).max(initial=least))
    return LayerDifference(name=name, max_abs=max_abs, scaled=max_abs / scale if scale else max_abs)


def _scaled(actual: NDArray[Any], truth: NDArray[Any], least: float) -> float:
    """Largest difference, over the largest absolute value; of what is a finite number."""
    if actual.shape != truth.shape or truth.dtype.kind not in "fiub":
        return np.inf
    finite = np.isfinite(truth)
    delta = np.abs(actual[finite].astype(np.float64) - truth[finite])
    scale = float(np.abs(truth[finite]).max(initial=least))
    return float(delta.max(initial=0)) / (scale or 1.0)


def _larger(one: LayerDifference | None, other: LayerDifference) -> LayerDifference:
    if one is None:
        return other
    return LayerDifference(
        name=one.name,
        max_abs=max(one.max_abs, other.max_abs),
        scaled=max(one.scaled, other.scaled),
        problem=one.problem or other.problem,
        from_float64=_most(one.from_float64, other.from_float64),
        keras_from_float64=_most(one.keras_from_float64, other.keras_from_float64),
    )


def _most(one: float | None, other: float | None) -> float | None:
    return max((x for x in (one, other) if x is not None), default=None)


def _golden(batch: Batch, expected: Activations, least: Mapping[str, float]) -> Golden:
    layers = {}
    for name, value in sorted(expected.items()):
        if value.dtype.kind in "fiub" and np.isfinite(value).all():
            layers[name] = golden_layer(value, least.get(name, 0.0))
    return Golden(seed=0, inputs=batch.golden, layers=layers)


def _places(card: Card) -> dict[str, tuple[int, int]]:
    """Keys that sort outputs as their layers end: those inside a layer before it."""
    last: dict[str, int] = {}
    places: dict[str, tuple[int, int]] = {}
    for layer in reversed(card.layers):
        end = max(layer.index, last.get(layer.name, 0))
        places[str(layer.tensor)] = (end, -layer.index)
        if layer.parent is not None:
            last[layer.parent] = max(end, last.get(layer.parent, 0))
    return places
