"""`layertap info`: a description of a file."""

from __future__ import annotations

import argparse
import json

from layertap.format.card import CLASS_INPUTS, Card, TensorInfo
from layertap.format.index import read_index
from layertap.format.source import FileSource
from layertap.format.text import counted, printable, type_text

from . import OK, OWN, Command
from .printing import show


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx")


def _run(args: argparse.Namespace) -> int:
    model = read_index(FileSource(args.file))  # faster than `open`, which imports numpy
    lines = [("inputs", _tensors(model.inputs)), ("outputs", _tensors(model.outputs))]
    exposed = sum(layer.exposed for layer in model.layers)
    lines.append(("layers", f"{len(model.layers)}, {exposed} of them with activations"))
    if model.card and model.card.source.signature:
        lines[-1] = ("layers", "none: exported from a signature, which only has outputs")
    if model.card is None:
        lines.append(("card", "none: not exported by layertap; the layers are ONNX tensors"))
    else:
        lines = [*_head(model.card), *lines, *_tail(model.card)]
    width = max(len(name) for name, _ in lines)
    show("\n".join(f"{name:{width}}  {printable(text)}" for name, text in lines))
    return OK


def _tensors(infos: tuple[TensorInfo, ...]) -> str:
    return ", ".join(map(_tensor, infos)) or "none"


def _tensor(info: TensorInfo) -> str:
    text = type_text(info.shape, info.dtype)
    dtype = "" if text in ("?", info.dtype) else f" {info.dtype}"
    return f"{info.name} {text}{dtype}"


def _head(card: Card) -> list[tuple[str, str]]:
    source = card.source
    return [
        ("model", f"{source.model} ({source.type}, {source.framework} {source.version})"),
        ("weights", f"sha256 {source.weights_sha256}"),
    ]


def _tail(card: Card) -> list[tuple[str, str]]:
    lines = []
    if card.labels:
        lines.append(("labels", ", ".join(card.labels)))
    if card.preprocessing:
        lines.append(("preprocessing", json.dumps(card.preprocessing)))
    if card.verification and card.verification.layers:
        verification, worst = card.verification, card.verification.worst
        tensors = card.gradients.tensors.values() if card.gradients else ()
        gradients = sum(name in tensors for name in verification.layers)
        noun, reference = "layer", "Keras"
        if card.source.signature:
            noun, reference = "output", "TensorFlow"
        elif not card.channels_last:
            reference = "central differences"
        count = counted(len(verification.layers) - gradients, gradients, noun)
        unsteady = sum(one.reference is not None for one in verification.layers.values())
        inexact = (
            f"; more in {unsteady}, where {reference} itself is less exact" if unsteady else ""
        )
        lines.append(
            (
                "verification",
                f"{count} against {reference} ({'; '.join(verification.batches)}): "
                f"largest scaled error {verification.layers[worst].scaled:.1e} in {worst!r}, "
                f"allowed {verification.tolerance:.0e}{inexact}",
            )
        )
    if card.gradients:
        output, score = card.gradients.output, card.gradients.score
        scores = f"the {score if score == 'logits' else 'value'} of {output}"
        names = ", ".join(card.gradients.tensors)
        lines.append(("gradients", f"of {scores}, with respect to {names}"))
        weights = f"{card.gradients.weights}, {card.gradients.class_input or CLASS_INPUTS[0]}"
        lines.append(("class input", weights))
    lines += [("note", note) for note in card.notes or ()]
    lines.append(("format", card.format))
    return lines


COMMAND = Command(OWN["info"], _configure, _run)
