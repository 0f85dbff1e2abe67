"""Batches without a sample: empty results of the right shape, and the process goes on."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import layertap
from generators import tiny
from shell import fresh
from shell import layertap as command

TinyFile = Callable[[str], Path]


def attention() -> onnx.ModelProto:
    """x (n, t, 4), scores (n, t, t) by an Einsum, which divides by a size."""
    nodes = [
        tiny.node("Einsum", "x x", "scores", equation="nik,njk->nij"),
        tiny.node("Softmax", "scores", "weights", axis=-1),
        tiny.node("Einsum", "weights x", "mixed", equation="nij,njk->nik"),
        tiny.node("ReduceSum", "mixed", "all", keepdims=0),
    ]
    shapes: dict[str, tuple[int | None, ...]] = {
        "x": (None, None, 4),
        "scores": (None, None, None),
        "mixed": (None, None, 4),
        "all": (),
    }
    return tiny.model(
        nodes,
        [tiny.value("x", ["batch", "time", 4])],
        [
            tiny.value("mixed", ["batch", None, 4]),
            tiny.value("scores", ["batch", None, None]),
            tiny.value("all", []),
        ],
        [],
        card=tiny.card(
            [
                tiny.layer(at, name, "Layer", shape)
                for at, (name, shape) in enumerate(shapes.items())
            ],
            {"x": (None, None, 4)},
            {"mixed": (None, None, 4)},
        ),
    )


@pytest.fixture
def attending(tmp_path: Path) -> Path:
    return tiny.save(attention(), tmp_path / "attention.onnx")


def none(time: int = 5) -> np.ndarray:
    return np.zeros((0, time, 4), np.float32)


def test_an_empty_batch_has_the_shapes_of_any_other(attending: Path) -> None:
    model = layertap.open(attending)
    assert model.predict(np.zeros((2, 0, 4), np.float32)).shape == (2, 0, 4)
    assert model.predict(np.zeros((0, 0, 4), np.float32)).shape == (0, 0, 4)
    found = model.activations(none(), ["x", "scores", "mixed"])
    assert {name: value.shape for name, value in found.items()} == {
        "x": (0, 5, 4),
        "scores": (0, 5, 5),
        "mixed": (0, 5, 4),
    }
    assert all(value.dtype == np.float32 for value in found.values())
    assert model.predict(none(7)).shape == (0, 7, 4)
    assert model.tap("mixed")(none()).shape == (0, 5, 4)
    assert model.resume({"x": none()}, "mixed").shape == (0, 5, 4)
    assert model.edit(none(), {"scores": lambda value: value}, "mixed").shape == (0, 5, 4)


def test_a_result_that_is_not_empty(attending: Path) -> None:
    model = layertap.open(attending)
    for shape in ((0, 5, 4), (2, 0, 4), (0, 0, 4)):
        total = model.activations(np.zeros(shape, np.float32), "all")
        assert total.shape == ()
        assert total == 0  # a sum over nothing


def recurrent(op_type: str) -> onnx.ModelProto:
    """x (t, n, 2) -> the outputs of all steps (t, 1, n, 3), and the last state (1, n, 3)."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op_type] * 3
    return tiny.model(
        [tiny.node(op_type, "x w r", "all last", hidden_size=3)],
        [tiny.value("x", ["t", "n", 2])],
        [tiny.value("all", ["t", 1, "n", 3]), tiny.value("last", [1, "n", 3])],
        [tiny.weights("w", 1, gates, 2), tiny.weights("r", 1, gates, 3)],
    )


@pytest.mark.parametrize("op_type", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("shape", [(2, 0), (0, 2), (0, 0)], ids=str)
def test_recurrent_operators(op_type: str, shape: tuple[int, int]) -> None:
    """GRU and LSTM end the process, for a batch of none in a time-distributed layer, say."""
    model = layertap.open(recurrent(op_type).SerializeToString())
    x = np.zeros((*shape, 2), np.float32)
    steps, samples = shape
    assert model.activations(x, "all").shape == (steps, 1, samples, 3)
    if samples == 0:
        assert model.activations(x, "last").shape == (1, 0, 3)
    else:
        assert not model.activations(x, "last").any()  # the state at the start


@pytest.mark.parametrize("name", ["image_classifier", "linear_chain", "two_inputs", "residual"])
def test_every_layer_and_reduction(name: str, tiny_file: TinyFile) -> None:
    """The shapes are those of one sample, without the sample."""
    model = layertap.open(tiny_file(name))
    one = tiny.feeds(getattr(tiny, name)(), n=1)
    empty = {key: value[:0] for key, value in one.items()}
    expected, found = model.activations(one), model.activations(empty)
    assert {key: (value.dtype, (0, *value.shape[1:])) for key, value in expected.items()} == {
        key: (value.dtype, value.shape) for key, value in found.items()
    }
    if not model.card:
        return
    for asked in ("mean", "flatten", "top2"):
        layer = model.layers[1].name
        first = model.activations(empty, {layer: asked})[layer]
        whole = model.activations(one, {layer: asked})[layer]
        for have, want in zip(np.atleast_2d(first), np.atleast_2d(whole), strict=False):
            assert np.shape(have)[1:] == np.shape(want)[1:]


def test_other_forms_of_results(classifier: layertap.Model) -> None:
    empty = tiny.images(0)
    assert classifier.activations(empty, "conv", dtype="float16").dtype == np.float16
    assert classifier.activations(empty, "conv", contiguous=True).shape == (0, 8, 6, 4)
    value = classifier.activations(empty, "conv", on_device=True)
    assert value.numpy().shape == (0, 8, 6, 4)


@pytest.mark.filterwarnings("ignore:target is for methods that explain a class")
@pytest.mark.parametrize("method", ["gradcam", "eigencam", "scorecam", "ablationcam"])
def test_heat_maps_of_no_image(method: str, tiny_file: TinyFile) -> None:
    model = layertap.open(tiny_file("differentiable"))
    empty = tiny.images(0)
    assert model.cam(empty, "last", method=method).shape == (0, 1, 8, 6)
    assert model.cam(empty, "last", ["cat", "top"], method=method).shape == (0, 2, 8, 6)


def test_gradients_of_no_image(tiny_file: TinyFile) -> None:
    model = layertap.open(tiny_file("differentiable"))
    empty = tiny.images(0)
    for target in ("cat", "top"):
        assert model.gradients(empty, "last", target).shape == (0, 4, 3, 5)
        assert model.gradients(empty, "last", [target] * 2).shape == (0, 2, 4, 3, 5)
    for method in ("saliency", "smoothgrad", "integrated_gradients"):
        assert model.attribute(empty, method, steps=2, samples=2).shape == (0, 8, 6, 3)


def test_strings(tmp_path: Path) -> None:
    made = tiny.model(
        [tiny.node("Concat", "words words", "twice", axis=0)],
        [tiny.value("words", ["n"], onnx.TensorProto.STRING)],
        [tiny.value("twice", ["n"], onnx.TensorProto.STRING)],
        [],
    )
    found = layertap.open(made.SerializeToString()).predict(np.array([], object))
    assert (found.shape, found.dtype) == ((0,), object)


def test_the_command_line(attending: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", none())
    done = command("run", attending, tmp_path / "none.npy")
    assert done.code == 0
    assert "(0, 5, 4)" in done.out
    done = command("run", attending, tmp_path / "none.npy", "-o", tmp_path / "out.npz")
    assert done.code == 0
    with np.load(tmp_path / "out.npz") as file:
        assert file["mixed"].shape == (0, 5, 4)
        assert file["layertap.files"].shape == (0,)


def test_the_process_ends_where_it_is_not_guarded(attending: Path, tmp_path: Path) -> None:
    """If this fails, onnxruntime has mended its Einsum, and the guard can go."""
    import subprocess
    import sys

    program = """
        import sys
        import numpy, onnxruntime
        session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
        session.run(["mixed"], {"x": numpy.zeros((0, 5, 4), "float32")})
        """
    command = [sys.executable, "-c", textwrap.dedent(program), str(attending)]
    assert subprocess.run(command, capture_output=True, check=False).returncode < 0
    np.save(tmp_path / "none.npy", none())
    assert fresh("run", attending, tmp_path / "none.npy").code == 0
