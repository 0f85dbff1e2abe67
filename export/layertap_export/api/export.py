"""The export, from a Keras model to a verified file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from layertap._arguments import count
from layertap._engine.stopping import time_limit
from layertap._public import public
from layertap.comparing.measures import check_tolerance
from layertap.errors import UsageError
from layertap.format.atomic import check_target
from layertap.format.card import check_class_input
from layertap.format.data_file import replacing_model
from layertap.format.digest import digest_of
from layertap.format.select import Selector
from layertap.format.source import FileSource
from layertap.images.preprocessing import Preprocessing
from layertap_export.convert.assemble import assemble, name_batch
from layertap_export.convert.dtypes import in_file, narrowing_notes
from layertap_export.convert.to_onnx import to_onnx
from layertap_export.errors import ExportError
from layertap_export.gradients.for_export import add_gradients, narrow, pads_needed
from layertap_export.gradients.score import check_form
from layertap_export.gradients.select import listed
from layertap_export.graph.passes.cast_around import cast_around
from layertap_export.keras_model.loading import load_model
from layertap_export.keras_model.stated import stated_inputs
from layertap_export.keras_model.subject import Subject, subject_of
from layertap_export.progress import timed
from layertap_export.verification.declared_shapes import declare
from layertap_export.verification.gradient_check import LayerSources
from layertap_export.verification.interface import check_interface
from layertap_export.verification.layers import verify_file
from layertap_export.verification.report import VerificationReport
from layertap_export.verification.tolerances import tolerance_for
from layertap_export.verification.written_file import WrittenFile
from layertap_export.writing import Writer, append_card, validate

from .arguments import (
    Labels,
    check_fit,
    chosen_layers,
    labels_of,
    paths_in,
    preprocessing_of,
    sample_paths,
    target_of,
)
from .draft import CardDraft
from .export_report import ExportReport
from .final_check import Verified, check_finished

OPSETS = range(13, 19)
"""The opsets that tf2onnx 1.17 writes and `channels_first` supports; 18 is the default."""


@public
def export(
    model: Any,
    path: str | os.PathLike[str],
    *,
    layers: str | Selector | Iterable[Selector] = "all",
    type: str | Iterable[str] | None = None,  # noqa: A002 - the word that users know from Keras
    gradients: Selector | Iterable[Selector] | None = (),
    score: str | None = None,
    class_input: str = "optional",
    preprocess: Preprocessing | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    labels: Labels | None = None,
    opset: int = 18,
    tolerance: float | None = None,
    samples: Any = (),
    sizes: Mapping[str, int] | None = None,
    weights: str | os.PathLike[str] | None = None,
    custom_objects: Mapping[str, Any] | Iterable[Any] = (),
    signature: str | None = None,
    inputs: Any = None,
    unsafe: bool = False,
    reference: str = "keras",
    timeout: float | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> ExportReport:
    """Export a Keras model to a plain ONNX file in which every chosen layer is a named output.

    The finished graph is written and verified from the file, activations and gradients; then the
    card is appended, which changes none of the bytes before it (see `writing.Writer`), the finished
    file is opened and its golden sample checked, and it is renamed into place. If anything fails,
    no new file is left behind, and a file that was at `path` before is unchanged.

    Args:
        model: a built `keras.Model` or `tf_keras.Model`, or what `layertap export` takes: a
            `.keras` or `.h5` file, a SavedModel folder, or `"package.module:function"`.
        path: the file to write.
        layers: `"all"`, or names, globs, `re:` patterns, indices, slices of the layers to expose.
        type: Keras class names; narrows `layers`.
        gradients: the layers for which the file also computes the gradient of the score: as for
            `layers`, and the words `"last-conv"` (the layer that Grad-CAM usually explains),
            `"all"` (all exposed layers that the score depends on) and `"input"`. They are also
            exposed. `True` is `"all"`; `False` and `None` are none.
        score: the output or layer to differentiate; by default the only output. If an output ends
            in a sigmoid or softmax, the scores are the input of that, the logits; with
            `"probability"` or `"OUTPUT:probability"` they are the output itself. The scores of a
            layer are its values. `"LAYER:CHANNEL"` differentiates a single channel.
        class_input: with gradients, whether a client has to feed the weights of the classes:
            `"optional"`, or `"required"` for onnxruntime in JavaScript and Java, OpenVINO and other
            clients that cannot feed an optional input, see docs/gradients.md.
        preprocess: how an image becomes an input, as `layertap.Preprocessing`, its dict, a JSON
            file with it, or a name: `"resnet50"`, see `layertap.Preprocessing.of`.
        labels: names of the classes, in the order of the output's last axis, or a text file with
            one per line.
        opset: ONNX opset, 13 to 18.
        tolerance: largest scaled error that passes verification; by default 1e-4, and more where
            Keras computes in 16 bits (`verification.tolerances`).
        samples: batches of your own to verify on, in addition to those that layertap makes: a path
            of an image, of a folder of images, of an `.npy` file or of an `.npz` file (arrays by
            the name of the input); an image as bytes, as a PIL image or as a uint8 array; an array
            with a batch axis; a dict of these by the name of the input; or a list of these.
        sizes: values for the free sizes of the inputs in all batches, by their names in the file,
            as in `{"height": 512}`.
        weights: for a `"package.module:function"`, a file passed to it as `weights`, or loaded
            into the model that it returns.
        custom_objects: the model's own classes and functions, as `load_model` takes them.
        signature: of a SavedModel, take the outputs of this signature and no layers.
        inputs: shapes and dtypes of inputs by name, batch first, where the file shall have others
            than the model states, or the model states none: `{"x": (None, None, None, 3)}`,
            `{"x": ((None, 10), "int32")}`, `{"x": keras.Input(...)}` or a `tf.TensorSpec`; `None`
            is a free size. For a model with one input, the value alone is enough.
        unsafe: load files that hold Python code (Lambda layers).
        reference: with `float64` the report also says how far the file and Keras itself are from
            the same model in float64.
        timeout: time in seconds, after which the export is stopped: a run of the file at once,
            TensorFlow's part between two steps. By default no limit.
        progress: called with the name of each stage.

    Returns:
        The written file, and every layer's difference from Keras.

    Raises:
        VerificationError: a layer differs from Keras; carries the report.
        ExportError: the model cannot be loaded or converted.
        GradientError: an operator between a layer in `gradients` and the score has no gradient.
        LayerNotFoundError: `layers`, `type` or `gradients` match nothing.
        InputError: a sample does not fit the inputs of the model.
        RunTimeoutError: it took longer than `timeout`.
        OutputError: `path` cannot be written, or is a file that is read.
        UsageError: an argument is not valid, for example an input that the model does not have;
            or `path` does not end in `.onnx`.
    """
    started = time.perf_counter()
    path = target_of(model, path)
    read = [*paths_in(model, weights, labels, preprocess), *sample_paths(samples)]
    check_target(path, ".onnx", read)
    recipe, names = preprocessing_of(preprocess), labels_of(labels)
    if tolerance is not None:
        check_tolerance(tolerance)
    if count("opset", opset) not in OPSETS:
        raise UsageError(f"opset must be from 13 to 18, got {opset}.")
    opset = int(opset)
    check_form(score)
    if not callable(progress):
        raise UsageError(f"progress must be a function of a text, got {progress!r}.")
    stated = stated_inputs(inputs)
    check_class_input(class_input)
    asked = listed(gradients)
    for name, given in (("score", score), ("class_input", class_input != "optional")):
        if given not in (None, False) and not asked:
            raise UsageError(
                f"{name} was given without gradients, which it applies to. Name layers in "
                "gradients=, for example 'last-conv'."
            )
    progress = timed(progress)
    with time_limit(timeout, "Give a longer timeout. Nothing was written."):
        if isinstance(model, (str, os.PathLike)):
            progress("loading the model")
            model = load_model(
                model,
                weights=weights,
                custom_objects=custom_objects,
                signature=signature,
                unsafe=unsafe,
            )
        subject = subject_of(model, stated)
        export_as = partial(
            _export,
            path=path,
            layers=layers,
            type=type,
            asked=asked,
            score=score,
            class_input=class_input,
            recipe=recipe,
            names=names,
            opset=opset,
            tolerance=tolerance,
            samples=samples,
            sizes=sizes,
            reference=reference,
            progress=progress,
            started=started,
        )
        report = None
        while report is None:
            try:
                report = export_as(subject)
            except ExportError:
                # Sizes that Keras takes free may be more than ONNX can express.
                fixed = subject.with_fixed_sizes()
                if fixed is None:
                    raise
                subject = fixed
    report.verification.warn_of_rows(stacklevel=2)
    return report


def _export(
    subject: Subject,
    *,
    path: Path,
    layers: str | Selector | Iterable[Selector],
    type: str | Iterable[str] | None,  # noqa: A002
    asked: list[Selector],
    score: str | None,
    class_input: str,
    recipe: Preprocessing | None,
    names: tuple[str, ...] | None,
    opset: int,
    tolerance: float | None,
    samples: Any,
    sizes: Mapping[str, int] | None,
    reference: str,
    progress: Callable[[str], None],
    started: float,
) -> ExportReport:
    """The export of one subject; see `export`."""
    progress("tracing")
    traced = subject.trace()
    if tolerance is None:
        tolerance = tolerance_for(row.layer.dtype for row in traced.rows)
    traced, notes = in_file(traced)
    draft = CardDraft(
        source=subject.source,
        inputs=traced.inputs,
        outputs=traced.outputs,
        table=tuple(row.layer for row in traced.rows),
        exposed=chosen_layers(traced, layers, type),
        recipe=recipe,
        labels=names,
        notes=[*subject.notes, *notes, *traced.notes],
    )
    check_fit(traced, recipe, names)

    progress("converting")
    inputs = [info.name for info in traced.inputs]
    pads = pads_needed(asked, draft.table)
    raw = to_onnx(traced.function, inputs, opset, traced.scopes, keep_pads=pads)
    # Gradients are compared layer by layer, and therefore added to a graph that shows all of them.
    graph = assemble(raw, traced, chosen_layers(traced, "all", None) if asked else draft.exposed)
    draft.infer_axes(graph)
    draft.notes += narrowing_notes(cast_around(graph, raw.initializers))
    validate(graph)
    sources = None
    if asked:
        progress("adding gradients")
        added = add_gradients(
            graph, draft.table, draft.inputs, draft.outputs, asked, score, class_input
        )
        draft.add_gradients(added.gradients)
        draft.notes += added.notes
        sources = LayerSources.of(graph.graph, draft.table)
        narrow(graph, draft.shown)
        validate(graph)
    # Gradients have as many rows as the weights of the scores.
    per_sample = draft.shown - draft.gradient_outputs
    name_batch(graph, per_sample)

    with replacing_model(path) as (temporary, data):
        progress("writing")
        writer = Writer(graph, raw.initializers, data)

        def compared() -> VerificationReport:
            writer.write(temporary)
            progress(f"verifying against {subject.framework}")
            file = WrittenFile(temporary)
            check_interface(file, draft)
            return verify_file(
                file,
                subject,
                draft,
                tolerance=tolerance,
                samples=samples,
                sizes=sizes,
                reference=reference,
                traced=traced,
                sources=sources,
            )

        report = compared()
        for _ in range(2):  # sizes that are not what was stated: rare
            if report.failed or not (report.misnamed or report.misdeclared):
                break
            draft.declare(report.misdeclared)
            declare(graph.graph, draft)
            per_sample -= report.misnamed
            name_batch(graph, per_sample)
            report = compared()
        report = replace(report, file=str(path))
        report.raise_if_failed()
        card = draft.finished(report)
        card = replace(card, digest=digest_of(FileSource(temporary), card))
        verified = Verified.of(temporary)
        append_card(temporary, card)
        check_finished(temporary, path, verified, card, report)
        size = temporary.stat().st_size + data.size
    seconds = time.perf_counter() - started
    return ExportReport(
        path=path,
        card=card,
        verification=report,
        size_bytes=size,
        seconds=seconds,
        note=subject.note,
    )
