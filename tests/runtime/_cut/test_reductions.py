"""Reductions in the graph, against numpy on the whole activation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import layertap
from generators import tiny
from generators.tiny import images
from layertap._engine import engine
from layertap._engine.program import program_of

TinyFile = Callable[[str], Path]


def model_of(
    rank: int,
    channels_first: bool,
    opset: int = 18,
    ir_version: int = 8,
    dtype: int = onnx.TensorProto.FLOAT,
    swap: bool = False,
) -> layertap.Model:
    """x -> `layer`, a Neg whose channels are last: itself, or after a Transpose at the end."""
    sizes: list[int | None] = [None, 3, 4, 5, 6][:rank]
    shape = (*sizes[:1], *sizes[2:], sizes[1]) if rank > 1 else tuple(sizes)
    inner: list[Any] = ["n", *sizes[1:]]
    outer: list[Any] = ["n", *shape[1:]]
    perm = (0, *range(2, rank), 1)
    if swap:  # channels stand before the batch
        inner = [inner[1], inner[0], *inner[2:]]
        perm = (1, *range(2, rank), 0)
    nodes = [tiny.node("Neg", "x", "layer")]
    if channels_first:
        nodes = [
            tiny.node("Neg", "x", "source"),
            tiny.node("Transpose", "source", "layer", perm=perm),
        ]
    name = onnx.helper.tensor_dtype_to_np_dtype(dtype).name
    row = layertap.Layer(
        name="layer",
        type="Any",
        index=0,
        shape=shape,
        dtype=name,
        parameters=0,
        inbound=(),
        tensor="layer",
    )
    card = tiny.card([row], {"x": tuple(sizes)}, {"layer": shape})
    made = tiny.model(
        nodes,
        [tiny.value("x", inner if channels_first else outer, dtype)],
        [tiny.value("layer", outer, dtype)],
        card=card,
        opset=opset,
        ir_version=ir_version,
    )
    return layertap.open(made.SerializeToString())


def fed(model: layertap.Model, n: int = 2) -> np.ndarray:
    kind = program_of(model).graph.inputs["x"]
    shape = [size if isinstance(size, int) else n for size in kind.dims or ()]
    generator = np.random.default_rng(len(shape))
    return generator.normal(size=shape).astype(kind.dtype) * np.asarray(9, kind.dtype)


def in_numpy(whole: np.ndarray, how: str) -> Any:
    """What a reduction means, with channels last."""
    spatial = tuple(range(1, whole.ndim - 1))
    if how == "max":
        return whole.max(axis=spatial)
    if how == "flatten":
        return whole.reshape(len(whole), -1)
    mean = whole.mean(axis=spatial)
    if how == "mean_l2":
        return mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    if how.startswith("top"):
        channels = np.argsort(-mean, axis=-1, kind="stable")[:, : int(how[3:])]
        return channels, np.take_along_axis(mean, channels, axis=-1)
    return mean


HOW = ["mean", "max", "mean_l2", "flatten", "top2"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("opset", [7, 9, 12, 13, 17, 18, 21])
@pytest.mark.parametrize("channels_first", [False, True], ids=["last", "first"])
@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_it_is_what_numpy_makes_of_the_activation(
    rank: int, channels_first: bool, opset: int, how: str
) -> None:
    model = model_of(rank, channels_first, opset)
    x = fed(model)
    found: Any = model.activations(x, {"layer": how})["layer"]
    wanted = in_numpy(model.activations(x, "layer"), how)
    if how == "top2":
        np.testing.assert_array_equal(found.channels, wanted[0])
        assert found.channels.dtype == np.int64
        found, wanted = found.values, wanted[1]
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", HOW)
def test_channels_before_the_batch(how: str) -> None:
    model = model_of(4, True, swap=True)
    x = fed(model)
    found: Any = model.activations(x, {"layer": how})["layer"]
    wanted = in_numpy(model.activations(x, "layer"), how)
    if how == "top2":
        found, wanted = found.values, wanted[1]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_up_to_ir_version_3_constants_are_no_inputs() -> None:
    model = model_of(4, True, opset=8, ir_version=3)
    top: Any = model.activations(fed(model), {"layer": "top2"})["layer"]
    assert top.values.shape == (2, 2)


@pytest.mark.parametrize(
    ("dtype", "how", "result"),
    [
        (onnx.TensorProto.INT64, "mean", "float32"),
        (onnx.TensorProto.INT64, "max", "int64"),
        (onnx.TensorProto.INT64, "top2", "float32"),
        (onnx.TensorProto.FLOAT16, "mean", "float16"),
        (onnx.TensorProto.FLOAT16, "mean_l2", "float16"),
        (onnx.TensorProto.DOUBLE, "mean", "float64"),
    ],
)
def test_other_dtypes(dtype: int, how: str, result: str) -> None:
    model = model_of(4, True, dtype=dtype)
    x = fed(model)
    found: Any = model.activations(x, {"layer": how})["layer"]
    wanted = in_numpy(model.activations(x, "layer").astype(np.float64), how)
    if how == "top2":
        found, wanted = found.values, wanted[1]
    assert found.dtype.name == result
    np.testing.assert_allclose(found, wanted, rtol=2e-3 if result == "float16" else 1e-6)


def test_a_mean_of_nothing_has_no_direction() -> None:
    model = model_of(4, True)
    zeros = np.zeros_like(fed(model))
    np.testing.assert_array_equal(model.activations(zeros, {"layer": "mean_l2"})["layer"], 0)


def test_several_layers_each_in_its_way(classifier: layertap.Model) -> None:
    x = images()
    tap = classifier.tap({"re:conv|relu": "mean", "probs": None, 2: "max", "drop": "max"})
    assert [layer.name for layer in tap.layers] == ["conv", "relu", "probs", "drop"]
    found, whole = tap(x), classifier.activations(x)
    assert list(found) == ["conv", "relu", "probs", "drop"]
    np.testing.assert_allclose(found["conv"], in_numpy(whole["conv"], "mean"), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found["relu"], in_numpy(whole["relu"], "max"), rtol=1e-6)
    np.testing.assert_array_equal(found["drop"], found["relu"])
    np.testing.assert_allclose(found["probs"], whole["probs"], rtol=1e-6)


def test_an_input_can_be_reduced(classifier: layertap.Model) -> None:
    x = images()
    found = classifier.activations(x, {"image": "mean"})["image"]
    np.testing.assert_allclose(found, x.mean(axis=(1, 2)), rtol=1e-5, atol=1e-7)


def test_only_the_result_leaves_the_session(
    classifier: layertap.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts: list[onnx.ModelProto] = []
    start = engine.Engine.start

    def spy(self: Any, model: bytes, *others: Any, **options: Any) -> Any:
        cuts.append(onnx.ModelProto.FromString(model))
        return start(self, model, *others, **options)

    monkeypatch.setattr(engine.Engine, "start", spy)
    classifier.activations(images(), {"relu": "mean"})
    classifier.activations(images(), {"relu": "mean"})
    (cut,) = cuts
    assert [item.name for item in cut.graph.output] == ["layertap:mean::relu_nchw"]
    assert "Transpose" not in [node.op_type for node in cut.graph.node[1:]]
    classifier.activations(images(), {"relu": "max"})
    assert len(cuts) == 2


def test_a_file_without_a_card_has_its_channels_after_the_batch() -> None:
    made = tiny.model(
        [tiny.node("Neg", "x", "y")],
        [tiny.value("x", ["n", 3, 4, 5])],
        [tiny.value("y", ["n", 3, 4, 5])],
    )
    model = layertap.open(made.SerializeToString())
    x = tiny.feeds(made)["x"]
    found = model.activations(x, {"y": "mean"})["y"]
    np.testing.assert_allclose(found, -x.mean(axis=(2, 3)), rtol=1e-5, atol=1e-7)
    found = model.activations(x, {"y": "flatten"})["y"]
    np.testing.assert_array_equal(found, -x.reshape(2, -1))


# --- dtype --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", np.float16, np.dtype("float16")])
def test_float16_is_what_numpy_makes_of_it(classifier: layertap.Model, dtype: Any) -> None:
    x = images()
    names = ["conv", "probs"]
    whole = classifier.activations(x, names)
    found = classifier.activations(x, names, dtype=dtype)
    for name in names:
        wanted = whole[name].astype(np.float16)
        np.testing.assert_allclose(found[name], wanted, rtol=2e-3)
        assert found[name].dtype == np.float16
    alone = classifier.activations(x, "conv", dtype=dtype)
    np.testing.assert_array_equal(alone, classifier.activations(x, "conv").astype(np.float16))


@pytest.mark.filterwarnings("ignore:input .* the batch has values from")
def test_a_reduction_is_cast_after_it_is_made(classifier: layertap.Model) -> None:
    x = images() * 1e5  # more than float16 holds, though the mean is not
    found = classifier.activations(x - x.mean(axis=(1, 2), keepdims=True), {"image": "mean"},
                                   dtype="float16")["image"]  # fmt: skip
    assert found.dtype == np.float16
    assert np.isfinite(found).all()


def test_whole_numbers_are_not_cast() -> None:
    model = model_of(4, True, dtype=onnx.TensorProto.INT64)
    assert model.activations(fed(model), "layer", dtype="float16").dtype == np.int64
    top: Any = model.activations(fed(model), {"layer": "top1"}, dtype="float16")["layer"]
    assert (top.channels.dtype, top.values.dtype) == (np.int64, np.float16)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            {"layers": {"relu": "men"}},
            "unknown reduction 'men'. Did you mean 'mean', 'mean_l2'? Give one of 'mean', 'max', "
            "'mean_l2', 'flatten', 'top5' (or another number), or None for the whole activation.",
        ),
        (
            {"layers": {"relu": "top0"}},
            "unknown reduction 'top0'. Did you mean 'top5'? Give one of 'mean', 'max', "
            "'mean_l2', 'flatten', 'top5' (or another number), or None for the whole activation.",
        ),
        (
            {"layers": {"relu": np.mean}},
            f"unknown reduction {np.mean!r}. Give one of 'mean', 'max', 'mean_l2', 'flatten', "
            "'top5' (or another number), or None for the whole activation.",
        ),
        ({"layers": {"probs": "top3"}}, "'top3' needs more channels than the 2 of 'probs'."),
        ({"layers": {}}, "the dict of reductions is empty."),
        (
            {"layers": "relu", "dtype": "float17"},
            "dtype must be one of float16, float32, float64, got 'float17'. Did you mean "
            "'float16', 'float64', 'float32'?",
        ),
    ],
)
def test_what_cannot_be_asked_for(
    classifier: layertap.Model, ask: dict[str, Any], message: str
) -> None:
    with pytest.raises(layertap.UsageError) as caught:
        classifier.tap(**ask)
    assert str(caught.value) == message


def test_layers_that_cannot_be_reduced(tiny_file: TinyFile) -> None:
    with pytest.raises(layertap.UsageError) as caught:
        layertap.open(tiny_file("residual")).tap({"a": "mean"})
    assert str(caught.value) == ("'mean' needs the shape of 'a', which the file does not state.")
    with pytest.raises(layertap.UsageError) as caught:
        model_of(1, False).tap({"layer": "mean"})
    assert str(caught.value) == ("'mean' needs an axis of channels, but 'layer' has shape (None,).")
    assert model_of(1, False).activations(np.ones(2), {"layer": "flatten"})["layer"].shape == (2, 1)
