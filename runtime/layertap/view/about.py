"""What a page says about a file: its layers, and what its card says."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layertap._engine.library import import_onnxruntime
from layertap._escaping import printable, shortened
from layertap._version import __version__
from layertap.format.text import type_text

from .colormaps import shades
from .values import number

if TYPE_CHECKING:
    from layertap._engine.program import Program
    from layertap.format.card import Card, TensorInfo
    from layertap.format.layer import Layer

LONGEST = 2000
"""Most characters of one text."""


def shown(text: str) -> str:
    """A text of a file for a page: without characters that change the direction of writing, or
    that do not show."""
    return printable(shortened(text, LONGEST))


def file_title(program: Program) -> str:
    """The name of the file, without its folder, which is nobody's business."""
    path = program.source.path
    return path.name if path else "a model in memory"


def file_data(program: Program) -> dict[str, Any]:
    """What every page of a file has, as JSON."""
    card, name = program.card, file_title(program)
    return {
        "file": shown(name),
        "model": shown(card.source.model if card else name),
        "layers": layer_rows(program.layers, card),
        "facts": file_facts(program),
        "verification": verification(card),
        "labels": [shown(label) for label in program.labels or ()],
        "samples": [],
        "scores": None,
        "heat": None,
        "leftOut": [],
        "colormaps": {one: shades(one).tobytes().hex() for one in ("viridis", "magma")},
    }


def layer_rows(layers: Sequence[Layer], card: Card | None) -> list[dict[str, Any]]:
    """One object for each layer, without what is not known."""
    index = {layer.name: at for at, layer in enumerate(layers)}
    checks = card.verification.layers if card and card.verification else {}
    rows = []
    for layer in layers:
        row: dict[str, Any] = {
            "name": shown(layer.name),
            "type": shown(layer.type),
            "shape": shown(type_text(layer.shape, layer.dtype)),
            "dtype": shown(layer.dtype),
            "from": [index[name] for name in layer.inbound if name in index],
        }
        if layer.parameters:
            row["parameters"] = layer.parameters
        if layer.parent in index:
            row["parent"] = index[layer.parent]
        if not layer.exposed:
            row["hidden"] = shown(layer.why_not or "the export left it out")
        if layer.axes:
            row["axes"] = layer.axes
        check = checks.get(layer.name)
        if check is not None:
            row["error"] = number(check.scaled)
            row["largest"] = number(check.max_abs)
            if check.reference is not None:
                row["reference"] = number(check.reference)
        rows.append(row)
    return rows


def file_facts(program: Program) -> list[tuple[str, str]]:
    """Pairs of a name and a text, in the order in which they are shown."""
    card = program.card
    facts = [
        ("inputs", _tensors(program.inputs)),
        ("outputs", _tensors(program.outputs)),
        ("layers", _layers(program.layers)),
    ]
    if card is None:
        facts.append(("card", "none: layertap did not export this file; its layers are tensors"))
    else:
        source = card.source
        model = f"{source.model} ({source.type}, {source.framework} {source.version})"
        facts = [("model", model), *facts, *_of_card(card)]
        if program.changed:
            facts.append(("changed", "the graph is not the one that was verified"))
    facts.append(
        ("page", f"layertap {__version__}, onnxruntime {import_onnxruntime().__version__}")
    )
    return [(name, shown(text)) for name, text in facts]


def verification(card: Card | None) -> dict[str, Any] | None:
    """How the file was compared with its model; `None` if it was not."""
    if card is None or card.verification is None or not card.verification.layers:
        return None
    found = card.verification
    reference = "Keras" if card.channels_last else "central differences"
    if card.source.signature:
        reference = "TensorFlow"
    errors = [x.scaled for x in found.layers.values() if math.isfinite(x.scaled)]
    gradients = card.gradients.added if card.gradients else set()
    known = {layer.name for layer in card.layers}
    return {
        "tolerance": found.tolerance,
        "reference": reference,
        "batches": [shown(text) for text in found.batches],
        "onnxruntime": shown(found.onnxruntime),
        "worst": shown(found.worst),
        "largest": max(errors, default=0.0),
        "count": sum(name in known for name in found.layers),
        # Gradients, and outputs that are no layers.
        "others": [
            {
                "name": shown(name),
                "type": "gradient" if name in gradients else "output",
                "error": number(check.scaled),
                "largest": number(check.max_abs),
            }
            for name, check in found.layers.items()
            if name not in known
        ],
    }


def _tensors(infos: Sequence[TensorInfo]) -> str:
    texts = (f"{x.name} {type_text(x.shape, x.dtype)} {x.dtype}".strip() for x in infos)
    return ", ".join(texts) or "none"


def _layers(layers: Sequence[Layer]) -> str:
    exposed = sum(layer.exposed for layer in layers)
    parameters = sum(layer.parameters for layer in layers if layer.parent is None)
    text = f"{len(layers):,}, {exposed:,} of them with activations"
    return f"{text}; {parameters:,} parameters" if parameters else text


def _of_card(card: Card) -> list[tuple[str, str]]:
    facts = []
    if card.labels:
        facts.append(("labels", ", ".join(card.labels)))
    if card.preprocessing:
        facts.append(("preprocessing", json.dumps(card.preprocessing)))
    if card.images:
        facts.append(("images", ", ".join(f"{name} {x}" for name, x in card.images.items())))
    if card.gradients:
        gradients = card.gradients
        scores = "logits" if gradients.score == "logits" else "values"
        names = ", ".join(gradients.tensors)
        facts.append(("gradients", f"of the {scores} of {gradients.scored}, at {names}"))
    if card.verification:
        facts.append(("verified", f"with onnxruntime {card.verification.onnxruntime}"))
    facts.append(("weights", f"sha256 {card.source.weights_sha256}"))
    if card.digest:
        facts.append(("digest", f"graph {card.digest.graph}, weights {card.digest.weights}"))
    if card.made_from:
        made = card.made_from
        facts.append(("made from", f"{made.file or 'a model in memory'}, by layertap {made.step}"))
    facts += [("note", note) for note in card.notes or ()]
    facts.append(("format", card.format))
    return facts
