"""Two files compared layer by layer: what differs, where it is born, and what is refused."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings

import layertap
from generators import tiny
from generators.random_graphs import squares
from generators.transformers import vision_transformer
from layertap._cut.plan import peel
from layertap.comparing import sizes
from layertap.comparing.models import compare_programs
from layertap.errors import InputError, LayerNotFoundError, UsageError

Array = np.ndarray[Any, Any]


def opened(made: onnx.ModelProto, **options: Any) -> layertap.Model:
    return layertap.open(made.SerializeToString(), **options)


def scaled_error(actual: Array, expected: Array) -> float:
    """By the definition, in float64."""
    gap = np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max()
    scale = np.abs(expected.astype(np.float64)).max()
    return float(gap / scale) if scale else float(gap)


def test_the_layer_that_was_changed_is_named() -> None:
    made = tiny.linear_chain()
    bad = tiny.changed(made, "b/w", lambda w: w * 1.01)
    x = tiny.feeds(made)["x"]
    found = layertap.compare(opened(made), opened(bad), x)
    assert not found
    assert found.first is not None
    assert found.born_in is not None
    assert (found.first.name, found.born_in.name) == ("b", "b")
    assert [row.name for row in found.layers] == ["x", "a", "b", "c"]
    assert [row.passed for row in found.layers] == [True, True, False, False]
    a, b = opened(made).activations(x), opened(bad).activations(x)
    for row in found.layers:
        assert row.scaled == pytest.approx(scaled_error(b[row.name], a[row.name]), rel=1e-3)
    last = found.layers[-1]
    assert last.born == 0.0  # it inherits its error
    assert last.scaled > 0.0
    first, second, *_ = str(found).splitlines()
    assert first.startswith("The first to diverge is 'b', by ")
    assert second.startswith("The largest error is born in 'b': ")


def test_a_file_agrees_with_itself(tiny_file: Callable[[str], Path]) -> None:
    found = layertap.compare(
        tiny_file("image_classifier"), tiny_file("image_classifier"), tiny.images()
    )
    assert found
    assert found.first is found.born_in is None
    assert all((row.scaled, row.born, row.snr) == (0, 0, math.inf) for row in found.layers)
    assert found.only_a == {"hidden": "the file does not expose it"}
    assert found.only_b == {}  # it is named once
    assert "agree on 2 samples" in found.summary()


def reads_a_tensor_by_two_names() -> onnx.ModelProto:
    return tiny.model(
        [tiny.node("Identity", "x0", "t0"), tiny.node("Mul", "x0 t0", "t1")],
        [tiny.value("x0", [3, 3]), tiny.value("x1", [3, 3])],
        [tiny.value("t1", [3, 3])],
        [tiny.weights("w0", 3, 3), tiny.weights("w1", 3, 3)],
    )


@settings(max_examples=40, deadline=None)
@given(squares(sources=("x0", "x1", "w0", "w1")))
@example((reads_a_tensor_by_two_names(), []))
def test_what_is_born_in_a_layer_is_what_it_makes_of_equal_inputs(
    drawn: tuple[onnx.ModelProto, list[str]],
) -> None:
    """Each layer of the second file, run on from the first file's values of what it reads."""
    made, _ = drawn
    bad = tiny.changed(tiny.changed(made, "w0", lambda w: w * 1.01), "w1", lambda w: w + 0.01)
    generator = np.random.default_rng(0)
    x = {name: generator.normal(size=(3, 3)).astype(np.float32) for name in ("x0", "x1")}
    a, b = (opened(one, reproducible=True) for one in (made, bad))
    found = layertap.compare(a, b, x)
    values, others = a.activations(x, layertap_all(a)), b.activations(x, layertap_all(b))
    inputs = {**x, **values}
    views = {
        node.output[0] for node in made.graph.node if node.op_type in ("Identity", "Transpose")
    }
    weights = {"w0", "w1"}
    for node in made.graph.node:
        if node.output[0] in views and node.input[0] in weights:
            weights.add(node.output[0])
    for row in found.layers:
        expected, actual = values[row.name], others[row.name]
        assert row.scaled == pytest.approx(scaled_error(actual, expected), rel=1e-5, abs=1e-12)
        inbound = b.layer(row.name).inbound
        # Views pass on what is born before them; views of weights belong to the layers that read.
        if row.name in views or weights.intersection(inbound):
            continue
        known = [name for name in inbound if name in inputs]
        # `resume` takes a tensor by one of its names.
        names = {leaf.source: name for name, leaf in peel(b._program.graph, known).items()}
        reads = {name: inputs[name] for name in names.values()}
        alone = b.resume(reads, row.name) if reads else actual
        assert row.born == pytest.approx(scaled_error(alone, expected), rel=1e-5, abs=1e-12)


def layertap_all(model: layertap.Model) -> list[str]:
    return [layer.name for layer in model.layers]


@settings(max_examples=40, deadline=None)
@given(squares(sources=("x0", "x1", "w0", "w1")))
def test_stages_give_what_one_run_gives(drawn: tuple[onnx.ModelProto, list[str]]) -> None:
    """With one layer in each stage, and few samples between two stages."""
    made, _ = drawn
    bad = tiny.changed(made, "w0", lambda w: w * 1.01)
    x = {name: tiny_numbers(name) for name in ("x0", "x1")}
    a, b = (opened(one, reproducible=True)._program for one in (made, bad))
    whole = compare_programs(a, b, x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sizes, "STAGE_BYTES", 1)
        assert compare_programs(a, b, x).layers == whole.layers


def tiny_numbers(seed: str) -> Array:
    return np.random.default_rng([*seed.encode()]).normal(size=(3, 3)).astype(np.float32)


@pytest.mark.parametrize("stage_bytes", [1, 700, 1 << 20])
def test_samples_are_divided_without_an_effect(
    stage_bytes: int, tiny_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "STAGE_BYTES", stage_bytes)
    monkeypatch.setattr(sizes, "WAITING_BYTES", 2000)
    made = tiny.image_classifier()
    x = tiny.images(7)
    bad = tiny.changed(made, "bias", lambda w: w + 0.1)
    a, b = opened(made, reproducible=True), opened(bad, reproducible=True)
    found = layertap.compare(a, b, x)
    assert found.samples == 7
    values, others = a.activations(x), b.activations(x)
    for row in found.layers:
        one, other = values[row.name].astype(float), others[row.name].astype(float)
        assert row.scaled == pytest.approx(scaled_error(other, one), rel=1e-5)
        assert row.max_abs == pytest.approx(np.abs(one - other).max(), rel=1e-5)
        cosine = (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other)
        assert row.cosine == pytest.approx(cosine, abs=1e-7)
        noise = ((one - other) ** 2).sum()
        if noise:
            assert row.snr == pytest.approx(10 * np.log10((one**2).sum() / noise), abs=1e-3)
        limit = row.allowed * np.abs(one).max()
        differing = (np.abs(one - other) > limit).reshape(-1, one.shape[-1]).any(axis=0)
        assert row.channels == pytest.approx(differing.mean())


def test_the_best_classes_are_compared() -> None:
    made = tiny.linear_chain()
    bad = tiny.changed(made, "c/w", lambda w: -w)
    x = tiny.feeds(made, n=50)["x"]
    a, b = opened(made), opened(bad)
    found = layertap.compare(a, b, x)
    same = np.argmax(a.predict(x), axis=-1) == np.argmax(b.predict(x), axis=-1)
    assert found.layers[-1].top_class == same.mean() != 1.0
    assert "The best class of 'c' is the same for " in found.summary()
    assert found.layers[0].top_class is None


def test_a_nan_is_the_first_to_diverge() -> None:
    made = tiny.linear_chain()
    bad = tiny.changed(made, "b/b", lambda w: np.where(np.arange(w.size) == 0, np.nan, w))
    found = layertap.compare(opened(made), opened(bad), tiny.feeds(made)["x"])
    assert found.first is not None
    assert (found.first.name, found.first.scaled) == ("b", math.inf)
    assert found.first.problem == "NaN or infinite"
    assert 0 < (found.first.channels or 0) < 1
    assert layertap.compare(opened(bad), opened(bad), tiny.feeds(made)["x"])
    json.dumps(found.to_dict(), allow_nan=False)


def test_rows_are_ordered_by_the_error_that_is_born() -> None:
    made = tiny.linear_chain()
    bad = tiny.changed(tiny.changed(made, "a/w", lambda w: w * 1.001), "c/w", lambda w: w * 1.1)
    found = layertap.compare(opened(made), opened(bad), tiny.feeds(made)["x"])
    assert found.first is not None
    assert found.first.name == "a"
    assert found.born_in is not None
    assert found.born_in.name == "c"
    assert [row.name for row in found.rows("damage")][:2] == ["c", "a"]
    lines = found.table("damage").splitlines()
    assert lines[2].split()[0] == "c"
    with pytest.raises(UsageError, match="order must be 'graph' or 'damage', got 'grap'"):
        found.rows("grap")  # type: ignore[arg-type]


def test_what_is_written(tmp_path: Path) -> None:
    made = tiny.linear_chain()
    bad = tiny.changed(made, "b/w", lambda w: w * 1.01)
    found = layertap.compare(opened(made), opened(bad), tiny.feeds(made)["x"])
    text = found.to_csv(tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_text(encoding="utf-8") == text
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["name"] for row in rows] == ["x", "a", "b", "c"]
    assert [float(row["scaled"]) for row in rows] == [row.scaled for row in found.layers]
    found.to_overlay(tmp_path / "overlay.json")
    data = json.loads((tmp_path / "overlay.json").read_text(encoding="utf-8"))
    # Model Explorer's GraphNodeData: a number by the id of a node or the name of an output tensor,
    # and stops. Its adapter for ONNX has the id `[value] x` for an input.
    tensors = {name for node in made.graph.node for name in node.output} | {"x"}
    ids = {node.name for node in made.graph.node} | {"[value] x"}
    assert data["results"].keys() <= tensors | ids
    assert {"[value] x", "a", "b", "c"} <= data["results"].keys()
    assert data["results"]["b"] == {"value": found.layers[2].born}
    assert [stop["stop"] for stop in data["gradient"]] == [0, 0.25, 1]
    plain = found.to_dict()
    assert (plain["first"], plain["born_in"], plain["passed"]) == ("b", "b", False)
    assert plain["layers"][0]["snr"] == "inf"


def test_the_overlay_finds_nodes_by_their_names() -> None:
    """Also where a node is called otherwise than its tensor, or not at all."""
    made = tiny.linear_chain()
    del made.metadata_props[:]
    for at, node in enumerate(made.graph.node):
        node.name = "" if at == 0 else f"node_{at}"
    bad = tiny.changed(made, "b/w", lambda w: w * 1.01)
    found = layertap.compare(opened(made), opened(bad), tiny.feeds(made)["x"])
    results = json.loads(found.to_overlay())["results"]
    writes = {name: at for at, node in enumerate(made.graph.node) for name in node.output}
    for row in found.layers:
        at = writes[row.name]
        assert results[f"node_{at}" if at else "<node_0>"] == {"value": row.damage}


def test_a_layer_that_passes_values_on_hides_no_error() -> None:
    made = tiny.image_classifier()
    bad = tiny.changed(made, "kernel", lambda w: w * 1.01)
    found = layertap.compare(opened(made), opened(bad), tiny.images())
    rows = {row.name: row for row in found.layers}
    assert rows["drop"].tensors[-1] in rows["relu"].tensors  # a Dropout: the values of the relu
    assert (rows["drop"].born, rows["conv"].born) == (0.0, rows["conv"].damage)
    results = json.loads(found.to_overlay())["results"]
    for row in found.layers:
        for name in row.tensors:
            assert results[name]["value"] >= row.damage


@pytest.mark.parametrize("fixed", ["a", "b", "both"])
def test_a_batch_that_is_fixed_in_one_file(fixed: str) -> None:
    made = tiny.linear_chain()
    del made.metadata_props[:]
    small = with_batch(made, 2)
    bad = tiny.changed(made, "b/w", lambda w: w * 1.01)
    a, b = (small if fixed != "b" else made), (with_batch(bad, 2) if fixed != "a" else bad)
    x = tiny.feeds(made, n=6)["x"]
    found = layertap.compare(opened(a), opened(b), x)
    free = layertap.compare(opened(made), opened(bad), x)
    assert found.samples == 6
    for row, other in zip(found.layers, free.layers, strict=True):
        assert row.scaled == pytest.approx(other.scaled, rel=1e-4)
    with pytest.raises(
        InputError, match=r"take batches of 2 samples, got 5\. Give a multiple of 2"
    ):
        layertap.compare(opened(a), opened(b), x[:5])


def test_batches_that_are_fixed_at_other_sizes() -> None:
    made = tiny.linear_chain()
    a, b = (opened(with_batch(made, size)) for size in (1, 4))
    with pytest.raises(InputError, match=r"takes batches of 1 sample, and .* of 4: no batch fits"):
        layertap.compare(a, b, tiny.feeds(made, n=4)["x"])


def with_batch(made: onnx.ModelProto, size: int) -> onnx.ModelProto:
    found = onnx.ModelProto.FromString(made.SerializeToString())
    del found.metadata_props[:]
    for info in (*found.graph.input, *found.graph.output, *found.graph.value_info):
        info.type.tensor_type.shape.dim[0].dim_value = size
    return found


def test_scores_that_are_nan_have_no_best_class() -> None:
    made = tiny.linear_chain()
    bad = tiny.changed(made, "c/b", lambda b: b * np.nan)
    x = tiny.feeds(made, n=20)["x"]
    assert layertap.compare(opened(made), opened(bad), x).layers[-1].top_class == 0.0
    assert layertap.compare(opened(bad), opened(bad), x).layers[-1].top_class == 1.0


def test_without_the_errors_that_are_born() -> None:
    made = tiny.linear_chain()
    bad = tiny.changed(made, "b/w", lambda w: w * 1.01)
    found = layertap.compare(opened(made), opened(bad), tiny.feeds(made)["x"], born=False)
    assert {row.born for row in found.layers} == {None}
    assert found.born_in is None
    assert "Where errors are born is not known: it was not asked for" in found.summary()
    assert found.rows("damage")[0].scaled == max(row.scaled for row in found.layers)


def test_only_some_layers() -> None:
    made = tiny.linear_chain()
    bad = tiny.changed(made, "b/w", lambda w: w * 1.01)
    x = tiny.feeds(made)["x"]
    found = layertap.compare(opened(made), opened(bad), x, ["a", "c"])
    assert [row.name for row in found.layers] == ["a", "c"]
    # b is not among them: its error is born between a and c.
    assert found.layers[-1].born == found.layers[-1].scaled > 0
    with pytest.raises(LayerNotFoundError, match="nosuch"):
        layertap.compare(opened(made), opened(bad), x, "nosuch")
    with pytest.raises(UsageError, match="no layer is selected: the list is empty"):
        layertap.compare(opened(made), opened(bad), x, [])


@pytest.mark.parametrize("sides", ["files", "records", "both"])
def test_scores_of_attention_are_compared_if_they_are_named(sides: str, tmp_path: Path) -> None:
    made = opened(vision_transformer())
    scores = [layer.name for layer in made.select("attention")]
    others = {layer.name for layer in made.select()}
    x = np.random.default_rng(0).random((2, 6, 8, 3)).astype(np.float32)

    def compared(layers: Any, recorded: Any) -> layertap.Comparison:
        if sides == "files":
            return layertap.compare(made, made, x, layers)
        made.record(x, tmp_path / "record.npz", layers=recorded)
        return layertap.compare(
            made if sides == "both" else tmp_path / "record.npz",
            tmp_path / "record.npz",
            layers=layers,
        )

    whole = compared(None, None)
    assert {row.name for row in whole.layers} == others
    assert (whole.only_a, whole.only_b) == ({}, {})
    assert [row.name for row in compared("attention", ["all", "attention"]).layers] == scores
    if sides != "files":
        assert {row.name for row in compared(None, ["all", "attention"]).layers} == others
        error, expected = (
            (UsageError, "share none of the selected layers: ")
            if sides == "both"
            else (LayerNotFoundError, "holds no scores of attention: record them, with the layers")
        )
        with pytest.raises(error, match=expected):
            compared("attention", None)


def test_what_cannot_be_compared_is_refused_in_words(tiny_file: Callable[[str], Path]) -> None:
    chain = tiny_file("linear_chain")
    with pytest.raises(UsageError, match=r"share no layer: 'x', 'a', 'b', \.\.\. in one, "):
        layertap.compare(chain, tiny_file("quantised"), np.zeros((1, 4), np.float32))
    with pytest.raises(UsageError, match=r"no golden sample to run on\. Give images or a batch"):
        layertap.compare(chain, chain)
    with pytest.raises(InputError, match="expected"):
        layertap.compare(chain, chain, np.zeros((2, 7), np.float32))
    with pytest.raises(InputError, match="there is no sample to compare on"):
        layertap.compare(chain, chain, iter([]))
    with pytest.raises(UsageError, match="tolerance must be"):
        layertap.compare(chain, chain, np.zeros((2, 4), np.float32), tolerance=-1)


def test_layers_of_another_shape_are_listed() -> None:
    made = tiny.linear_chain()
    wide = onnx.ModelProto.FromString(made.SerializeToString())
    bad = tiny.changed(tiny.changed(wide, "c/w", lambda w: w[:, :1]), "c/b", lambda b: b[:1])
    for holder in (bad.graph.output, bad.graph.value_info):
        for info in holder:
            if info.name == "c":
                info.type.tensor_type.shape.dim[1].dim_value = 1
    del bad.metadata_props[:]
    found = layertap.compare(opened(made), opened(bad), tiny.feeds(made)["x"])
    assert found.only_a["c"].startswith("other shapes: ")
    assert [row.name for row in found.layers] == ["a", "b"]
    assert "Not compared, of A: " in found.summary()
