"""docs/file-format.md agrees with the code: its tables, its example, and its programs."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

import layertap
import pages
from layertap.comparing import golden
from layertap.format import card as schema
from layertap.format import graph
from layertap.format.card import MAJOR, MINOR, Card
from layertap.format.layer import Attention, Layer, Tokens
from layertap.images import load, preprocessing
from pages import quoted, rows

PAGE = (Path(__file__).parents[2] / "docs" / "file-format.md").read_text(encoding="utf-8")

TABLES = {
    "Keys of the card": schema.Card,
    "Keys of `source`": schema.Source,
    "Keys of each of `inputs` and `outputs`": schema.TensorInfo,
    "Keys of each of `layers`": Layer,
    "Keys of `layers[].attention`": Attention,
    "Keys of `layers[].tokens`": Tokens,
    "Keys of `verification`": schema.Verification,
    "Keys of each of `verification.layers`": schema.LayerCheck,
    "Keys of each of `verification.tables`": schema.TableRows,
    "Keys of `golden`": schema.Golden,
    "Keys of each of `golden.inputs`": schema.GoldenInput,
    "Keys of each of `golden.layers`": schema.GoldenLayer,
    "Keys of `gradients`": schema.Gradients,
    "Keys of `digest`": schema.Digest,
    "Keys of `made_from`": schema.MadeFrom,
    "Keys of `finished`": schema.Finished,
    "Keys of `quantized`": schema.Quantized,
}

NODE = shutil.which("node")


def section(heading: str) -> str:
    return pages.section(PAGE, heading)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def as_value(text: str) -> Any:
    """`null`, `"nearest"` or a number, in the notation of the tables."""
    return {"null": None, "false": False}.get(text, text)


# --- The tables ---------------------------------------------------------------------------------


def test_every_class_of_the_schema_has_a_table() -> None:
    classes = {
        kind
        for kind in vars(schema).values()
        if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__")
    }
    assert set(TABLES.values()) == classes


@pytest.mark.parametrize(("heading", "kind"), TABLES.items(), ids=TABLES)
def test_tables_list_every_key_in_order_and_mark_optional_keys(heading: str, kind: type) -> None:
    known = [item for item in fields(kind) if item.name != "extra"]
    table = rows(section(heading))
    # `format` is the last field of the class, because it has a default.
    names = [item.name for item in known if item.name != "format"]
    assert [quoted(row[0])[0] for row in table if row[0] != "`format`"] == names
    assert ("`format`" in [row[0] for row in table]) == ("format" in [item.name for item in known])
    optional = [item.name for item in known if item.default is None]
    assert [quoted(row[0])[0] for row in table if row[1].endswith("optional")] == optional


def test_documented_version_is_the_written_version() -> None:
    assert f"This is format {MAJOR}.{MINOR}." in PAGE


def test_recipe_is_documented_with_every_key_and_choice() -> None:
    recipe, scalings = PAGE[PAGE.index("## The preprocessing recipe") :].split("It is carried out")
    table = rows(recipe)
    assert [quoted(row[0])[0] for row in table] == [
        item.name for item in fields(preprocessing.Preprocessing)
    ]
    assert [as_value(quoted(row[3])[0]) for row in table] == [
        item.default for item in fields(preprocessing.Preprocessing)
    ]
    meanings = {quoted(row[0])[0]: quoted(row[2]) for row in table}
    for key in ("ColorMode", "Interpolation", "Depth"):
        name = re.sub(r"(?<!^)([A-Z])", r"_\1", key).lower()
        assert meanings[name] == list(get_args(getattr(load, key)))

    modes = {quoted(row[0])[0]: row for row in rows(scalings)}
    assert set(modes) == set(preprocessing._SCALINGS)
    for mode, kind in preprocessing._SCALINGS.items():
        keys = [item for item in fields(kind) if item.name != "mode"]
        assert quoted(modes[mode][1]) == [item.name for item in keys]
        for item in keys:
            default = re.search(rf"`{item.name}` \(([^ ]+) if left out\)", modes[mode][1])
            assert (float(default[1]) if default else MISSING) == item.default


def test_limits_are_those_of_the_code() -> None:
    limits = {row[0]: row[1] for row in rows(section("Limits"))}
    assert f"at most {graph.MAX_RANK} axes" in limits["shapes"]
    assert f"at most {graph.MAX_RANK} axes" in limits["tensors in the graph"]
    assert f"at most {graph.MAX_DEPTH} inside" in limits["subgraphs"]
    assert golden.MOST_VALUES == 2**27
    assert "at most 2^27 values" in limits["`golden.inputs`"]
    assert Image.MAX_IMAGE_PIXELS
    assert f"{2 * Image.MAX_IMAGE_PIXELS:,} pixels" in limits["`size` in the recipe"]
    (most,) = re.findall(r"at most (\d+) objects", limits["nesting"])
    data = json.loads(blocks("json")[0])
    for key in ("unknown", "preprocessing"):
        for depth, fits in ((int(most), True), (int(most) + 3, False)):
            value: Any = {"innermost": 0}
            for _ in range(depth - 1):
                value = {"inner": value}
            text = json.dumps({**data, key: value})
            if fits:
                Card.from_json(text)
            else:
                with pytest.raises(layertap.ModelFileError):
                    Card.from_json(text)
    for number, fits in ((2**63 - 1, True), (2**63, False), (-1, False)):
        text = json.dumps({**data, "golden": {**data["golden"], "seed": number}})
        if fits:
            Card.from_json(text)
        else:
            with pytest.raises(layertap.ModelFileError):
                Card.from_json(text)


# --- The example --------------------------------------------------------------------------------


RARE = {
    "channel", "choices", "notes", "made_from", "reference", "step", "file", "tables", "read",
    "rows", "finished", "stripped", "quantized",
}  # fmt: skip
"""Keys that the model of the example does not have."""


def test_example_is_a_card_with_every_key() -> None:
    text, layers, vision, finished, quantized = blocks("json")
    card = Card.from_json(text)
    assert json.loads(card.to_json()) == json.loads(text)
    assert card.layers[1].name == "conv5_block16_concat"
    assert card.preprocessing is not None
    recipe = preprocessing.Preprocessing.from_dict(card.preprocessing)
    assert recipe.to_dict() == card.preprocessing
    for heading in TABLES:
        for row in rows(section(heading)):
            key = quoted(row[0])[0]
            assert f'"{key}"' in text + layers + vision + finished + quantized or key in RARE
    inner = Card.from_json(json.dumps({**json.loads(text), "layers": json.loads(layers)})).layers
    assert [(layer.exposed, layer.per_sample) for layer in inner] == [(False, None), (True, False)]
    made = Card.from_json(json.dumps({**json.loads(text), "finished": json.loads(finished)}))
    assert made.finished is not None
    assert all(getattr(made.finished, item.name) for item in fields(schema.Finished)[:-1])
    made = Card.from_json(json.dumps({**json.loads(text), "quantized": json.loads(quantized)}))
    assert made.quantized is not None
    assert all(getattr(made.quantized, item.name) for item in fields(schema.Quantized)[:-1])


@pytest.mark.tensorflow
def test_example_is_an_excerpt_of_the_real_card(chest_file: Path) -> None:
    """Except for versions, and the last digits, which depend on the machine."""
    real = json.loads(str(layertap.open(chest_file).card.to_json()))  # type: ignore[union-attr]
    shown = json.loads(blocks("json")[0])
    for key in ("format", "inputs", "outputs", "preprocessing", "labels", "gradients"):
        assert shown[key] == real[key]
    assert shown.keys() == real.keys()
    for layer in shown["layers"]:
        assert layer in real["layers"]
    for key in ("source", "verification", "golden"):
        assert shown[key].keys() == real[key].keys()
    assert shown["golden"]["inputs"] == real["golden"]["inputs"]
    for name, expected in shown["golden"]["layers"].items():
        found = real["golden"]["layers"][name]
        for key in ("shape", "norm", "scale", "values"):
            np.testing.assert_allclose(expected[key], found[key], atol=1e-4 * found["scale"])
        size = math.prod(found["shape"])
        atol = 1e-4 * golden.sum_scale(found["scale"], size)
        np.testing.assert_allclose(expected["sums"], found["sums"], atol=atol)
    for name, check in shown["verification"]["layers"].items():
        assert check.keys() == real["verification"]["layers"][name].keys()


# --- The golden sample --------------------------------------------------------------------------


def test_table_of_seeded_numbers_is_correct() -> None:
    table = rows(section("The golden sample"))
    assert len(table) == 3
    for row in table:
        seed, low, high, *expected = map(float, row)
        assert golden.uniform((2, 2), low, high, int(seed)).ravel().tolist() == expected


def test_formula_equals_the_example_programs() -> None:
    formula = re.search(r"^    z = .*?^$", PAGE, re.DOTALL | re.MULTILINE)
    assert formula
    constants = [
        re.findall(r"0x[0-9A-F]{16}|(?<=>> )\d+", text)
        for text in (formula[0], blocks("python")[1], blocks("js")[1])
    ]
    assert len(constants[0]) == 7
    assert constants[0] == constants[1] == constants[2]


@pytest.fixture(scope="module")
def programs() -> list[str]:
    """The functions of the Python blocks: one reads the card, one checks the golden sample."""
    found = blocks("python")
    assert len(found) == 2
    return found


def test_python_generator_equals_layertaps(programs: list[str]) -> None:
    start = programs[1].partition("golden = card")[0]
    names: dict[str, Any] = {}
    exec(start, names)
    made = names["golden_input"]((2, 3, 5), -3.0, 2.0, 7)
    np.testing.assert_array_equal(made, golden.uniform((2, 3, 5), -3.0, 2.0, 7))


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6, 7, 100, 102400])
def test_formula_of_the_value_positions_is_correct(size: int) -> None:
    assert "`floor(k * (size - 1) / (n - 1))`" in PAGE
    found = golden.indices(size, 5).tolist()
    n = len(found)
    assert n == min(size, 5)
    assert found == [math.floor(k * (size - 1) / (n - 1)) if n > 1 else 0 for k in range(n)]


@pytest.mark.tensorflow
def test_python_reader_checks_the_chest_model(
    programs: list[str], chest_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only with onnxruntime and numpy; on three layers, because each requires a whole run."""
    monkeypatch.chdir(chest_file.parent)
    names: dict[str, Any] = {}
    exec(programs[0], names)
    card = names["card"]
    assert card["format"] == f"{MAJOR}.{MINOR}"
    layers = ("conv1_relu", "conv5_block16_concat", "dense")
    card["golden"]["layers"] = {name: card["golden"]["layers"][name] for name in layers}
    exec(programs[1], names)
    assert tuple(names["errors"]) == layers
    assert max(names["errors"].values()) < 1e-4


# --- The graph ----------------------------------------------------------------------------------


@pytest.mark.tensorflow
def test_graph_is_as_described(chest_file: Path) -> None:
    import onnx

    model = onnx.load(chest_file)
    assert (model.producer_name, model.ir_version) == ("layertap", 8)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
    card = layertap.open(chest_file).card
    assert card is not None
    assert card.gradients is not None
    rows = {card.gradients.weights, *card.gradients.tensors.values()}
    for value in [*model.graph.input, *model.graph.output]:
        first = value.type.tensor_type.shape.dim[0]
        assert first.dim_param == ("" if value.name in rows else "batch")
        assert not first.HasField("dim_value")
    names = [value.name for value in model.graph.output]
    own = [info.name for info in card.outputs]
    inputs = {info.name for info in card.inputs}
    rest = [x.tensor for x in card.layers if x.tensor and x.tensor not in {*own, *inputs}]
    assert names == own + rest + list(card.gradients.tensors.values())
    assert [x.name for x in model.graph.input] == [*inputs, card.gradients.weights]
    assert card.gradients.weights in {x.name for x in model.graph.initializer}


@pytest.mark.parametrize(
    ("from_size", "to_size"),
    [(1024, 320), (320, 1024), (512, 320), (7, 3), (3, 7), (2001, 320), (640, 320)],
)
def test_rule_for_nearest_equals_load_image(from_size: int, to_size: int) -> None:
    ramp = (np.arange(from_size) % 251).astype(np.uint8)
    read = load.load_image(ramp[np.newaxis], size=(1, to_size), color_mode="grayscale")
    step = from_size / to_size
    p, expected = step / 2, []
    for _ in range(to_size):
        expected.append(int(ramp[math.floor(p)]))
        p += step
    assert read[0, :, 0].tolist() == expected


def test_rule_for_grey_equals_load_image() -> None:
    assert "`(19595 R + 38470 G + 7471 B + 32768) >> 16`" in PAGE
    colours = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    red, green, blue = np.moveaxis(colours.astype(np.int64), -1, 0)
    expected = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    read = load.load_image(colours, color_mode="grayscale")
    np.testing.assert_array_equal(read[:, :, 0], expected)


# --- JavaScript ---------------------------------------------------------------------------------


def javascript(program: str, *arguments: str) -> Any:
    """The JSON output of a Node.js program that contains the page's functions."""
    source = "\n".join([*blocks("js"), program])
    command = [str(NODE), "--eval", source, "--", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


@pytest.mark.skipif(NODE is None, reason="needs Node.js")
def test_javascript_reader_finds_the_card(tiny_file: Callable[[str], Path], tmp_path: Path) -> None:
    read = "console.log(JSON.stringify(readCard(require('fs').readFileSync(process.argv[1]))))"
    file = tiny_file("image_classifier")
    card = layertap.open(file).card
    assert card is not None
    assert javascript(read, str(file)) == json.loads(card.to_json())
    without = tmp_path / "without.onnx"
    without.write_bytes(file.read_bytes().replace(b"layertap", b"somebody"))
    assert javascript(read, str(without)) is None


@pytest.mark.skipif(NODE is None, reason="needs Node.js")
def test_javascript_generator_equals_layertaps() -> None:
    made = javascript("console.log(JSON.stringify(Array.from(goldenInput(1000, -3, 2, 7))))")
    expected = golden.seeded((1000,), "float32", -3.0, 2.0, 7)
    np.testing.assert_array_equal(np.array(made, np.float32), expected)
