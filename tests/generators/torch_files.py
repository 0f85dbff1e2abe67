"""Writes `tests/fixtures/pytorch`: files of both exporters of torch, and what forward hooks saw.

    cd tests && python -m generators.torch_files

with torch 2.13.0 and onnxscript 0.7.2. The metadata that layertap does not read are shortened, with
the stack traces of another machine instead of this one's.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import torch

from generators.torch_nets import EXPORTS, SHAPES, export, hooked, inputs, seeded

FOLDER = Path(__file__).parents[1] / "fixtures" / "pytorch"
TRACE = 'File "/home/ada/secret/nets.py", line 12, in forward\n    x = self.layer(x)'
MERGED = ("resnet", "tail")
LONG = ("pkg.torch.onnx.stack_trace", "namespace")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    for net in SHAPES:
        model, given = seeded(net), inputs(net)
        name = net.__name__.lower()
        for how in EXPORTS:
            if how.endswith("whole") and name not in MERGED:
                continue  # nothing is merged in it, or little
            path = FOLDER / f"{name}.{how}.onnx"
            export(model, given, str(path), how)
            _shorten(path)
        arrays = {
            f"{call}:{at}": value.numpy()
            for call, values in hooked(model, given).items()
            for at, value in enumerate(values)
        }
        for info, value in zip(("x", "y"), given, strict=False):
            arrays[f"input {info}"] = value.numpy()
        if name == "resnet":
            arrays["gradient layer2:0"] = _gradient(model, given[0]).numpy()
        if name == "unet":
            arrays["gradient dec:0"] = _gradient_of_region(model, given[0]).numpy()
        np.savez_compressed(FOLDER / f"{name}.npz", **arrays)


def _gradient(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Of the score of class 1 with respect to the output of `layer2`."""
    kept = []
    handle = model.layer2.register_forward_hook(lambda _, __, output: kept.append(output))
    scores = model(x)
    handle.remove()
    return torch.autograd.grad(scores[:, 1].sum(), kept[0])[0]


def _gradient_of_region(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Of the scores of class 1 in the rows 2 to 4 and the columns 3 to 6, at `dec`."""
    kept = []
    handle = model.dec.register_forward_hook(lambda _, __, output: kept.append(output))
    scores, _ = model(x)
    handle.remove()
    return torch.autograd.grad(scores[:, 1, 2:5, 3:7].sum(), kept[0])[0]


def _shorten(path: Path) -> None:
    model = onnx.load(path)
    for node in model.graph.node:
        for entry in node.metadata_props:
            if entry.key in LONG:
                entry.value = TRACE if entry.key == LONG[0] else ""
    del model.metadata_props[:]
    onnx.save(model, path)


if __name__ == "__main__":
    main()
