"""Central differences find what is wrong, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import layertap
from generators.tiny import model, node, value, weights
from layertap.format.card import Gradients
from layertap_export.gradients.extend import extend
from layertap_export.verification import finite_differences, float64_operators
from layertap_export.verification.finite_differences import compare
from layertap_export.verification.written_file import WrittenFile

SIZES = (6, 5)


def network(relus: int = 1) -> onnx.ModelProto:
    """Images (n, 3, h, w) through convolutions, in two branches, to two probabilities."""
    nodes: list[Any] = [node("Conv", "x w0", "c0", pads=[1, 1, 1, 1]), node("Relu", "c0", "r0")]
    last = "r0"
    for index in range(1, relus + 1):
        nodes += [
            node("Conv", f"{last} w1", f"c{index}", pads=[1, 1, 1, 1]),
            node("Add", f"{last} c{index}", f"s{index}"),
            node("Relu", f"s{index}", f"r{index}"),
        ]
        last = f"r{index}"
    nodes += [
        node("GlobalAveragePool", last, "p"),
        node("Flatten", "p", "f"),
        node("MatMul", "f d", "z"),
        node("Softmax", "z", "y"),
        node("Transpose", "r0", "shown", perm=[0, 2, 3, 1]),
    ]
    return model(
        nodes,
        [value("x", ["n", 3, "h", "w"])],
        [value("y", ["n", 2]), value("shown", None)],
        [weights("w0", 4, 3, 3, 3), weights("w1", 4, 4, 3, 3), weights("d", 4, 2)],
    )


def prepared(*asked: str, score: str = "y") -> tuple[onnx.ModelProto, Gradients, dict[str, str]]:
    made = network()
    opened = layertap.open(made.SerializeToString())
    gradients, _, _ = extend(
        made, opened.layers, opened.inputs, opened.outputs, asked, score, channels_last=False
    )
    tensors = {layer.name: str(layer.tensor) for layer in opened.layers} | {"x": "x"}
    return made, gradients, tensors


def feeds(n: int = 2) -> dict[str, np.ndarray]:
    images = np.random.default_rng(0).normal(size=(n, 3, *SIZES))
    return {"x": images.astype(np.float32)}


Written: TypeAlias = Callable[[onnx.ModelProto], WrittenFile]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Writes a model to a file."""

    def write(model: onnx.ModelProto) -> WrittenFile:
        onnx.save(model, tmp_path / "model.onnx")
        return WrittenFile(tmp_path / "model.onnx")

    return write


ASKED = ("input", "c0", "r0", "shown", "s1", "z")


@pytest.mark.parametrize(("score", "most"), [("y", 1e-5), ("y:probability", 1e-4)])
def test_right_gradients_pass(score: str, most: float, written: Written) -> None:
    made, gradients, tensors = prepared(*ASKED, score=score)
    found = compare(written(made), gradients, tensors, feeds(), 60)
    assert found.keys() == {"x", "c0", "r0", "shown", "s1", "z"}
    assert max(slopes.scaled for slopes in found.values()) < most
    assert all(np.abs(slopes.expected).max() > 0.1 for slopes in found.values())


def test_a_wrong_gradient_is_found_where_it_is(written: Written) -> None:
    """Half of what one branch brings, from the layer before it on."""
    made, gradients, tensors = prepared(*ASKED)
    total = next(x for x in made.graph.node if x.name.startswith("grad/r0/Add"))
    made.graph.initializer.append(numpy_helper.from_array(np.float32(0.5).reshape(()), "half"))
    halved = onnx.helper.make_node("Mul", [total.input[1], "half"], ["halved"])
    made.graph.node.insert(list(made.graph.node).index(total), halved)
    total.input[1] = "halved"
    found = compare(written(made), gradients, tensors, feeds(), 60)
    wrong = {name for name, slopes in found.items() if slopes.scaled > 1e-4}
    assert wrong == {"x", "c0", "r0", "shown"}


def test_weights_of_a_layer_are_not_mistaken(written: Written) -> None:
    made, gradients, tensors = prepared("s1")
    back = next(x for x in made.graph.node if x.op_type == "Gemm")
    back.attribute.append(onnx.helper.make_attribute("alpha", 1.001))
    found = compare(written(made), gradients, tensors, feeds(), 60)
    assert 5e-4 < found["s1"].scaled < 2e-3


def test_tiny_activations(written: Written) -> None:
    """The step grows until it shows in scores of 0.5; beyond kinks it must not."""
    made, gradients, tensors = prepared("p", "r0", score="y:probability")
    images = {"x": feeds()["x"] * np.float32(1e-12)}
    found = compare(written(made), gradients, tensors, images, 60)
    assert list(found) == ["p"]
    assert found["p"].scaled < 1e-4
    assert np.abs(found["p"].expected).max() > 0.1


def test_a_layer_that_the_scores_do_not_depend_on(written: Written) -> None:
    made = network()
    made.graph.node.append(node("Exp", "c0", "aside"))
    opened = layertap.open(made.SerializeToString())
    gradients, independent, _ = extend(
        made, opened.layers, opened.inputs, opened.outputs, ["aside"], "y", channels_last=False
    )
    assert independent == ("aside",)
    found = compare(written(made), gradients, {"aside": "aside"}, feeds(), 60)
    assert found["aside"].scaled == 0
    np.testing.assert_array_equal(found["aside"].expected, 0)


def test_when_the_time_is_up_the_last_layer_was_compared(written: Written) -> None:
    made, gradients, tensors = prepared("r0", "s1", "p", "c0")
    assert list(compare(written(made), gradients, tensors, feeds(), 0)) == ["p"]


def test_a_comparison_that_takes_too_long_is_cut_short(
    monkeypatch: pytest.MonkeyPatch, written: Written
) -> None:
    """Also the first one, within the network."""
    original = float64_operators.Conv._run

    def slow(self: Any, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.5)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(float64_operators.Conv, "_run", slow)
    monkeypatch.setattr(finite_differences, "FIRST_SECONDS", 0.0)
    made, gradients, tensors = prepared("input", "s1")
    file, started = written(made), time.monotonic()
    found = compare(file, gradients, tensors, feeds(), 1.0)
    assert list(found) == ["s1"]  # behind the convolutions; from the input there are two
    assert time.monotonic() - started < 1.0 + 0.5 + 1.5


def test_a_direction_that_was_finished_in_time_counts(
    monkeypatch: pytest.MonkeyPatch, written: Written
) -> None:
    original, calls = finite_differences._change, list[int]()

    def once(*args: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise float64_operators.TimeUp
        return original(*args)

    monkeypatch.setattr(finite_differences, "_change", once)
    made, gradients, tensors = prepared("r0")
    found = compare(written(made), gradients, tensors, feeds(), 60)
    assert found["r0"].ours.shape == (3,)  # one direction, three sets of weights
    assert found["r0"].scaled < 1e-5


def test_the_turn_of_the_layers(written: Written) -> None:
    made, gradients, tensors = prepared("r0", "s1", "p", "c0", "f")
    found = compare(written(made), gradients, tensors, feeds(1), 60)
    assert list(found) == ["f", "c0", "s1", "r0", "p"]


def test_kinks_are_not_taken_for_errors(monkeypatch: pytest.MonkeyPatch, written: Written) -> None:
    """The input of the first relu is 0 up to rounding, and may be on either side."""
    monkeypatch.setattr(finite_differences, "OFFSET", 1e-9)
    made, gradients, tensors = prepared("c0")
    zeros = {"x": np.full((1, 3, *SIZES), 1e-38, np.float32)}
    found = compare(written(made), gradients, tensors, zeros, 60)
    assert found["c0"].scaled < 1e-4
