"""A card that names a tensor that the graph lacks, or another one: an error of ours everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest

import layertap
from generators import tiny
from layertap.cli import main
from layertap.comparing.check import check
from layertap.errors import LayertapError
from layertap.format.card import KEY
from layertap_export import add_gradients

X = tiny.images(1)


def card_of(made: onnx.ModelProto) -> Any:
    (text,) = (item.value for item in made.metadata_props if item.key == KEY)
    card = json.loads(text)
    golden = {"shape": [1, 2], "norm": 1.0, "scale": 1.0, "values": [0.5]}
    card["golden"] = {
        "seed": 0,
        "inputs": [{"name": "image", "shape": [1, 8, 6, 3], "low": -1.0, "high": 1.0}],
        "layers": {"probs": golden, "conv": golden, "grad/conv": golden},
    }
    return card


def changes(made: onnx.ModelProto, others: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Cards in which one name of a tensor is another, each with where it stands."""
    for other in others:
        for where in ("inputs", "outputs", "layers"):
            for row in range(len(card_of(made)[where])):
                card = card_of(made)
                key = "tensor" if where == "layers" else "name"
                card[where][row][key] = other
                yield f"{where} {row} {other}", card
        for key in ("output", "weights"):
            card = card_of(made)
            card["gradients"][key] = other
            yield f"gradients {key} {other}", card
        for name in card_of(made)["gradients"]["tensors"]:
            card = card_of(made)
            card["gradients"]["tensors"][name] = other
            yield f"gradients {name} {other}", card
            card["gradients"]["tensors"] = {other: name}
            yield f"gradients of {name} {other}", card
        card = card_of(made)
        card["golden"]["inputs"][0]["name"] = other
        yield f"golden input {other}", card
        card = card_of(made)
        card["golden"]["layers"] = {other: card["golden"]["layers"]["probs"]}
        yield f"golden layer {other}", card
        card = card_of(made)
        card["layers"][1]["parent"] = other
        yield f"parent {other}", card


def uses(file: Path) -> dict[str, Callable[[], object]]:
    model = layertap.open(file)
    out = file.parent / "out.onnx"
    return {
        "activations": lambda: model.activations(X),
        "predict": lambda: model.predict(X),
        "gradients": lambda: model.gradients(X),
        "cam": lambda: model.cam(X, "conv"),
        "scorecam": lambda: model.cam(X, "conv", method="scorecam"),
        "attribute": lambda: model.attribute(X),
        "resume": lambda: model.resume({"conv": X}),
        "edit": lambda: model.edit(X, {"conv": lambda value: value}),
        "check": lambda: check(model),
        "summary": lambda: str(model.summary()) + repr(model) + model._repr_html_(),
        "cut": lambda: model.cut(out, end="conv"),
        "cut to a gradient": lambda: model.cut(out, end=["probs", "grad/conv"]),
        "add_gradients": lambda: add_gradients(file, out, "conv", seconds=0),
        "info": lambda: main(["info", str(file)]),
        "layers": lambda: main(["layers", str(file), "--json"]),
    }


def failures(made: onnx.ModelProto, folder: Path, slowly: bool) -> list[str]:
    found = []
    names = [output.name for output in made.graph.output]
    others = ["nothing", "", names[0], names[-1], "image"] if slowly else ["nothing"]
    for number, (what, card) in enumerate(changes(made, others)):
        changed = onnx.ModelProto.FromString(made.SerializeToString())
        for item in changed.metadata_props:
            if item.key == KEY:
                item.value = json.dumps(card)
        file = tiny.save(changed, folder / f"{number}.onnx")
        try:
            calls = uses(file)
        except LayertapError:
            continue
        for name, call in calls.items():
            if name == "add_gradients" and not (slowly or what.startswith("gradients")):
                continue
            try:
                call()
            except LayertapError:
                continue
            except Exception as exc:  # noqa: BLE001 - this is what the test looks for
                found.append(f"{what}: {name}: {type(exc).__name__}: {exc}")
    return found


@pytest.mark.parametrize(
    "slowly", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["quick", "slow"]
)
@pytest.mark.filterwarnings("ignore::layertap.LayertapWarning")
def test_names_of_tensors_in_a_card(slowly: bool, tmp_path: Path) -> None:
    assert failures(tiny.differentiable(), tmp_path, slowly) == []
