"""`layertap info`: a description of a file."""

from __future__ import annotations

import argparse
import json

from layertap.errors import ModelFileError
from layertap.format.card import CLASS_INPUTS, Card, Finished, MadeFrom, Quantized, TensorInfo
from layertap.format.digest import change_text, changed_parts, digest_of
from layertap.format.index import read_index
from layertap.format.source import FileSource
from layertap.format.text import WIDEST, counted, number_of, printable, shortened, type_text

from . import OK, OWN, Command
from .printing import show


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx")
    parser.add_argument(
        "--json", action="store_true", help="print all of the card as JSON, not shortened"
    )


def _run(args: argparse.Namespace) -> int:
    source = FileSource(args.file)
    model = read_index(source)  # faster than `open`, which imports numpy
    if args.json:
        if model.card is None:
            raise ModelFileError(
                f"{source.name} has no card to print: layertap did not export it. `layertap layers "
                "--json` prints its tensors."
            )
        show(json.dumps(json.loads(model.card.to_json()), indent=1, sort_keys=True))
        return OK
    lines = [("inputs", _tensors(model.inputs)), ("outputs", _tensors(model.outputs))]
    exposed = sum(layer.exposed for layer in model.layers)
    lines.append(("layers", f"{len(model.layers)}, {exposed} of them with activations"))
    if model.card and model.card.source.signature:
        lines[-1] = ("layers", "none: exported from a signature, which only has outputs")
    if model.card is None:
        of_modules = any(layer.name != layer.tensor for layer in model.layers)
        what = "PyTorch's modules and ONNX tensors" if of_modules else "ONNX tensors"
        lines.append(("card", f"none: not exported by layertap; the layers are {what}"))
    else:
        changes = _changes(source, model.card)
        lines = [*_head(model.card), *changes, *lines, *_tail(model.card, bool(changes))]
    width = max(len(name) for name, _ in lines)
    short = [(name, printable(shortened(text, LONGEST))) for name, text in lines]
    show("\n".join(f"{name:{width}}  {text}" for name, text in short))
    return OK


LONGEST = 1000
"""Most characters of a line; a model may have thousands of classes."""


def _tensors(infos: tuple[TensorInfo, ...]) -> str:
    return ", ".join(map(_tensor, infos)) or "none"


def _tensor(info: TensorInfo) -> str:
    text = type_text(info.shape, info.dtype)
    dtype = "" if text in ("?", info.dtype) else f" {info.dtype}"
    return f"{shortened(info.name, WIDEST)} {text}{dtype}"


def _changes(source: FileSource, card: Card) -> list[tuple[str, str]]:
    """What differs from the file that was verified. All weights are read."""
    if card.digest is None:
        return []
    try:
        parts = changed_parts(card.digest, digest_of(source, card))
    except ModelFileError as exc:  # weights in another file, which is not there
        return [("not compared", str(exc))]
    return [("changed", f"{change_text(parts)}; see `layertap check`")] if parts else []


def _head(card: Card) -> list[tuple[str, str]]:
    source = card.source
    return [
        ("model", f"{source.model} ({source.type}, {source.framework} {source.version})"),
        ("weights", f"sha256 {source.weights_sha256}"),
    ]


def _tail(card: Card, changed: bool) -> list[tuple[str, str]]:
    lines = []
    if card.labels:
        text = ", ".join(card.labels)
        count = f"{len(card.labels)}: " if len(text) > LONGEST else ""
        lines.append(("labels", f"{count}{text}"))
    if card.preprocessing:
        lines.append(("preprocessing", json.dumps(card.preprocessing)))
    if card.images:
        versions = ", ".join(f"{name} {version}" for name, version in card.images.items())
        lines.append(("images", f"read at the export with {versions}"))
    lines += _finished(card.finished) if card.finished else []
    lines += _quantized(card.quantized) if card.quantized else []
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
        before = " (before it was changed)" if changed else ""
        unsteady = sum(one.reference is not None for one in verification.layers.values())
        allowed = f"allowed {verification.tolerance:.0e}"
        inexact = (
            f"; more in {unsteady}, where {reference} itself is less exact" if unsteady else ""
        )
        lines.append(
            (
                "verification",
                f"{count} against {reference} ({'; '.join(verification.batches)}): "
                f"largest scaled error {verification.layers[worst].scaled:.1e} in "
                f"{shortened(worst, WIDEST)!r}, {allowed}{inexact}{before}",
            )
        )
    if card.gradients:
        output, score = card.gradients.scored, card.gradients.score
        scores = f"the {score if score == 'logits' else 'value'} of {output}"
        names = ", ".join(card.gradients.tensors)
        lines.append(("gradients", f"of {scores}, with respect to {names}"))
        weights = f"{card.gradients.weights}, {card.gradients.class_input or CLASS_INPUTS[0]}"
        lines.append(("class input", weights))
    if card.made_from:
        lines.append(("made from", _origin(card.made_from)))
    lines += [("note", note) for note in card.notes or ()]
    lines.append(("format", card.format))
    return lines


def _finished(facts: Finished) -> list[tuple[str, str]]:
    """What a finished file takes and gives."""
    lines = []
    if facts.image is not None:
        inside = json.dumps(facts.preprocessing or {})
        lines.append(("picture", f"{facts.image}, prepared in the file: {inside}"))
    if facts.top_scores is not None:
        best = f"{facts.top_scores} and {facts.top_classes}"
        lines.append(("best classes", f"{best}, of {facts.scores}"))
    if facts.heat_map is not None:
        chosen = f", for the class in {facts.target} (-1: the best)" if facts.target else ""
        text = f"{facts.heat_map}: {facts.method} of {facts.layer}{chosen}"
        lines.append(("heat map", text))
    return lines


def _quantized(facts: Quantized) -> list[tuple[str, str]]:
    """How a file was quantised, and what was lost."""
    levels = list(facts.layers.values())
    counts = [f"{levels.count(level)} layers in {level}" for level in dict.fromkeys(levels)]
    losses = ", ".join(f"{error:.1e} in {name}" for name, error in facts.outputs.items())
    on = number_of(facts.samples, "sample")
    return [
        ("quantised", f"to {facts.to}: {', '.join(counts)}; error of the outputs on {on}: {losses}")
    ]


def _origin(made: MadeFrom) -> str:
    step = {
        "cut": "part of {} by `layertap cut`",
        "gradients": "{} by `layertap gradients`",
        "finish": "{} by `layertap finish`",
        "quantize": "{} by `layertap quantize`",
    }
    file = made.file or "a model in memory"
    text = step.get(made.step, "{}").format(file)
    return f"{text}; its graph {made.graph[:12]}, its weights {made.weights[:12]} (SHA-256)"


COMMAND = Command(
    OWN["info"],
    _configure,
    _run,
    examples=("layertap info chest.onnx",),
)
