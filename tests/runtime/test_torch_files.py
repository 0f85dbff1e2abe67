"""Files of PyTorch's exporters: their modules are layers, equal to what forward hooks see.

`generators.torch_files` wrote the files, and recorded the hooks. Where torch is installed (the
extra `test-torch`), the same networks are exported again.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import layertap
from generators import tiny

FOLDER = Path(__file__).parents[1] / "fixtures" / "pytorch"
FILES = sorted(path.name for path in FOLDER.glob("*.onnx"))

GONE = {
    "resnet": {"dropout"},
    "vit": {"blocks.0.mlp.drop", "blocks.1.mlp.drop"},
    "unet": set(),
    "calls": {"drop", "id"},
    "tail": set(),
}
"""Modules that compute nothing, and so are not in a file that the exporter has optimized."""

MERGED = {
    "resnet.newer": {"conv1", "conv2", "downsample.0"},
    "resnet.older": {"conv1", "conv2", "bn1", "bn2", "downsample.0", "downsample.1"},
    "vit.newer": {"mha.out_proj"},
    "vit.older": {"mha.out_proj"},
    "tail.newer": {"stem", "stem.0", "stem.3", "act", "turn", "turn.1"},
    "tail.older": {"stem.3", "norm", "relu#1", "relu_1"},
    "tail.older-whole": {"relu#1", "relu_1"},
}
"""Modules that a file has no operator for, by the ends of their names."""

TOGETHER = {"tail.older": {"stem": "norm"}}
"""Modules of a file that have the output of another one: the older exporter does not say whether a
normalization that it merged into a convolution was in the same Sequential."""


def opened(name: str) -> tuple[layertap.Model, dict[str, Any], dict[str, Any]]:
    """A file, its inputs, and what the hooks saw, by the name of the call."""
    with np.load(FOLDER / f"{name.partition('.')[0]}.npz") as arrays:
        recorded = dict(arrays)
    model = layertap.open(FOLDER / name)
    feeds = {info.name: recorded.pop(f"input {info.name}") for info in model.inputs}
    for key in [key for key in recorded if key.startswith("gradient ")]:
        del recorded[key]
    hooks: dict[str, list[Any]] = {}
    for key, value in recorded.items():
        hooks.setdefault(key.rpartition(":")[0], []).append(value)
    return model, feeds, hooks


def check_hooks(
    model: layertap.Model,
    feeds: Mapping[str, Any],
    hooks: Mapping[str, Any],
    together: Mapping[str, str],
) -> set[str]:
    """Compare each module with its hook; returns the modules that the file does not have."""
    rows = {row.name: row for row in model.layers if row.exposed}
    shown = [name for name in hooks if name in rows]
    found = model.activations(dict(feeds), shown)
    for name in shown:
        expected = hooks[together.get(name, name)]
        same = [value for value in expected if value.shape == found[name].shape]
        assert any(np.allclose(value, found[name], atol=1e-5) for value in same), name
    # What is not a module has the name of its tensor, so nothing else could be taken for one.
    others = [row for row in rows.values() if row.name not in hooks]
    assert [row.name for row in others if row.tensor not in (row.name, row.name[7:])] == []
    return hooks.keys() - rows.keys()


@pytest.mark.parametrize("name", FILES)
def test_modules_are_what_forward_hooks_see(name: str) -> None:
    model, feeds, hooks = opened(name)
    file = name.removesuffix(".onnx")
    missing = check_hooks(model, feeds, hooks, TOGETHER.get(file, {}))
    gone, merged = GONE[file.partition(".")[0]], MERGED.get(file, set())
    assert {one for one in missing if one.partition("#")[0] not in gone} == {
        one for one in hooks if any(f".{one}".endswith(f".{end}") for end in merged)
    }


@pytest.mark.skipif(find_spec("torch") is None, reason="needs torch (the extra test-torch)")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize("how", ["older", "older-whole", "newer", "newer-whole"])
@pytest.mark.parametrize("net", ["ResNet", "Vit", "UNet", "Calls", "Tail"])
def test_what_torch_exports_now_has_the_same_modules(net: str, how: str, tmp_path: Path) -> None:
    from generators import torch_nets

    cls = getattr(torch_nets, net)
    made, given = torch_nets.seeded(cls), torch_nets.inputs(cls)
    path = tmp_path / "net.onnx"
    torch_nets.export(made, given, str(path), how)
    hooks = {
        name: [value.numpy() for value in values]
        for name, values in torch_nets.hooked(made, given).items()
    }
    model = layertap.open(path)
    feeds = {info.name: value.numpy() for info, value in zip(model.inputs, given, strict=True)}
    missing = check_hooks(model, feeds, hooks, TOGETHER.get(f"{net.lower()}.{how}", {}))
    if how.endswith("whole"):
        assert missing <= {"mha.out_proj", "relu_1", "relu#1", *GONE[net.lower()]} | {
            f"{name}#1" for name in GONE[net.lower()]
        }


def test_modules_are_selected_as_layers_are() -> None:
    model, feeds, _ = opened("resnet.newer.onnx")
    assert [row.name for row in model.select("layer2.?")] == ["layer2.0", "layer2.1"]
    assert [row.name for row in model.select(type="Sequential")] == [
        *("layer1", "layer2.0.downsample", "layer2"),
    ]
    assert model.layer("fc").parameters == 20
    assert model.layer("layer2.0.relu#1").parent == "layer2.0"
    # The name of a tensor is a name of the module that made it.
    tensor = model.layer("layer2.1").tensor
    assert tensor is not None
    found = model.activations(feeds, {tensor: "mean"})
    assert {name: value.shape for name, value in found.items()} == {"layer2.1.relu#1": (2, 3)}


@pytest.mark.parametrize("how", ["newer", "older"])
def test_the_last_feature_maps_are_those_before_the_pooling(how: str) -> None:
    model, feeds, _ = opened(f"resnet.{how}.onnx")
    maps = model.cam(feeds, "last-conv", method="eigencam", resize=False)
    assert maps.shape == (2, 1, 4, 4)
    np.testing.assert_array_equal(maps, model.cam(feeds, "layer2", method="eigencam", resize=False))
    with pytest.raises(layertap.LayerNotFoundError, match=r"merged|no operator of its own"):
        model.activations(feeds, "layer2.1.conv2")


def test_a_recipe_makes_images_channels_first() -> None:
    model, _, _ = opened("resnet.newer.onnx")
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    recipe = {"size": [32, 32], "channels": "first", "scaling": {"mode": "torch"}}
    scaled = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    batch = scaled.transpose(2, 0, 1)[None].astype(np.float32)
    np.testing.assert_allclose(
        model.activations(Image.fromarray(image), "layer1", preprocess=recipe),
        model.activations(batch, "layer1"),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("how", ["newer", "older"])
def test_gradients_at_modules_are_those_of_autograd(how: str, tmp_path: Path) -> None:
    from layertap_export import add_gradients

    _, feeds, _ = opened(f"resnet.{how}.onnx")
    add_gradients(FOLDER / f"resnet.{how}.onnx", tmp_path / "grad.onnx", ["layer2", "layer1.*"])
    with np.load(FOLDER / "resnet.npz") as arrays:
        expected = arrays["gradient layer2:0"]
    model = layertap.open(tmp_path / "grad.onnx")
    assert "layer2.0.downsample" in [row.name for row in model.layers]
    found = model.gradients(feeds, "layer2", target=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    weights = expected.mean((2, 3))[:, :, None, None]
    layer = np.asarray(model.activations(feeds, "layer2"))
    heat = np.maximum((weights * layer).sum(1), 0)
    heat /= np.maximum(heat.max((1, 2), keepdims=True), 1e-30)
    np.testing.assert_allclose(
        model.cam(feeds, "layer2", target=1, resize=False)[:, 0], heat, rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("name", FILES)
def test_a_part_has_the_modules_that_are_whole_in_it(name: str, tmp_path: Path) -> None:
    """Also half of a module: its last tensor in the part is not its output."""
    model, feeds, hooks = opened(name)
    rows = [row for row in model.layers if row.exposed and row.dtype in ("", "float32")]
    middle = rows[len(rows) // 2]
    model.cut(tmp_path / "part.onnx", end=middle.name)
    part = layertap.open(tmp_path / "part.onnx")
    kept = {row.name: row for row in part.layers if row.exposed}
    assert middle.name in kept
    shown = [name for name in kept if name in hooks]
    inputs = {info.name: feeds[info.name] for info in part.inputs}
    found, expected = part.activations(inputs, shown), model.activations(feeds, shown)
    for one in shown:
        np.testing.assert_allclose(found[one], expected[one], atol=1e-5)


@pytest.mark.parametrize("name", FILES)
def test_a_part_says_nothing_about_the_authors_machine(name: str, tmp_path: Path) -> None:
    model, _, hooks = opened(name)
    last = [row.name for row in model.layers if row.exposed and row.name in hooks][-2]
    model.cut(tmp_path / "part.onnx", end=last)
    data = (tmp_path / "part.onnx").read_bytes()
    assert b"/home/ada" not in data
    nodes = onnx.load(tmp_path / "part.onnx").graph.node
    assert not any(node.metadata_props or node.doc_string for node in nodes)
    assert b"/home/ada" in (FOLDER / name).read_bytes() or "older" in name


def test_traces_in_subgraphs_and_functions_are_left_out_too(tmp_path: Path) -> None:
    def traced(node: Any) -> Any:
        node.doc_string = "/home/ada/doc.py(1): forward"
        node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/ada/nets.py")
        node.metadata_props.add(key="own", value="kept")
        return node

    out = [tiny.value("r", None)]
    body = onnx.helper.make_graph([traced(tiny.node("Relu", "x", "r"))], "b", [], out)
    body.metadata_props.add(key="pkg.torch.trace", value="/home/ada/graph.py")
    branch = traced(tiny.node("If", "c", "a", then_branch=body, else_branch=body))
    model = tiny.model(
        [branch, tiny.node("own", "a", "y", domain="f"), tiny.node("Relu", "y", "z")],
        [tiny.value("x", ["n", 3]), tiny.value("c", [], onnx.TensorProto.BOOL)],
        [tiny.value("z", ["n", 3])],
        [],
    )
    inside = traced(tiny.node("Relu", "p", "q"))
    opset = onnx.helper.make_opsetid("", 17)
    function = onnx.helper.make_function("f", "own", ["p"], ["q"], [inside], [opset])
    function.doc_string = "/home/ada/functions.py"
    model.functions.append(function)
    model.opset_import.append(onnx.helper.make_opsetid("f", 1))
    model.ir_version = 8
    path = tmp_path / "part.onnx"
    layertap.open(model.SerializeToString()).cut(path, end="y")
    data = path.read_bytes()
    assert b"/home/ada" not in data
    assert data.count(b"kept") == 4
    whole = {"x": -np.ones((1, 3), np.float32), "c": np.array(True)}
    np.testing.assert_array_equal(layertap.open(path).predict(whole), np.zeros((1, 3)))
