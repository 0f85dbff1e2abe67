"""A file whose names are hostile: no command prints them as they are, or writes elsewhere."""

from __future__ import annotations

import ast
import json
import sys
import unicodedata
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

import layertap
import layertap_export
import layertap_models as models
from generators import tiny
from layertap.format.card import KEY
from shell import Done
from shell import layertap as shell

FORGED = "layertap: forged"

EVIL = {
    "escape": "\x1b[2J\x1b]0;title\x07",
    "line": f"a\r\n{FORGED}\n",
    "C1": "\x9b31m\x85",
    "bidi": "\u202eevil\u2066\u200b\ufeff",
    "separators": "\u2028\u2029\xa0\xad",
    "path": "../../up/\\..\\up",
    "absolute": "/tmp/layertap_forged",
    "drive": "C:\\NUL",
    "device": "CON",
    "long": "n" * 300,
    "wide": "\U0001f9ec" * 90,
    "dots": "..",
    "dot": "trailing. .",
    "options": "--help",
    "glob": "*?[x]",
    "quotes": "'\"`$(id);",
}
"""Names that are valid in a file, and in JSON."""


def hostile() -> bytes:
    """A classifier in which every text is hostile, each in another way."""
    made = tiny.differentiable()
    names = {name for node in made.graph.node for name in (*node.input, *node.output) if name}
    kinds = cycle(EVIL.values())
    renamed = {
        name: f"{evil}{at}"
        for at, (name, evil) in enumerate(zip(sorted(names), kinds, strict=False))
    }
    evil = "".join(EVIL.values())
    for node in made.graph.node:
        for strings in (node.input, node.output):
            strings[:] = [renamed.get(name, name) for name in strings]
        node.name, node.doc_string = renamed.get(node.name, evil), evil
    for values in (made.graph.input, made.graph.output, made.graph.initializer):
        for item in values:
            item.name = renamed[item.name]
    made.graph.name = made.graph.doc_string = made.doc_string = evil
    made.producer_name = made.producer_version = evil
    (entry,) = (item for item in made.metadata_props if item.key == KEY)
    card = renaming(json.loads(entry.value), renamed)
    card["source"] = dict.fromkeys(card["source"], evil)
    card["labels"] = [EVIL["line"], EVIL["escape"], EVIL["bidi"]]
    card["notes"] = [evil]
    card["layers"][1]["why_not"] = evil
    for layer in card["layers"]:
        layer["type"] = next(kinds)
    card["preprocessing"] = {"size": [8, 6]}
    entry.value = json.dumps(card)
    made.metadata_props.add(key=evil, value=evil)
    return made.SerializeToString()


def renaming(value: Any, names: dict[str, str]) -> Any:
    """JSON data with other names in it, also in keys."""
    if isinstance(value, dict):
        return {names.get(key, key): renaming(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [renaming(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


def without_card() -> bytes:
    """A graph of functions, whose operators have such names too."""
    data, evil = onnx.ModelProto.FromString(hostile()), EVIL["line"] + EVIL["escape"]
    del data.metadata_props[:]
    for at, node in enumerate(data.graph.node):
        if node.op_type == "Relu":
            inner = [tiny.node("Relu", "i", "o")]
            function = helper.make_function(
                evil, f"{evil}{at}", ["i"], ["o"], inner, [helper.make_opsetid("", 18)]
            )
            data.functions.append(function)
            node.domain, node.op_type = evil, f"{evil}{at}"
    data.opset_import.append(helper.make_opsetid(evil, 1))
    return data.SerializeToString()


def commands(file: str, model: layertap.Model, pictures: str) -> Iterator[list[str]]:
    """Command lines that print names of the file, in results and in errors."""
    layer = next(row.name for row in model.layers if row.exposed and len(row.shape) == 4)
    named = [f"--layers={layer}"]
    recipe = ["--preprocess", "recipe.json"]
    yield ["info", file]
    yield ["layers", file]
    yield ["layers", file, "--json"]
    yield ["layers", file, "--type", "Nope"]
    yield ["layers", file, *named]
    yield ["check", file]
    yield ["run", file, pictures, *recipe]
    yield ["run", file, pictures, *recipe, *named]
    yield ["run", file, pictures, *recipe, *named, "-o", "out/all.npz"]
    yield ["run", file, pictures, *recipe, *named, "--sheet", "out/sheets"]
    yield ["run", file, pictures, "--layers", "nope"]
    yield ["run", file, "batch.npy"]
    yield ["run", file, "bad.npy"]
    yield ["run", file, "named.npz"]
    yield ["cut", file, f"--to={layer}", "-o", "out/part.onnx"]
    yield ["cut", file, f"--from={layer}", "-o", "out/part.onnx"]
    yield ["cut", file, "--from", "nope", "-o", "out/part.onnx"]
    yield ["cam", file, pictures, *recipe, "-o", "out/cam"]
    yield [
        "cam",
        file,
        pictures,
        *recipe,
        "--method",
        "eigencam",
        f"--layer={layer}",
        "-o",
        "out/e",
    ]
    yield ["cam", file, pictures, *recipe, "--target", "nope", "-o", "out/cam"]
    yield ["stats", pictures, "--size", "8"]
    yield ["gradients", file, f"--layers={layer}", "-o", "out/more.onnx", "--seconds", "0.01"]
    yield ["gradients", file, "--layers", "nope", "-o", "out/more.onnx"]
    yield ["verify", file, "gone.keras"]
    yield ["export", "gone.keras", "-o", "out/new.onnx", "--labels", file]


def check_output(done: Done) -> None:
    for line in (done.out + done.err).split("\n"):
        assert line.isprintable(), ascii(line)
        assert not any(unicodedata.category(one) in ("Cc", "Cf", "Cs") for one in line)
        assert not line.startswith(FORGED)
        assert len(line) < 60_000
    assert "Traceback" not in done.err


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a" / "b"
    (folder / "pictures").mkdir(parents=True)
    (folder / "out").mkdir()
    monkeypatch.chdir(folder)
    Path("recipe.json").write_text('{"size": [8, 6]}')
    np.save("batch.npy", tiny.images())
    np.save("bad.npy", tiny.images()[..., :2])
    np.savez("named.npz", nope=tiny.images())
    return tmp_path


@pytest.mark.parametrize("make", [hostile, without_card])
def test_no_command_prints_hostile_names(make: Callable[[], bytes], here: Path) -> None:
    Path("m.onnx").write_bytes(make())
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    for evil in EVIL.values():
        if "/" not in evil and len(evil) < 80 and sys.platform == "linux":
            Image.fromarray(pixels).save(Path("pictures") / f"{evil}.png", format="PNG")
            (Path("pictures") / f"{evil}.jpg").write_bytes(b"no image")
    before = set(here.rglob("*"))
    model = layertap.open("m.onnx")
    codes = []
    for argv in commands("m.onnx", model, "pictures"):
        done = shell(*argv)
        check_output(done)
        codes.append(done.code)
    assert sum(code < 2 for code in codes) > 10
    new = set(here.rglob("*")) - before
    assert len(new) > 30
    assert all((here / "a" / "b" / "out") in path.parents for path in new)
    for path in new:
        assert path.name.isprintable()
        assert len(path.name.encode()) <= 255
        assert path.name.rstrip(" .") == path.name
    for text in (model.summary(), repr(model), str(model.card), repr(model.layers)):
        assert all(line.isprintable() for line in text.split("\n"))
        assert not any(line.startswith(FORGED) for line in text.split("\n"))


@pytest.mark.parametrize("kind", EVIL)
def test_no_error_says_hostile_names(kind: str) -> None:
    model = layertap.open(hostile())
    x = tiny.images()
    calls: list[Callable[[], object]] = [
        lambda: model.layer(f"{EVIL[kind]}nope"),
        lambda: model.activations({EVIL[kind]: x}),
        lambda: model.activations(x[:, :3]),
        lambda: model.gradients(x, f"{EVIL[kind]}nope"),
        lambda: model.gradients(x, target=f"{EVIL[kind]}nope"),
        lambda: model.select(type=f"{EVIL[kind]}nope"),
        lambda: model.resume({EVIL[kind]: x}),
    ]
    for call in calls:
        with pytest.raises(layertap.LayertapError) as caught:
            call()
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("evil", ["zero\0", "half\ud800"])
def test_names_that_no_system_takes_are_refused(evil: str) -> None:
    data = onnx.ModelProto.FromString(hostile())
    if "\0" in evil:
        node = data.graph.node[0]
        node.output[0] = data.graph.node[1].input[0] = evil
    else:
        (entry,) = (item for item in data.metadata_props if item.key == KEY)
        card = json.loads(entry.value)
        card["labels"][0] = evil
        entry.value = json.dumps(card)
    with pytest.raises(layertap.ModelFileError):
        layertap.open(data.SerializeToString())


def test_everything_is_printed_in_one_place() -> None:
    found = {
        path.relative_to(home.parent).as_posix()
        for home in (Path(str(x.__file__)).parent for x in (layertap, layertap_export, models))
        for path in home.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    }
    assert found == {"layertap/cli/printing.py"}
