"""Gradients for an existing file, from layertap or from elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

import layertap
from layertap._arguments import number
from layertap._engine.library import import_onnxruntime
from layertap._engine.program import program_of
from layertap._engine.session import plain_session
from layertap._engine.stopping import time_limit
from layertap._public import public
from layertap.comparing.measures import difference
from layertap.errors import ModelFileError, UsageError
from layertap.format.atomic import check_target
from layertap.format.axes import stated_axes
from layertap.format.card import (
    Card,
    Golden,
    GoldenLayer,
    LayerCheck,
    Verification,
    check_class_input,
)
from layertap.format.data_file import replacing_model
from layertap.format.digest import digest_of, inherited
from layertap.format.external import find_weights
from layertap.format.narrow import Narrow
from layertap.format.select import Selector
from layertap.format.source import FileSource
from layertap_export.errors import VerificationError
from layertap_export.gradients.extend import LEFT_OUT, extend, warn_independent
from layertap_export.gradients.reading import OLDEST_OPSET, card_of, read, strip
from layertap_export.gradients.select import listed
from layertap_export.graph.axes import axes_of, with_axes
from layertap_export.graph.weights import Initializers
from layertap_export.verification.finite_differences import (
    DEFAULT_SECONDS,
    FIRST_SECONDS,
    Slopes,
    compare,
)
from layertap_export.verification.golden_values import (
    STEADY_TOLERANCE,
    digits,
    golden_layer,
    steady,
)
from layertap_export.verification.interface import check_gradients
from layertap_export.verification.kinks import neighbours
from layertap_export.verification.same_values import first_difference
from layertap_export.verification.samples import sample, two_samples
from layertap_export.verification.tolerances import tolerance_for
from layertap_export.verification.user_samples import user_batches
from layertap_export.verification.weight_rows import broadcasts
from layertap_export.verification.written_file import WrittenFile
from layertap_export.writing import Writer, append_card

from .arguments import check_source, sample_paths
from .final_check import Verified, check_finished
from .gradient_report import GradientReport

UPGRADE_TOLERANCE = 1e-5
"""The largest scaled difference between a file and the same in a newer opset."""


@public
def add_gradients(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    layers: Selector | Iterable[Selector],
    *,
    score: str | None = None,
    class_input: str = "optional",
    tolerance: float | None = None,
    seconds: float = DEFAULT_SECONDS,
    samples: Any = (),
    sizes: Mapping[str, int] | None = None,
    timeout: float | None = None,
) -> GradientReport:
    """Write a copy of an ONNX file that also computes the gradients of its scores at some layers.

    The graph is written once. Its gradients are compared, from the file, with central differences
    in float64; then the card is appended, the finished file is opened and its golden sample
    checked, and it is renamed into place. If anything fails, no file is left behind. TensorFlow is
    not needed.

    Args:
        source: an `.onnx` file, exported by layertap or from elsewhere. Its layers are those that
            `layertap layers` lists. Gradients that it has are replaced. A file of an opset before
            13 is converted to opset 17, and its outputs are compared with those of the original.
        path: the file to write; it may be `source`.
        layers: names, globs, `re:` patterns, indices, slices, or the words `"last-conv"` (the
            layer that Grad-CAM explains), `"all"` and `"input"`. `True` is `"all"`.
        score: the output or layer to differentiate; by default the only output. If an output ends
            in a sigmoid or softmax, the scores are the input of that, the logits; with
            `"probability"` or `"OUTPUT:probability"` they are the output itself. The scores of a
            layer are its values. `"LAYER:CHANNEL"` differentiates a single channel.
        class_input: whether a client has to feed the weights of the classes: `"optional"`, or
            `"required"` for onnxruntime in JavaScript and Java, OpenVINO and other clients that
            cannot feed an optional input, see docs/gradients.md.
        tolerance: largest scaled error that passes; by default 1e-4, or more if the file computes
            in 16 bits: 1e-2 in float16.
        seconds: time in seconds for comparing gradients. The first one is compared for up to 5
            seconds in any case; if that is too little, none is compared, and the report says so.
        samples: also compare on these: images, arrays, dicts of arrays by input name, or paths, see
            `export`. Images are prepared with the recipe in the file.
        sizes: values for the free sizes of the inputs in the comparison, by their names in the
            file, as in `{"height": 512}`.
        timeout: time in seconds for all of it, after which a run of the model is stopped; by
            default no limit.

    Raises:
        VerificationError: a gradient differs from the central differences; carries the report.
        GradientError: an operator between a layer and the score has no gradient.
        LayerNotFoundError: `layers` match nothing.
        ModelFileError: `source` is not an ONNX model, or it is too old to be converted.
        InputError: a sample does not fit the inputs of the model.
        RunTimeoutError: it took longer than `timeout`.
        OutputError: `path` cannot be written.
    """
    tolerance = None if tolerance is None else number("tolerance", tolerance)
    seconds = number("seconds", seconds, finite=False)
    check_class_input(class_input)
    check_source(source)
    with time_limit(timeout):
        return _added(
            source,
            path,
            listed(layers),
            score=score,
            class_input=class_input,
            tolerance=tolerance,
            seconds=seconds,
            samples=samples,
            sizes=sizes,
        )


def _added(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    asked: list[Selector],
    *,
    score: str | None,
    class_input: str,
    tolerance: float | None,
    seconds: float,
    samples: Any,
    sizes: Mapping[str, int] | None,
) -> GradientReport:
    """See `add_gradients`."""
    started = time.perf_counter()
    opened = layertap.open(source)
    program = program_of(opened)
    if program.finished is not None:
        raise UsageError(
            f"{program.name} is a finished file. Add the gradients to the file that it was made "
            "from, and finish that."
        )
    weights = find_weights(program.source, program.graph.locations)
    # Replacing the source itself is safe.
    check_target(path, ".onnx", [*weights.paths, *sample_paths(samples)])
    initializers = Initializers()
    program.fetch([info.name for info in opened.outputs])  # is it a valid model?
    recipe = program.fitted(program.preprocessing) if program.preprocessing else None
    given = user_batches(samples, opened.inputs, recipe)
    model = read(Path(source), opened, initializers)
    card = inherited(card_of(opened, model, initializers), "gradients", FileSource(source))
    strip(model, card)
    if not stated_axes(card.layers, (*card.inputs, *card.outputs)):
        axes = axes_of(model, by_size=not card.channels_last)
        card = replace(
            card,
            layers=with_axes(card.layers, axes),
            inputs=with_axes(card.inputs, axes),
            outputs=with_axes(card.outputs, axes),
        )
    gradients, independent, notes = extend(
        model,
        card.layers,
        card.inputs,
        card.outputs,
        asked,
        score,
        channels_last=card.channels_last,
        class_input=class_input,
    )
    if independent:
        warn_independent(independent, gradients.scored)
    del model.metadata_props[:]
    for key, value in opened.metadata.items():
        model.metadata_props.add(key=key, value=value)

    kept = [note for note in card.notes or () if not note.startswith(LEFT_OUT)]
    card = replace(card, notes=(*kept, *notes) or None)
    tensors = {info.name: info.name for info in card.inputs}
    tensors |= {layer.name: str(layer.tensor) for layer in card.layers}
    with replacing_model(path) as (temporary, data):
        Writer(model, initializers, data).write(temporary)
        file = WrittenFile(temporary)
        check_gradients(file, replace(card, gradients=gradients))
        if tolerance is None:
            tolerance = tolerance_for(one.dtype for one in file.narrow.values())
        ready = file.session(gradients)
        golden, feeds = sample(ready, card, sizes)
        if program.graph.opsets.get("", 0) < OLDEST_OPSET:
            _compare_upgraded(source, ready, [info.name for info in card.outputs], feeds)
        (scores,) = ready.run([gradients.output], feeds)
        rows = broadcasts(ready, gradients, feeds, scores.shape, scores.dtype)
        card = replace(card, gradients=replace(gradients, broadcasts=rows))
        two = two_samples(ready, golden, card.inputs)
        named = [("seeded", batch) for batch in (feeds, two) if batch is not None]
        names = [info.name for info in opened.inputs]
        named += [(what, dict(zip(names, arrays, strict=True))) for what, arrays in given]
        batches = [batch for _, batch in named]
        compared: dict[str, Slopes] = {}
        labels: list[str] = []
        for what, batch in named:
            first = 0.0 if compared else FIRST_SECONDS
            found = compare(file, gradients, tensors, batch, seconds / len(batches), first)
            compared |= {k: x.joined(compared.get(k)) for k, x in found.items()}
            shapes = " and ".join(" x ".join(map(str, value.shape)) for value in batch.values())
            labels.append(f"{shapes}, {what}")
        card = _noted(card, compared, golden, labels, tolerance, ready, feeds, file.narrow)
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
        own = [*(str(layer.tensor) for layer in opened.layers), *(x.name for x in card.outputs)]
        made = {name for node in model.graph.node for name in node.output}
        shown = [name for name in dict.fromkeys(own) if name in made]
        for batch in batches:
            changed = first_difference(opened, written, shown, batch, tolerance)
            if changed:
                raise VerificationError(
                    f"{path} would not compute what {os.fspath(source)!r} computes: {changed[0]!r} "
                    f"differs by {changed[1]:.1e} of its scale, allowed are {tolerance:.0e}.",
                    report,
                )
        card = replace(card, digest=digest_of(FileSource(temporary), card))
        verified = Verified.of(temporary)
        append_card(temporary, card)
        check_finished(temporary, Path(path), verified, card, report)
        size = temporary.stat().st_size + data.size
    return replace(report, card=card, size_bytes=size, seconds=time.perf_counter() - started)


def _compare_upgraded(
    source: str | os.PathLike[str],
    ready: Any,
    outputs: Sequence[str],
    feeds: Mapping[str, NDArray[Any]],
) -> None:
    """Check that a file has the outputs that it had before it was converted to a newer opset."""
    before = plain_session(Path(source)).run(outputs, dict(feeds))
    after = ready.run(outputs, feeds)
    for name, one, other in zip(outputs, before, after, strict=True):
        apart = difference(other, one).scaled
        if not apart <= UPGRADE_TOLERANCE:
            raise ModelFileError(
                f"the output {name!r} of {os.fspath(source)!r} is not the same, but {apart:.1e} of "
                "its scale apart, after `onnx.version_converter` converted the file to a newer "
                "opset. Export the model again, with opset 13 or newer."
            )


def _noted(
    card: Card,
    compared: Mapping[str, Slopes],
    golden: Golden,
    labels: Sequence[str],
    tolerance: float,
    ready: Any,
    feeds: Mapping[str, NDArray[Any]],
    narrow: Mapping[str, Narrow],
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
    layers |= _golden_layers(ready, list(tensors.values()), feeds, narrow)
    golden = replace(golden, layers=layers)
    return replace(card, verification=verification, golden=golden, stripped=None)


def _is_old(output: str, card: Card) -> bool:
    """Whether a note is about a gradient that the file had before: about no layer and no output."""
    shown = {layer.tensor for layer in card.layers} | {info.name for info in card.outputs}
    return output not in shown


def _golden_layers(
    ready: Any,
    names: Sequence[str],
    feeds: Mapping[str, NDArray[Any]],
    narrow: Mapping[str, Narrow],
) -> dict[str, GoldenLayer]:
    """Gradients on the golden sample, except those that jump nearby, see `kinks`."""
    found = dict(zip(names, ready.run(names, dict(feeds)), strict=True))
    rounding = max((one.rounding for one in narrow.values()), default=0.0)
    for near in neighbours(feeds, 4, rounding):
        for name, value in zip(names, ready.run(names, near), strict=True):
            allowed = narrow[name].tolerance if name in narrow else STEADY_TOLERANCE
            if name in found and not steady(value, found[name], allowed):
                del found[name]
    return {name: golden_layer(value) for name, value in sorted(found.items())}
