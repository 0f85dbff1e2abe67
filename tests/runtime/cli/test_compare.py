"""`layertap compare`."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from generators import tiny
from shell import layertap


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`a.onnx`, and `b.onnx` with another bias of the convolution; it is the current folder."""
    monkeypatch.chdir(tmp_path)
    made = tiny.image_classifier(16, 12)
    tiny.save(made, tmp_path / "a.onnx")
    (bias,) = (item for item in made.graph.initializer if item.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.5), "bias"))
    tiny.save(made, tmp_path / "b.onnx")
    return tmp_path


def test_images_in_a_folder(files: Path, pictures: Path) -> None:
    done = layertap("compare", "a.onnx", "b.onnx", "pictures")
    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[0].startswith("The first to diverge is 'conv', by ")
    assert lines[0].endswith("5 of 6 layers differ on 5 samples.")
    assert [line.split()[0] for line in lines[-6:]] == "image conv relu drop pool probs".split()
    assert layertap("compare", "a.onnx", "a.onnx", "pictures").code == 0


def test_an_image_that_cannot_be_read_is_left_out(files: Path, pictures: Path) -> None:
    (pictures / "c.png").write_bytes(b"no image")
    done = layertap("compare", "a.onnx", "a.onnx", "pictures")
    assert done.code == 1
    assert "c.png" in done.err
    assert "agree on 4 samples" in done.out
    (pictures / "alone.png").write_bytes(b"no image")
    done = layertap("compare", "a.onnx", "a.onnx", "pictures/alone.png")
    assert done.code == 2


def test_results_for_other_programs(files: Path, pictures: Path) -> None:
    np.save("batch.npy", np.random.default_rng(0).random((3, 16, 12, 3), np.float32))
    outputs = ["--json", "--csv", "rows.csv", "--overlay", "nodes.json", "--sort", "damage"]
    done = layertap("compare", "a.onnx", "b.onnx", "batch.npy", *outputs)
    found = json.loads(done.out)
    assert (found["first"], found["samples"], found["passed"]) == ("conv", 3, False)
    assert found["layers"][0]["name"] == "conv"  # the most damage
    rows = list(csv.DictReader(Path("rows.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["name"] for row in rows] == [row["name"] for row in found["layers"]]
    nodes = json.loads(Path("nodes.json").read_text(encoding="utf-8"))["results"]
    assert nodes["conv_nchw"]["value"] == nodes["conv"]["value"] > 0


def test_the_page_draws_the_errors(files: Path, pictures: Path) -> None:
    """Bars for what is born, a line for the whole error; heights on a scale of powers of 10."""
    done = layertap("compare", "a.onnx", "b.onnx", "pictures", "--page", "page.html", "--json")
    found = {row["name"]: row for row in json.loads(done.out)["layers"]}
    page = Path("page.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "script-src 'none'" in page
    bars = dict(re.findall(r'<rect [^>]*height="([\d.]+)"><title>(\w+)</title>', page))
    born = {name: row["born"] for name, row in found.items() if row["born"]}
    assert sorted(bars.values()) == sorted(born) != []
    for height, name in bars.items():
        assert float(height) == pytest.approx(160 * (8 + math.log10(born[name])) / 8, abs=0.06)
    for row in found.values():
        assert f"<span class=name>{row['name']}</span>" in page


def test_names_in_a_file_are_no_html(pictures: Path, tmp_path: Path) -> None:
    name = "<script>alert(1)</script>"
    made = tiny.model(
        [tiny.node("Relu", "x", name, name="r")],
        [tiny.value("x", ["n", 4])],
        [tiny.value(name, ["n", 4])],
    )
    tiny.save(made, Path("odd.onnx"))
    np.save("x.npy", np.ones((2, 4), np.float32))
    assert layertap("compare", "odd.onnx", "odd.onnx", "x.npy", "--page", "odd.html").code == 0
    assert "&lt;script&gt;alert(1)" in Path("odd.html").read_text(encoding="utf-8")
    assert "<script" not in Path("odd.html").read_text(encoding="utf-8")


def test_only_some_layers(files: Path, pictures: Path) -> None:
    done = layertap("compare", "a.onnx", "b.onnx", "pictures", "--type", "Dense")
    assert [line.split()[0] for line in done.out.splitlines()[-1:]] == ["probs"]
    done = layertap("compare", "a.onnx", "b.onnx", "pictures", "--layers", "relu", "--no-born")
    assert "Where errors are born is not known" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["b.onnx"], "no golden sample to run on"),
        (["b.onnx", "pictures", "--tolerance", "-1"], "tolerance must be"),
        (["b.onnx", "pictures", "--csv", "rows.txt"], "must end in .csv"),
        (["b.onnx", "pictures", "--layers", "conf"], "Did you mean 'conv'?"),
        (["bb.onnx", "pictures"], "Did you mean 'b.onnx'"),
        (["b.onnx", "nosuch.png"], "there is no such file"),
        (["b.onnx", "pictures", "--device-b", "cuda:9"], "cuda"),
    ],
)
def test_what_cannot_be_compared(
    arguments: list[str], message: str, files: Path, pictures: Path
) -> None:
    done = layertap("compare", "a.onnx", *arguments)
    assert done.code == 2
    assert message in done.err


def test_two_recipes(files: Path, pictures: Path) -> None:
    """Each file prepares images by its own; a file without one by that of the other."""
    text = Path("recipe.json")
    text.write_text('{"size": [16, 12], "scaling": {"mode": "rescale", "scale": 0.5}}')
    bare = onnx.load("a.onnx")
    del bare.metadata_props[:]
    onnx.save(bare, "bare.onnx")
    done = layertap("compare", "a.onnx", "bare.onnx", "pictures")
    assert done.code == 0
    assert "B has no recipe for images and was fed with that of A." in done.out
    done = layertap("compare", "a.onnx", "a.onnx", "pictures", "--preprocess", "recipe.json")
    assert done.code == 0


def test_a_record_of_one_machine_on_another(files: Path, pictures: Path) -> None:
    done = layertap("record", "a.onnx", "pictures", "-o", "here.npz")
    assert done.code == 0
    assert re.fullmatch(
        r"wrote here\.npz \(0\.\d MB\): 6 layers of 5 samples, with the inputs\n", done.err
    )
    assert layertap("compare", "here.npz", "a.onnx").code == 0
    done = layertap("compare", "here.npz", "b.onnx", "--json")
    assert done.code == 1
    assert json.loads(done.out)["first"] == "conv"
    done = layertap("compare", "here.npz", "b.onnx", "--layers", "conf")
    assert done.code == 2
    assert "Did you mean 'conv'?" in done.err
    done = layertap("compare", "here.npz", "a.onnx", "--device-a", "cuda")
    assert "is a record, which runs on no device" in done.err
    Path("pictures/c.png").write_bytes(b"no image")
    done = layertap("record", "a.onnx", "pictures", "-o", "few.npz", "--no-inputs")
    assert done.code == 1
    assert "6 layers of 4 samples, without the inputs" in done.err
    assert layertap("compare", "few.npz", "here.npz").code == 2
    assert layertap("record", "a.onnx", "pictures", "-o", "here.txt").code == 2
