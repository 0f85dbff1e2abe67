"""Comparing an exported file with the Keras model that it was made from."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import layertap
from layertap._engine.stopping import time_limit
from layertap._public import public
from layertap.comparing.measures import check_tolerance
from layertap.errors import LayertapWarning, ModelFileError, UsageError
from layertap.format.card import Card
from layertap.format.digest import change_text, changed_parts, digest_of
from layertap.format.layer import Shape, uncounted
from layertap.format.source import FileSource
from layertap.format.text import shape_text
from layertap_export.errors import ExportError
from layertap_export.keras_model.loading import load_model
from layertap_export.keras_model.subject import Subject, subject_like
from layertap_export.progress import timed
from layertap_export.verification.layers import verify_file
from layertap_export.verification.report import VerificationReport
from layertap_export.verification.tolerances import DEFAULT_TOLERANCE
from layertap_export.verification.written_file import WrittenFile

from .arguments import check_source
from .same_layers import named_as_in


@public
def verify(
    path: str | os.PathLike[str],
    model: Any,
    *,
    tolerance: float | None = None,
    samples: Any = (),
    sizes: Mapping[str, int] | None = None,
    weights: str | os.PathLike[str] | None = None,
    custom_objects: Mapping[str, Any] | Iterable[Any] = (),
    signature: str | None = None,
    unsafe: bool = False,
    reference: str = "keras",
    timeout: float | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> VerificationReport:
    """Compare a file that layertap exported with the Keras model it was made from.

    Args:
        path: the `.onnx` file.
        model: a `keras.Model` or `tf_keras.Model`, or what `layertap export` takes.
        tolerance: largest scaled error that passes; by default the tolerance of the export. A
            quantised file, which is compared with Keras in float32, has no default.
        samples: batches of your own to verify on, and
        sizes: values for the free sizes of the inputs, both as for `export`.
        weights: for a `"package.module:function"`, a file passed to it as `weights`, or loaded
            into the model that it returns.
        custom_objects: the model's own classes and functions, as `load_model` takes them.
        signature: of a SavedModel, the signature to compare with; by default the one that the file
            was made from.
        unsafe: load files that hold Python code (Lambda layers).
        reference: with `float64` the report also says how far the file and Keras itself are from
            the same model in float64. It does not affect whether a layer passes.
        timeout: time in seconds, after which the comparison is stopped: a run of the file at once,
            TensorFlow's part between two steps. By default no limit.
        progress: called with the name of each stage.

    Returns:
        The report; false if a layer differs (nothing is raised for that).

    Raises:
        ModelFileError: the file cannot be read or was not made by layertap.
        ExportError: the model cannot be loaded or run, or is not the one in the file.
        InputError: a sample does not fit the inputs of the model.
        UsageError: the file is quantised, and no tolerance is given.
        RunTimeoutError: it took longer than `timeout`.
    """
    if tolerance is not None:
        check_tolerance(tolerance)
    check_source(path)
    progress = timed(progress)
    with time_limit(timeout, "Give a longer timeout."):
        card = layertap.open(path).card
        if card is None:
            raise ModelFileError(
                f"{os.fspath(path)!r} has no layertap card, so its layers cannot be matched by "
                "name. Export the model with `layertap export`, which writes one."
            )
        if card.quantized is not None and tolerance is None:
            origin = card.made_from.file if card.made_from else None
            raise UsageError(
                f"{os.fspath(path)!r} was quantised to {card.quantized.to}, so that it does not "
                f"compute what Keras computes. Verify {origin or 'the file that it was made from'}"
                ", and run `layertap check` on this one; or say how far it may be from Keras, with "
                "tolerance= (--tolerance)."
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
        subject = subject_like(model, card.inputs)
        _check_same_inputs(subject, card, os.fspath(path))
        _warn_of_changes(subject, card, path)
        progress("tracing")
        traced = subject.trace()
        card = named_as_in(card, traced.rows)
        complete = all(layer.exposed for layer in card.layers if layer.why_not is None)
        if tolerance is None:
            tolerance = card.verification.tolerance if card.verification else DEFAULT_TOLERANCE
        progress(f"comparing with {subject.framework}")
        report = verify_file(
            WrittenFile(Path(path)),
            subject,
            card,
            tolerance=tolerance,
            samples=samples,
            sizes=sizes,
            reference=reference,
            traced=traced if complete else None,
        )
    report.warn_of_rows(stacklevel=2)
    return report


def _check_same_inputs(subject: Subject, card: Card, path: str) -> None:
    given = [(info.name, info.shape) for info in subject.inputs]
    expected = [(info.name, info.shape) for info in card.inputs]
    if [(uncounted(name), shape) for name, shape in given] != [
        (uncounted(name), shape) for name, shape in expected
    ]:
        raise ExportError(
            f"{path!r} was made from another model: its inputs are {_listed(expected)}, "
            f"the model's are {_listed(given)}."
        )


def _warn_of_changes(subject: Subject, card: Card, path: str | os.PathLike[str]) -> None:
    """Warn if the file is not as it was written, or the model has other weights."""
    source = FileSource(path)
    parts = changed_parts(card.digest, digest_of(source, card)) if card.digest else ()
    if parts:
        warnings.warn(f"{source.name}: {change_text(parts)}.", LayertapWarning, stacklevel=3)
    given, expected = subject.source.weights_sha256, card.source.weights_sha256
    if given != expected:
        warnings.warn(
            f"the model's weights are not those that {source.name} was made from: their SHA-256 is "
            f"{given[:12]}, expected {expected[:12]}.",
            LayertapWarning,
            stacklevel=3,
        )


def _listed(inputs: Sequence[tuple[str, Shape]]) -> str:
    return ", ".join(f"{name!r} {shape_text(shape)}" for name, shape in inputs)
