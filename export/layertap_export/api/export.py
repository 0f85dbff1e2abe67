"""The export, from a Keras model to a verified file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from layertap.errors import UsageError
from layertap.format.card import Card, Source
from layertap.format.data_file import replacing_model
from layertap.format.layer import Layer
from layertap.format.select import Selector, parse_selector, select
from layertap.images.load import ImageSource
from layertap.images.preprocessing import Preprocessing
from layertap_export.convert.assemble import assemble, name_batch
from layertap_export.convert.dtypes import in_file, narrowing_notes, tolerance_for
from layertap_export.convert.to_onnx import to_onnx
from layertap_export.gradients.differentiating import add_gradients, narrowed, pads_needed
from layertap_export.gradients.select import listed
from layertap_export.graph.passes.cast_around import cast_around
from layertap_export.keras_model.families import checked_model, family_of
from layertap_export.keras_model.loading import load_model
from layertap_export.keras_model.signatures import Signature
from layertap_export.keras_model.tracing import Trace, trace
from layertap_export.keras_model.variables import sha256
from layertap_export.verification.gradient_check import GradientCheck
from layertap_export.verification.layers import (
    TOLERANCE,
    VerificationReport,
    reference_of,
    verify_file,
)
from layertap_export.writing import Writer, check

OPSETS = range(13, 19)
"""What tf2onnx 1.17 writes and the layout pass understands; 18 is the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export made."""

    path: Path
    card: Card
    verification: VerificationReport
    size_bytes: int
    seconds: float
    note: str = ""
    """Why there are no layers, where a signature was exported."""

    @property
    def exposed(self) -> tuple[str, ...]:
        """Names of the layers whose activations the file gives."""
        return tuple(layer.name for layer in self.card.layers if layer.exposed)

    def __str__(self) -> str:
        count = len(self.card.layers)
        what = f"{len(self.exposed)} of {count} layers exposed"
        signature = self.card.source.signature
        if signature:
            outputs = "output" if count == 1 else "outputs"
            what = f"{count} {outputs} of the signature {signature!r}"
        lines = (
            f"wrote {self.path} ({self.size_bytes / 1e6:.1f} MB, {what}) in {self.seconds:.0f} s",
            self.note,
            str(self.verification),
            *(f"note: {note}" for note in self.card.notes or ()),
        )
        return "\n".join(filter(None, lines))


def export(
    model: Any,
    path: str | os.PathLike[str],
    *,
    layers: str | Selector | Iterable[Selector] = "all",
    type: str | Iterable[str] | None = None,  # noqa: A002 - the word that users know from Keras
    gradients: Selector | Iterable[Selector] = (),
    score: str | None = None,
    preprocess: Preprocessing | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    labels: Sequence[str] | str | os.PathLike[str] | None = None,
    opset: int = 18,
    tolerance: float | None = None,
    samples: Sequence[ImageSource] = (),
    weights: str | os.PathLike[str] | None = None,
    custom_objects: Mapping[str, Any] | Iterable[Any] = (),
    signature: str | None = None,
    unsafe: bool = False,
    reference: str = "keras",
    progress: Callable[[str], None] = lambda stage: None,
) -> ExportReport:
    """Export a Keras model to a plain ONNX file in which every chosen layer is a named output.

    The file is opened by onnxruntime, run, and compared with Keras before it is renamed into
    place; if anything fails, nothing is left behind and what stood there before is unharmed.

    Args:
        model: a built `keras.Model` or `tf_keras.Model`, or what `layertap export` takes: a
            `.keras` or `.h5` file, a SavedModel folder, or `"package.module:function"`.
        path: the file to write.
        layers: `"all"`, or names, globs, `re:` patterns, indices, slices of the layers to expose.
        type: Keras class names; narrows `layers`.
        gradients: the layers for which the file shall also give the gradient of the score: as for
            `layers`, and the words `"last-conv"` (what Grad-CAM looks at), `"all"` (all layers that
            are exposed and that the score depends on) and `"input"`. They are exposed, too.
        score: the output whose scores are differentiated, where the model has several. If it ends
            in a sigmoid or softmax, the scores are what goes into that, the logits; with
            `"probability"` or `"OUTPUT:probability"` they are the output itself.
        preprocess: how an image becomes an input, as `layertap.Preprocessing`, its dict, or a
            JSON file with it.
        labels: names of the classes, in the order of the output's last axis, or a text file with
            one per line.
        opset: ONNX opset, 13 to 18.
        tolerance: largest scaled error that passes verification; by default 1e-4, and more where
            Keras computes in 16 bits (`number_types.TOLERANCES`).
        samples: images to verify on beside the seeded batches: paths, bytes, PIL images, arrays.
        weights: for a `"package.module:function"`, a file handed to it as `weights`, or loaded
            into the model that it returns.
        custom_objects: the model's own classes and functions, as `load_model` takes them.
        signature: of a SavedModel, take the outputs of this signature and no layers.
        unsafe: load files that hold Python code (Lambda layers).
        reference: with `float64` the report also says how far the file and Keras itself are from
            the same model in float64.
        progress: called with the name of each stage.

    Returns:
        What was written, and every layer's difference from Keras.

    Raises:
        VerificationError: a layer is not what Keras computes; carries the report.
        ExportError: the model cannot be loaded or converted.
        GradientError: an operator between a layer in `gradients` and the score has no gradient.
        LayerNotFoundError: `layers`, `type` or `gradients` match nothing.
        OutputError: `path` cannot be written.
    """
    started = time.perf_counter()
    path = Path(path)
    if opset not in OPSETS:
        raise UsageError(f"opset {opset} cannot be written: give one from 13 to 18.")
    if isinstance(model, (str, os.PathLike)):
        progress("loading the model")
        model = load_model(
            model,
            weights=weights,
            custom_objects=custom_objects,
            signature=signature,
            unsafe=unsafe,
        )
    elif not isinstance(model, Signature):
        checked_model(model, "the caller")
    recipe = _recipe(preprocess)

    progress("tracing")
    traced = model.trace() if isinstance(model, Signature) else trace(model)
    if tolerance is None:
        tolerance = tolerance_for((row.layer.dtype for row in traced.rows), TOLERANCE)
    traced, notes = in_file(traced)
    exposed = _chosen(traced, layers, type)
    table, asked = [row.layer for row in traced.rows], listed(gradients)
    # Gradients are verified layer by layer, and therefore added to a graph that shows all of them.
    shown = _chosen(traced, "all", None) if asked else exposed
    card = _card(model, traced, shown, recipe, _labels(labels))
    _check_fit(card, recipe)

    progress("converting")
    names = [info.name for info in traced.inputs]
    pads = pads_needed(asked, table)
    raw = to_onnx(traced.function, names, opset, traced.scopes, keep_pads=pads)
    graph = assemble(raw, traced, shown)
    notes += narrowing_notes(cast_around(graph, raw.initializers))
    card = replace(card, notes=notes or None)
    check(graph)
    gradient_check = None
    if asked:
        progress("adding gradients")
        whole = raw.initializers.filled(graph)
        card = add_gradients(whole, card, asked, score)
        gradient_check = GradientCheck(whole, card, model)
        graph, card = narrowed(whole, card, exposed, graph.graph.initializer, raw.initializers)
        check(graph)

    with replacing_model(path) as (temporary, data):
        progress("writing")
        writer = Writer(graph, raw.initializers, data)
        writer.write(temporary, card)
        progress(f"verifying against {reference_of(model)}")
        with writer.opened_lightly(temporary, card) as light:
            report = verify_file(
                light,
                model,
                card,
                tolerance=tolerance,
                samples=samples,
                reference=reference,
                traced=traced if all(x.exposed for x in card.layers if x.why_not is None) else None,
                check=gradient_check,
            )
        report = replace(report, file=str(path))
        report.check()
        name_batch(graph, report.per_sample)
        card = _verified(card, report)
        data.settle()
        writer.write(temporary, card)
        size = temporary.stat().st_size + data.size
    seconds = time.perf_counter() - started
    return ExportReport(
        path=path,
        card=card,
        verification=report,
        size_bytes=size,
        seconds=seconds,
        note=model.why if isinstance(model, Signature) else "",
    )


def _chosen(traced: Trace, layers: Any, types: str | Iterable[str] | None) -> set[str]:
    table = [row.layer for row in traced.rows]
    what: Any = layers
    if isinstance(layers, str):
        what = None if layers == "all" else parse_selector(layers, table)
    elif not isinstance(layers, (int, slice, Layer)):
        what = [parse_selector(x, table) if isinstance(x, str) else x for x in layers]
        if "all" in what:
            what = None
    chosen = {layer.name for layer in select(table, what, types)}
    # The model's own outputs are in the file anyway.
    own = {info.name for info in traced.outputs}
    return chosen | {layer.name for layer in table if layer.tensor in own}


def _card(
    model: Any,
    traced: Trace,
    exposed: set[str],
    recipe: Preprocessing | None,
    labels: tuple[str, ...] | None,
) -> Card:
    return Card(
        source=_source(model),
        inputs=traced.inputs,
        outputs=traced.outputs,
        layers=tuple(
            row.layer if row.layer.name in exposed else replace(row.layer, tensor=None)
            for row in traced.rows
        ),
        preprocessing=recipe.to_dict() if recipe else None,
        labels=labels,
    )


def _source(model: Any) -> Source:
    if isinstance(model, Signature):
        return model.source
    family = family_of(model)
    return Source(
        framework=family.__name__,
        version=family.__version__,
        model=model.name,
        type=type(model).__name__,
        weights_sha256=sha256(model.weights),
    )


def _verified(card: Card, report: VerificationReport) -> Card:
    """The card with what verification found out."""
    per_sample = report.per_sample | {info.name for info in card.inputs}
    layers = tuple(
        replace(layer, per_sample=False)
        if layer.exposed and layer.tensor not in per_sample
        else layer
        for layer in card.layers
    )
    return replace(
        card,
        layers=layers,
        verification=report.for_card(),
        golden=report.golden,
        gradients=report.gradients,
    )


def _recipe(given: Any) -> Preprocessing | None:
    if given is None or isinstance(given, Preprocessing):
        return given
    if isinstance(given, Mapping):
        return Preprocessing.from_dict(given)
    return Preprocessing.load(given)


def _labels(given: Sequence[str] | str | os.PathLike[str] | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    if isinstance(given, (str, os.PathLike)):
        try:
            text = Path(given).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise UsageError(f"cannot read the labels from {os.fspath(given)!r}: {exc}") from exc
        given = [line.strip() for line in text.splitlines() if line.strip()]
    return tuple(given)


def _check_fit(card: Card, recipe: Preprocessing | None) -> None:
    """Labels and preprocessing must belong to this model."""
    last = card.outputs[0].shape[-1] if card.outputs and card.outputs[0].shape else None
    if card.labels is not None and last is not None and len(card.labels) != last:
        raise UsageError(
            f"there are {len(card.labels)} labels, but the model's output "
            f"{card.outputs[0].name!r} has {last} classes."
        )
    images = [info for info in card.inputs if len(info.shape) == 4]
    if recipe is None or not images:
        if recipe is not None:
            raise UsageError("a preprocessing was given, but no input of the model is an image.")
        return
    height, width, channels = images[0].shape[1:]
    size = recipe.size or (None, None)
    wrong_size = any(
        want is not None and got is not None and want != got
        for want, got in zip((height, width), size, strict=True)
    )
    if wrong_size or (channels is not None and channels != recipe.channels):
        raise UsageError(
            f"the preprocessing makes images of {size[0]} x {size[1]} x {recipe.channels}, but the "
            f"model's input {images[0].name!r} takes {height} x {width} x {channels}."
        )
