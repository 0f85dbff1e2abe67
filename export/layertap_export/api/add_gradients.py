"""Gradients for an existing file, from layertap or from elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import layertap
from layertap._engine.library import import_onnxruntime
from layertap._public import public
from layertap.errors import UsageError
from layertap.format.card import Card, Golden, GoldenLayer, LayerCheck, Verification
from layertap.format.data_file import replacing_model
from layertap.format.select import Selector
from layertap_export.errors import VerificationError
from layertap_export.gradients.extend import extend, warn_independent
from layertap_export.gradients.reading import card_of, read, strip
from layertap_export.gradients.select import listed
from layertap_export.graph.weights import Initializers
from layertap_export.verification.finite_differences import DEFAULT_SECONDS, Slopes, compare
from layertap_export.verification.golden_values import digits, golden_layer, steady
from layertap_export.verification.interface import check_gradients
from layertap_export.verification.kinks import neighbours
from layertap_export.verification.same_values import first_difference
from layertap_export.verification.samples import sample, two_samples
from layertap_export.verification.tolerances import DEFAULT_TOLERANCE
from layertap_export.verification.weight_rows import broadcasts
from layertap_export.verification.written_file import WrittenFile
from layertap_export.writing import Writer, append_card

from .final_check import Verified, check_finished
from .gradient_report import GradientReport


@public
def add_gradients(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    layers: Selector | Sequence[Selector],
    *,
    score: str | None = None,
    tolerance: float = DEFAULT_TOLERANCE,
    seconds: float = DEFAULT_SECONDS,
) -> GradientReport:
    """Write a copy of an ONNX file that also computes the gradients of its scores at some layers.

    The graph is written once. Its gradients are compared, from the file, with central differences
    in float64; then the card is appended, the finished file is opened and its golden sample
    checked, and it is renamed into place. If anything fails, no file is left behind. TensorFlow is
    not needed.

    Args:
        source: an `.onnx` file of opset 13 or newer, exported by layertap or from elsewhere. Its
            layers are those that `layertap layers` lists. Gradients that it has are replaced.
        path: the file to write; it may be `source`.
        layers: names, globs, `re:` patterns, indices, slices, or the words `"last-conv"` (the
            layer that Grad-CAM explains), `"all"` and `"input"`.
        score: the output to differentiate, if the model has several. If it ends in a sigmoid or
            softmax, the scores are the input of that, the logits; with `"probability"` or
            `"OUTPUT:probability"` they are the output itself.
        tolerance: largest scaled error that passes.
        seconds: time in seconds for comparing gradients; at least one is compared.

    Raises:
        VerificationError: a gradient differs from the central differences; carries the report.
        GradientError: an operator between a layer and the score has no gradient.
        LayerNotFoundError: `layers` match nothing.
        ModelFileError: `source` is not an ONNX model, or its opset is too old.
        OutputError: `path` cannot be written.
    """
    started = time.perf_counter()
    if not 0 <= tolerance < np.inf:
        raise UsageError(f"tolerance must be a finite number of at least 0, got {tolerance}.")
    opened = layertap.open(source)
    initializers = Initializers()
    model = read(Path(source), opened, initializers)
    card = card_of(opened, model, initializers)
    strip(model, card)
    gradients, independent = extend(
        model,
        card.layers,
        card.inputs,
        card.outputs,
        listed(layers),
        score,
        channels_last=card.channels_last,
    )
    if independent:
        warn_independent(independent, gradients.output)
    del model.metadata_props[:]
    for key, value in opened.metadata.items():
        model.metadata_props.add(key=key, value=value)

    tensors = {info.name: info.name for info in card.inputs}
    tensors |= {layer.name: str(layer.tensor) for layer in card.layers}
    with replacing_model(path) as (temporary, data):
        Writer(model, initializers, data).write(temporary)
        file = WrittenFile(temporary)
        check_gradients(file, replace(card, gradients=gradients))
        ready = file.session()
        golden, feeds = sample(ready, card)
        (scores,) = ready.run([gradients.output], feeds)
        rows = broadcasts(ready, gradients, feeds, scores.shape, scores.dtype)
        card = replace(card, gradients=replace(gradients, broadcasts=rows))
        two = two_samples(ready, golden, card.inputs)
        batches = [feeds] if two is None else [feeds, two]
        compared: dict[str, Slopes] = {}
        labels: list[str] = []
        for batch in batches:
            found = compare(file, gradients, tensors, batch, seconds / len(batches))
            compared |= {k: x.joined(compared.get(k)) for k, x in found.items()}
            sizes = " and ".join(" x ".join(map(str, value.shape)) for value in batch.values())
            labels.append(f"{sizes}, seeded")
        card = _noted(card, compared, golden, labels, tolerance, ready, feeds)
        report = GradientReport(
            path=Path(path),
            card=card,
            compared=compared,
            batch="; ".join(labels),
            tolerance=tolerance,
            size_bytes=0,
            seconds=0,
        )
        if not report:
            raise VerificationError(str(report), report)
        written = layertap.open(temporary, device="cpu")
        own = {layer.tensor for layer in opened.layers} | {info.name for info in card.outputs}
        shown = [name for node in model.graph.node for name in node.output if name in own]
        for batch in batches:
            changed = first_difference(opened, written, shown, batch, tolerance)
            if changed:
                raise VerificationError(
                    f"{path} would not compute what {os.fspath(source)!r} computes: {changed[0]!r} "
                    f"differs by {changed[1]:.1e} of its scale, allowed are {tolerance:.0e}.",
                    report,
                )
        verified = Verified.of(temporary)
        append_card(temporary, card)
        check_finished(temporary, Path(path), verified, card, report)
        size = temporary.stat().st_size + data.size
    return replace(report, size_bytes=size, seconds=time.perf_counter() - started)


def _noted(
    card: Card,
    compared: Mapping[str, Slopes],
    golden: Golden,
    labels: Sequence[str],
    tolerance: float,
    ready: Any,
    feeds: Mapping[str, NDArray[Any]],
) -> Card:
    """The card with what was measured, and the golden sample with the gradients."""
    assert card.gradients is not None
    tensors = card.gradients.tensors
    known = card.verification
    old = {k: v for k, v in known.layers.items() if not _is_old(k, card)} if known else {}
    checks = {
        tensors[name]: LayerCheck(max_abs=digits(x.max_abs, 2), scaled=digits(x.scaled, 2))
        for name, x in compared.items()
    }
    verification = Verification(
        tolerance=known.tolerance if known else tolerance,
        batches=known.batches if known else tuple(f"{x}, central differences" for x in labels),
        onnxruntime=known.onnxruntime if known else import_onnxruntime().__version__,
        layers={**old, **checks},
    )
    layers = {k: v for k, v in golden.layers.items() if not _is_old(k, card)}
    layers |= _golden_layers(ready, list(tensors.values()), feeds)
    return replace(card, verification=verification, golden=replace(golden, layers=layers))


def _is_old(output: str, card: Card) -> bool:
    """Whether a note is about a gradient that the file had before: about no layer and no output."""
    shown = {layer.tensor for layer in card.layers} | {info.name for info in card.outputs}
    return output not in shown


def _golden_layers(
    ready: Any, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]
) -> dict[str, GoldenLayer]:
    """Gradients on the golden sample, except those that jump nearby, see `kinks`."""
    found = dict(zip(names, ready.run(names, dict(feeds)), strict=True))
    for near in neighbours(feeds, 4):
        for name, value in zip(names, ready.run(names, near), strict=True):
            if name in found and not steady(value, found[name]):
                del found[name]
    return {name: golden_layer(value) for name, value in sorted(found.items())}
