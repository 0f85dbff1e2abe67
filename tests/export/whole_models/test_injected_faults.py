"""The bytes that are renamed into place are those that were verified: no step after the conversion
can spoil a file unseen."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import layertap_export
from layertap_export.api import export as exporting
from layertap_export.convert import assemble as assembling
from layertap_export.gradients import for_export
from layertap_export.graph.passes import fuse as fusing
from layertap_export.graph.weights import is_stub
from layertap_export.writing import Writer

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

Fault: TypeAlias = Callable[[onnx.ModelProto], None]


# --- Faults --------------------------------------------------------------------------------------


def behind(model: onnx.ModelProto, tensor: str, *nodes: onnx.NodeProto) -> None:
    """Let nodes from `before` to `after` stand between a tensor's maker and all that reads it."""
    graph, inner = model.graph, f"{tensor}/before"
    for index, node in enumerate(graph.node):
        if tensor in node.output:
            node.output[list(node.output).index(tensor)] = inner
            at = index + 1
    for node in nodes:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = {"before": inner, "after": tensor}.get(name, name)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend([*kept[:at], *nodes, *kept[at:]])


def gradient(model: onnx.ModelProto) -> str:
    """The first output that is a gradient."""
    return next(value.name for value in model.graph.output if value.name.startswith("grad/"))


def constant(model: onnx.ModelProto, name: str, value: Any) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def doubled_gradient(model: onnx.ModelProto) -> None:
    two = constant(model, "two", np.float32(2))
    behind(model, gradient(model), helper.make_node("Mul", ["before", two], ["after"]))


def turned_sign(model: onnx.ModelProto) -> None:
    behind(model, gradient(model), helper.make_node("Neg", ["before"], ["after"]))


def swapped(tensor: str, axis: int, channels: int) -> Fault:
    def swap(model: onnx.ModelProto) -> None:
        name = gradient(model) if tensor == "gradient" else tensor
        order = constant(model, "order", np.array([1, 0, *range(2, channels)], np.int64))
        gather = helper.make_node("Gather", ["before", order], ["after"], axis=axis)
        behind(model, name, gather)

    return swap


def swapped_weights(model: onnx.ModelProto) -> None:
    """The first two filters of a convolution, in a graph in which its weights are no stub."""
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    item = next(item for item in model.graph.initializer if item.name == node.input[1])
    assert not is_stub(item)
    value = numpy_helper.to_array(item).copy()
    value[[0, 1]] = value[[1, 0]]
    item.CopyFrom(numpy_helper.from_array(value, item.name))


def turned_in_the_second_row(model: onnx.ModelProto) -> None:
    """Right for one sample, wrong for two."""
    name = gradient(model)
    one = constant(model, "one", np.array([1], np.int64))
    two = constant(model, "two", np.array([2], np.int64))
    axis = constant(model, "axis", np.array([0], np.int64))
    far = constant(model, "far", np.array([2**62], np.int64))
    parts = {"first": (axis, one), "second": (one, two), "others": (two, far)}
    behind(
        model,
        name,
        *(helper.make_node("Slice", ["before", *ends, axis], [k]) for k, ends in parts.items()),
        helper.make_node("Neg", ["second"], ["turned"]),
        helper.make_node("Concat", ["first", "turned", "others"], ["after"], axis=0),
    )


OF_GRADIENTS: dict[str, Fault] = {
    "a doubled gradient": doubled_gradient,
    "a gradient with its sign turned": turned_sign,
    "two swapped channels in a gradient": swapped("gradient", -1, 8),
    "a gradient with its sign turned in the second row": turned_in_the_second_row,
}
OF_ALL: dict[str, Fault] = {
    "two swapped channels in the weights": swapped_weights,
    "two swapped channels in an output": swapped("dense", -1, 3),
}


def fixed_batch(model: onnx.ModelProto) -> None:
    """The file states that the model's own output always has two rows."""
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2


def other_order(model: onnx.ModelProto) -> None:
    """The model's own output comes last."""
    own = model.graph.output.pop(0)
    model.graph.output.append(own)


def other_symbol(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "height"


def no_output(model: onnx.ModelProto) -> None:
    """A gradient that no client can ask for, in a file that computes it rightly."""
    name = gradient(model)
    kept = [value for value in model.graph.output if value.name != name]
    del model.graph.output[:]
    model.graph.output.extend(kept)


def in_float64(model: onnx.ModelProto) -> None:
    name = gradient(model)
    to = helper.make_node("Cast", ["before"], ["after"], to=onnx.TensorProto.DOUBLE)
    behind(model, name, to)
    (value,) = [value for value in model.graph.output if value.name == name]
    value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def doubled_weights(model: onnx.ModelProto) -> None:
    """The default weights of the scores, which `GradientCheck` never uses alone."""
    (item,) = [item for item in model.graph.initializer if item.name == "score_weights"]
    item.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(item), item.name))


STATED: dict[str, tuple[Fault, str]] = {
    "a fixed batch": (fixed_batch, "states the type float32 (2, 3) for 'dense'"),
    "outputs in another order": (other_order, "the first outputs of the written file are ['conv']"),
    "another symbol of the batch": (other_symbol, "states the type float32 ('height', 3)"),
    "a gradient that is no output": (no_output, "expected ['add', 'bn', 'conv', 'dense', 'drop', "),
    "a gradient in float64": (in_float64, "states the type float64 (None, 7, 9, 8) for 'grad/"),
    "doubled default weights": (doubled_weights, "the default of 'score_weights' is not a tensor"),
}
"""Faults that no comparison of values finds, and what is said of them."""

# --- Where they are put --------------------------------------------------------------------------


def after(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, fault: Fault) -> None:
    """Let a function that changes its first argument, a model, do harm at its end."""
    original = getattr(owner, name)

    def spoiled(model: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(model, *args, **kwargs)
        fault(model)
        return result

    monkeypatch.setattr(owner, name, spoiled)


def after_assembly(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    original = exporting.assemble  # type: ignore[attr-defined]

    def spoiled(*args: Any, **kwargs: Any) -> onnx.ModelProto:
        model = original(*args, **kwargs)
        fault(model)
        return model

    monkeypatch.setattr(exporting, "assemble", spoiled)


def before_writing(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    original = Writer.__init__

    def spoiled(self: Any, model: onnx.ModelProto, *args: Any) -> None:
        fault(model)
        original(self, model, *args)

    monkeypatch.setattr(Writer, "__init__", spoiled)


PLACES: dict[str, Callable[[pytest.MonkeyPatch, Fault], None]] = {
    "extend": lambda patch, fault: after(patch, for_export, "extend", fault),
    "narrow": lambda patch, fault: after(patch, exporting, "narrow", fault),
    "name_batch": lambda patch, fault: after(patch, exporting, "name_batch", fault),
    "Writer": before_writing,
}
"""Steps that see gradients."""

EARLY: dict[str, Callable[[pytest.MonkeyPatch, Fault], None]] = {
    "assemble": after_assembly,
    "cast_around": lambda patch, fault: after(patch, exporting, "cast_around", fault),
}
"""Steps before these, which see the named outputs."""

RAW: dict[str, Callable[[pytest.MonkeyPatch, Fault], None]] = {
    "channels_first": lambda patch, fault: after(patch, assembling, "channels_first", fault),
    "restore_products": lambda patch, fault: after(patch, assembling, "restore_products", fault),
    "products_of_einsum": lambda patch, fault: after(
        patch, assembling, "products_of_einsum", fault
    ),
    "normalisations": lambda patch, fault: after(patch, assembling, "normalisations", fault),
    "fuse": lambda patch, fault: after(patch, assembling, "fuse", fault),
    "join_activations": lambda patch, fault: after(patch, fusing, "join_activations", fault),
    "rename": lambda patch, fault: after(patch, assembling, "rename", fault),
}
"""Passes within `assemble`, where only weights have their final form."""

CASES = [
    *((place, fault) for place in PLACES for fault in (OF_GRADIENTS | OF_ALL).items()),
    *((place, fault) for place in EARLY for fault in OF_ALL.items()),
    *((place, ("two swapped channels in the weights", swapped_weights)) for place in RAW),
]


def refused(small: Any, path: Path, **options: Any) -> None:
    """Export; it must fail and leave nothing behind, not even what no verification has seen."""
    with pytest.raises(layertap_export.VerificationError):
        layertap_export.export(small, path, gradients="relu", **options)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("place", "fault"), [pytest.param(p, f, id=f"{name} after {p}") for p, (name, f) in CASES]
)
@pytest.mark.parametrize("layers", ["all", "dense"])
def test_a_fault_makes_the_export_fail(
    place: str,
    fault: Fault,
    layers: str,
    small: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoiled: list[str] = []

    def counted(model: onnx.ModelProto) -> None:
        spoiled.append(place)
        fault(model)

    (PLACES | EARLY | RAW)[place](monkeypatch, counted)
    refused(small, tmp_path / "small.onnx", layers=layers)
    assert spoiled == [place]


@pytest.fixture
def pooled(keras: Any) -> Any:
    """In 16 bits, where the largest of a window is another one after each rounding."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    entry = keras.Input((16, 16, 3), name="x")
    x = layers.Conv2D(6, 3, dtype="mixed_bfloat16")(entry)
    x = layers.MaxPooling2D(dtype="mixed_bfloat16")(x)
    x = layers.GlobalAveragePooling2D(dtype="mixed_bfloat16")(x)
    return keras.Model(entry, layers.Dense(3, "softmax")(x))


def test_gradients_in_16_bits_need_be_as_close_to_float64_as_kerass(
    pooled: Any, tmp_path: Path
) -> None:
    report = layertap_export.export(pooled, tmp_path / "x.onnx", gradients="input")
    assert [x.name for x in report.verification.layers][-1] == "grad/x"


@pytest.mark.parametrize("fault", OF_GRADIENTS.values(), ids=OF_GRADIENTS)
def test_a_fault_in_gradients_in_16_bits_makes_the_export_fail(
    fault: Fault, pooled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault is OF_GRADIENTS["two swapped channels in a gradient"]:
        fault = swapped("gradient", -1, 3)
    before_writing(monkeypatch, fault)
    with pytest.raises(layertap_export.VerificationError, match="grad/x"):
        layertap_export.export(pooled, tmp_path / "x.onnx", gradients="input")
    assert list(tmp_path.iterdir()) == []


def test_a_fault_in_the_second_row_is_found_without_a_tape(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a signature there are central differences only."""
    small.export(tmp_path / "saved", verbose=False)
    before_writing(monkeypatch, turned_in_the_second_row)
    out = tmp_path / "out" / "small.onnx"
    out.parent.mkdir()
    with pytest.raises(layertap_export.VerificationError, match="grad/"):
        layertap_export.export(tmp_path / "saved", out, gradients="input")
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("fault", OF_GRADIENTS.values(), ids=OF_GRADIENTS)
def test_a_fault_makes_add_gradients_fail(
    fault: Fault, small_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_writing(monkeypatch, fault)
    with pytest.raises(layertap_export.VerificationError):
        layertap_export.add_gradients(small_file, tmp_path / "out.onnx", "relu")
    assert list(tmp_path.iterdir()) == []


def test_added_gradients_leave_the_layers_as_they_are(
    small_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in the forward half, which the gradients follow."""
    before_writing(monkeypatch, swapped_weights)
    with pytest.raises(layertap_export.VerificationError) as caught:
        layertap_export.add_gradients(small_file, tmp_path / "out.onnx", "relu")
    assert f"would not compute what {str(small_file)!r} computes: 'conv' differs by " in str(
        caught.value
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("fault", "words"), STATED.values(), ids=STATED)
def test_a_file_that_states_other_inputs_and_outputs_than_its_card_is_refused(
    fault: Fault, words: str, small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_writing(monkeypatch, fault)
    with pytest.raises(layertap_export.ExportError, match=re.escape(words)):
        layertap_export.export(small, tmp_path / "small.onnx", gradients="relu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", [no_output, in_float64, doubled_weights])
def test_added_gradients_are_stated_as_the_card_says(
    fault: Fault, small_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_writing(monkeypatch, fault)
    with pytest.raises(layertap_export.ExportError, match=r"grad/relu|'score_weights'"):
        layertap_export.add_gradients(small_file, tmp_path / "out.onnx", "relu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", ["bytes", "gradient", "graph", "card", "labels"])
def test_a_file_that_is_spoiled_after_its_verification_is_not_renamed(
    field: str, small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = exporting.append_card  # type: ignore[attr-defined]
    faults = {"bytes": swapped_weights, "gradient": turned_sign}

    def spoiled(path: Path, card: Any) -> None:
        if field in faults:
            model = onnx.load(path)
            faults[field](model)
            onnx.save(model, path)
        if field == "card":
            card = replace(card, golden=replace(card.golden, layers={}))
        if field == "labels":
            card = replace(card, labels=card.labels[::-1])
        original(path, card)
        if field == "graph":  # protobuf adds it to the graph before it
            more = onnx.ModelProto()
            more.graph.node.append(helper.make_node("Identity", ["dense"], ["other"]))
            with path.open("ab") as file:
                file.write(more.SerializeToString())

    monkeypatch.setattr(exporting, "append_card", spoiled)
    refused(small, tmp_path / "small.onnx", labels=["a", "b", "c"])


def test_what_is_renamed_is_what_was_verified(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []
    original = exporting.verify_file  # type: ignore[attr-defined]

    def verify_file(file: Any, *args: Any, **kwargs: Any) -> Any:
        report = original(file, *args, **kwargs)
        seen.append(file.path.read_bytes())
        return report

    monkeypatch.setattr(exporting, "verify_file", verify_file)
    report = layertap_export.export(small, tmp_path / "small.onnx", gradients="relu")
    assert len(seen) == 1
    assert report.path.read_bytes().startswith(seen[0])
    rest = onnx.ModelProto.FromString(report.path.read_bytes()[len(seen[0]) :])
    assert [field.name for field, _ in rest.ListFields()] == ["metadata_props"]
