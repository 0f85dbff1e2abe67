"""What a model computes for a batch, as it is or in float64, by the names of the file's outputs."""

from __future__ import annotations

from collections.abc import Collection

from layertap_export.convert.dtypes import as_in_file
from layertap_export.keras_model.subject import Run, Subject
from layertap_export.keras_model.tracing import Trace

from .card_like import CardLike


def runner(
    subject: Subject, card: CardLike, wanted: Collection[str], traced: Trace | None = None
) -> Run:
    """What the subject itself computes.

    Args:
        subject: the model.
        card: the card of the file, or its draft.
        wanted: names of the file's outputs.
        traced: a trace of the subject, if there is one whose symbols are all in the file.
    """
    layers = {layer.name: str(layer.tensor) for layer in card.layers if layer.tensor in wanted}
    run = subject.runner(layers, [info.name for info in card.outputs], traced)
    return lambda arrays: {name: as_in_file(value) for name, value in run(arrays).items()}


def precise_runner(subject: Subject, card: CardLike, wanted: Collection[str]) -> Run:
    """The same in float64.

    Raises:
        ExportError: the subject cannot be built in float64.
    """
    copy = subject.in_float64()
    run = runner(copy, card, wanted)
    # A model may declare a float32 input although its layers compute in another dtype.
    dtypes = [info.dtype for info in copy.inputs]
    return lambda arrays: run(
        [x.astype(to) if x.dtype.kind == "f" else x for x, to in zip(arrays, dtypes, strict=True)]
    )
