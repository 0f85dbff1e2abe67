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
import pytest

import layertap

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
    recorded.pop("gradient layer2:0", None)
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
