"""How often the first `model.activations(x, layer)` changes module: what a reader has to follow.

    python benchmarks/hops.py chest.onnx bn

The profiler (`sys.setprofile`) reports every call of a Python function in layertap's files, in a
fresh process: also that a file is imported, that a generator is resumed, and (before Python 3.12)
that a comprehension starts. *A change of module* is a call in another file than the one before it;
a return does not count, nor does the question whether messages are logged, which nothing depends
on. *An entry* into `_model.py` is a change that leads there.

At commit 0437a69 it was 83 changes, 12 of them into `_model.py`, for `bn` of the demo model.
"""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import Any, NamedTuple

import numpy as np

import layertap

HOME = os.path.dirname(layertap.__file__)


class Hops(NamedTuple):
    """What was counted."""

    changes: int
    """Changes of module."""
    entries: int
    """Of these, into `_model.py`."""
    path: list[str]
    """The files, in order."""


def count(path: str, layer: str) -> Hops:
    """Count the hops of a model's first request for a layer.

    Args:
        path: the model's file. Its one input is fed with zeros; free sizes are 2.
        layer: the layer's name.
    """
    model = layertap.open(path)
    (info,) = model.inputs
    batch = np.zeros([size or 2 for size in info.shape], info.dtype)
    files: list[str] = []

    def watch(frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(HOME) and not file.endswith("_log.py"):
            name = os.path.relpath(file, HOME)
            if files[-1:] != [name]:
                files.append(name)

    sys.setprofile(watch)
    try:
        model.activations(batch, layer)
    finally:
        sys.setprofile(None)
    return Hops(len(files), files.count("_model.py"), files)


if __name__ == "__main__":
    found = count(*sys.argv[1:])
    print(f"{found.changes} changes of module, {found.entries} of them into _model.py")
    print(" ".join(found.path))
