"""A fault in any single layer is named first by `layertap.compare`.

The layer is known from the name of the weight or the node that is changed: the exporter puts the
layer's name in front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import layertap
from generators.zoo import randomised

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # Files that were changed on purpose, and inputs that are no images.
    pytest.mark.filterwarnings("ignore::layertap.LayertapWarning"),
]

Array = np.ndarray[Any, Any]

OUTPUTS = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1, "Gemm": -1, "Gather": -1}
"""The axis of a weight along which its output channels are."""


class Fault(NamedTuple):
    """A change of one weight or node."""

    kind: str
    what: str
    """The name of the weight or the node."""
    change: Callable[[onnx.ModelProto], None]


def faults(made: onnx.ModelProto, generator: np.random.Generator) -> Iterator[Fault]:
    """Faults of all kinds, without end, in random places."""
    readers = {name: node for node in made.graph.node for name in node.input}
    weights = [
        item.name
        for item in made.graph.initializer
        if item.data_type == onnx.TensorProto.FLOAT and len(item.dims) and item.name in readers
    ]
    padded = [node.name for node in made.graph.node if any(pads_of(node))]
    kinds = ["weight", "bias", "swap"] + ["padding"] * bool(padded)
    while True:
        kind = str(generator.choice(kinds))
        if kind == "padding":
            name = str(generator.choice(padded))
            yield Fault(kind, name, partial(shift_padding, name=name))
            continue
        name = str(generator.choice(weights))
        value = numpy_helper.to_array(next(x for x in made.graph.initializer if x.name == name))
        if kind == "weight" and value.ndim > 1:
            yield Fault(kind, name, changing(name, lambda w: w * np.float32(1.01)))
        elif kind == "bias" and value.ndim == 1:
            at = int(generator.integers(value.size))
            size = np.float32(0.05 * np.abs(value).max() + 0.01)
            yield Fault(kind, name, changing(name, partial(plus, at=at, size=size)))
        elif kind == "swap":
            axis = OUTPUTS.get(readers[name].op_type, 0) if value.ndim > 1 else 0
            if value.shape[axis] > 1:
                two = generator.choice(value.shape[axis], 2, replace=False)
                yield Fault(kind, name, changing(name, partial(swapped, two=two, axis=axis)))


def changing(name: str, change: Callable[[Array], Array]) -> Callable[[onnx.ModelProto], None]:
    def apply(model: onnx.ModelProto) -> None:
        (item,) = (item for item in model.graph.initializer if item.name == name)
        value = change(numpy_helper.to_array(item)).astype(np.float32)
        item.CopyFrom(numpy_helper.from_array(value, name))

    return apply


def plus(value: Array, at: int, size: np.float32) -> Array:
    return value + size * (np.arange(value.size) == at)


def swapped(value: Array, two: Array, axis: int) -> Array:
    order = np.arange(value.shape[axis])
    order[two] = order[two[::-1]]
    return np.take(value, order, axis)


def pads_of(node: onnx.NodeProto) -> list[int]:
    return [
        pad for attribute in node.attribute if attribute.name == "pads" for pad in attribute.ints
    ]


def shift_padding(model: onnx.ModelProto, name: str) -> None:
    """One pixel more at the other end, and one less at this one: the shape stays."""
    (node,) = (node for node in model.graph.node if node.name == name)
    (pads,) = (attribute.ints for attribute in node.attribute if attribute.name == "pads")
    half = len(pads) // 2
    at = next(at for at, pad in enumerate(pads) if pad)
    pads[at] -= 1
    pads[(at + half) % len(pads)] += 1


def layer_of(model: layertap.Model, what: str) -> str:
    """The layer that a weight or a node belongs to: the longest name in front."""
    names = [x.name for x in model.layers if x.exposed and what.startswith(f"{x.name}/")]
    return max(names, key=len)


def samples(model: layertap.Model, generator: np.random.Generator) -> dict[str, Array]:
    feeds = {}
    for info in model.inputs:
        shape = (2, *(9 if size is None else size for size in info.shape[1:]))
        whole = "int" in info.dtype
        drawn = generator.integers(0, 30, shape) if whole else generator.normal(size=shape)
        feeds[info.name] = drawn.astype(info.dtype)
    return feeds


def wrongly_named(path: Path, trials: int) -> tuple[int, list[str]]:
    """How many faults were tried, and those after which another layer was named."""
    generator = np.random.default_rng(0)
    made = onnx.load(path)
    good = layertap.open(path)
    feeds = samples(good, generator)
    wrong, tried = [], 0
    for fault in faults(made, generator):
        copy = onnx.ModelProto.FromString(made.SerializeToString())
        fault.change(copy)
        bad = layertap.open(copy.SerializeToString())
        layer = layer_of(good, fault.what)
        ours, theirs = (model.activations(feeds, layer) for model in (good, bad))
        if not np.abs(ours - theirs).max() > 2e-4 * np.abs(ours).max():
            continue  # a unit that is never active: the fault shows in no value
        tried += 1
        found = layertap.compare(good, bad, feeds)
        named = found.first and found.first.name, found.born_in and found.born_in.name
        if named != (layer, layer):
            wrong.append(f"{fault.kind} of {fault.what}: named {named}")
        if tried == trials:
            break
    return tried, wrong


def test_a_fault_in_a_layer_is_named_first(small_file: Path) -> None:
    assert wrongly_named(small_file, 10) == (10, [])


def text(keras: Any) -> Any:
    layers = keras.layers
    entry = keras.Input((12,), dtype="int32")
    x = layers.Embedding(50, 16, name="words")(entry)
    attended = layers.MultiHeadAttention(2, 8, name="attention")(x, x)
    x = layers.LayerNormalization(name="norm")(layers.Add(name="add")([x, attended]))
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True), name="both")(x)
    x = layers.GRU(5, name="gru")(x)
    return keras.Model(entry, layers.Dense(4, name="head")(x))


def nested(keras: Any) -> Any:
    """A shared model inside the model, and a shared layer."""
    layers = keras.layers
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.Conv2D(6, 3, padding="same", activation="relu", name="conv"),
            layers.DepthwiseConv2D(3, padding="same", name="depthwise"),
            layers.SeparableConv2D(5, 3, padding="same", name="separable"),
        ],
        name="encoder",
    )
    one, other = keras.Input((8, 8, 4), name="one"), keras.Input((8, 8, 4), name="other")
    shared = layers.Dense(7, name="shared")
    x = layers.Concatenate(name="join")([shared(inner(one)), shared(inner(other))])
    x = layers.Conv2DTranspose(4, 3, strides=2, padding="same", name="up")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Conv2D(3, 3, strides=2, padding="same", name="down")(x)
    x = layers.Dense(2, "sigmoid", name="head")(layers.Flatten(name="flat")(x))
    return keras.Model([one, other], x)


def skipping(keras: Any) -> Any:
    """A small U-Net: long skips around the bottom."""
    layers = keras.layers
    x = entry = keras.Input((16, 16, 3))
    skips = []
    for depth in range(2):
        x = layers.Conv2D(6, 3, padding="same", activation="relu", name=f"in{depth}")(x)
        skips.append(x)
        x = layers.MaxPooling2D(name=f"pool{depth}")(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="bottom")(x)
    for depth, skip in reversed(list(enumerate(skips))):
        x = layers.UpSampling2D(name=f"up{depth}")(x)
        x = layers.Concatenate(name=f"join{depth}")([x, skip])
        x = layers.Conv2D(6, 3, padding="same", activation="relu", name=f"out{depth}")(x)
    return keras.Model(entry, layers.Conv2D(2, 1, activation="softmax", name="classes")(x))


@pytest.mark.slow
@pytest.mark.parametrize("make", [text, nested, skipping])
def test_in_20_of_20_trials(make: Callable[[Any], Any], keras: Any, tmp_path: Path) -> None:
    import layertap_export

    keras.utils.set_random_seed(0)
    layertap_export.export(randomised(make(keras)), tmp_path / "model.onnx")
    assert wrongly_named(tmp_path / "model.onnx", 20) == (20, [])


@pytest.mark.slow
def test_in_20_of_20_trials_of_a_small_network(small_file: Path) -> None:
    assert wrongly_named(small_file, 20) == (20, [])


@pytest.mark.slow
def test_in_20_of_20_trials_of_the_chest_model(chest_file: Path) -> None:
    assert wrongly_named(chest_file, 20) == (20, [])
