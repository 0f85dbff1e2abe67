"""Number types, ranks and sizes: what goes in, what is computed in, and what the card says."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import layertap
import layertap_export
import reference
from cards import golden_of, gradients_of
from layertap.cli import main
from layertap.comparing.check import check
from layertap.errors import LayertapWarning
from layertap_export.graph.operators import OPERATORS
from layertap_export.graph.passes.cast_around import SUBSTITUTES, substitute

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


POLICIES = ("float32", "float64", "float16", "mixed_float16", "bfloat16", "mixed_bfloat16")

COMPUTED_IN = {"mixed_float16": "float16", "bfloat16": "float32", "mixed_bfloat16": "float32"}
"""What the file computes in, by policy; else it is what the policy is called."""


@pytest.fixture
def policy(request: pytest.FixtureRequest, keras: Any) -> Any:
    """Set the dtype policy that the test is given."""
    keras.utils.clear_session()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


def network(keras: Any) -> Any:
    """A little of everything: convolution, normalisation, recurrence, attention."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 6, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", activation="gelu", name="conv")(image)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.AveragePooling2D(2, name="pool")(x)
    x = layers.Reshape((12, 4), name="rows")(x)
    y = layers.LSTM(4, recurrent_initializer="glorot_uniform", return_sequences=True, name="lstm")(
        x
    )
    x = layers.MultiHeadAttention(2, 3, name="heads")(x, y)
    x = layers.LayerNormalization(name="ln")(x)
    x = layers.GlobalAveragePooling1D(name="gap")(x)
    x = layers.Dense(3, name="logits")(x)
    return keras.Model(image, layers.Activation("softmax", dtype="float32", name="scores")(x))


# --- Policies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES, indirect=True)
def test_layers_keep_the_dtypes_of_their_policy(policy: str, keras: Any, tmp_path: Path) -> None:
    """The file gives what the card says, within what was allowed, and checks itself."""
    report = layertap_export.export(network(keras), tmp_path / "model.onnx")
    computed = COMPUTED_IN.get(policy, policy)
    model = layertap.open(tmp_path / "model.onnx")
    dtypes = {layer.name: layer.dtype for layer in model.layers if layer.exposed}
    assert dtypes == dict.fromkeys(dtypes, computed) | {"image": "float32", "scores": "float32"}
    batch = np.random.default_rng(0).uniform(-1, 1, (3, 8, 6, 3)).astype(np.float32)
    given = {
        name: value.dtype.name
        for name, value in model.activations(batch, ["all", "attention"]).items()
    }
    assert given == dtypes
    found = reference.session((tmp_path / "model.onnx").read_bytes()).get_outputs()
    kinds = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}
    assert {"image": "float32", **{x.name: kinds[x.type] for x in found}} == given

    allowed = {"float16": 1e-2, "mixed_float16": 1e-2, "bfloat16": 5e-2, "mixed_bfloat16": 5e-2}
    assert report.verification.tolerance == allowed.get(policy, 1e-4)
    assert check(model).tolerance == report.verification.tolerance
    assert check(model)
    assert layertap_export.verify(tmp_path / "model.onnx", network(keras)).tolerance == (
        report.verification.tolerance
    )


@pytest.mark.parametrize("policy", ["bfloat16", "mixed_bfloat16"], indirect=True)
def test_bfloat16_is_widened(policy: str, keras: Any, tmp_path: Path) -> None:
    """The file computes what the model would in float32, with the same weights."""
    model = network(keras)
    report = layertap_export.export(model, tmp_path / "model.onnx")
    assert report.card.notes == (
        "the model computes in bfloat16, which onnxruntime does not on the CPU; the file computes "
        "in float32.",
    )
    assert str(report).endswith(f"\nnote: {report.card.notes[0]}")
    weights = [np.asarray(weight).astype(np.float32) for weight in model.get_weights()]
    keras.utils.clear_session()
    keras.config.set_dtype_policy("float32")
    wide = network(keras)
    wide.set_weights(weights)
    with warnings.catch_warnings():  # the weights are the same, but wider
        warnings.simplefilter("ignore", LayertapWarning)
        assert layertap_export.verify(tmp_path / "model.onnx", wide, tolerance=1e-5)
    types = {item.data_type for item in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert TensorProto.BFLOAT16 not in types


@pytest.mark.parametrize("policy", ["float64"], indirect=True)
def test_float64_is_kept_where_there_are_kernels(
    policy: str, keras: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = layertap_export.export(network(keras), tmp_path / "model.onnx")
    assert report.card.notes == (
        "onnxruntime has no float64 kernels on the CPU for AveragePool, Conv, Erf, LSTM; these "
        "compute in float32.",
    )
    assert 1e-12 < report.verification.worst.scaled < 1e-5
    card = layertap.open(tmp_path / "model.onnx").card
    assert card is not None
    assert card.notes == report.card.notes
    capsys.readouterr()
    assert main(["info", str(tmp_path / "model.onnx")]) == 0
    assert "note          onnxruntime has no float64 kernels" in capsys.readouterr().out

    dense = keras.Sequential([keras.Input((5,), dtype="float64"), keras.layers.Dense(4, "tanh")])
    report = layertap_export.export(dense, tmp_path / "dense.onnx")
    assert report.card.notes is None
    assert report.verification.worst.scaled < 1e-14


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
def test_a_tolerance_of_ones_own(policy: str, keras: Any, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, "tanh")])
    report = layertap_export.export(model, tmp_path / "model.onnx", tolerance=1e-6)
    assert "Keras's own 8" in str(report)  # in 16 bits Keras itself cannot hold that
    report = layertap_export.export(model, tmp_path / "model.onnx", tolerance=0.5)
    assert check(layertap.open(report.path)).tolerance == 0.5


@pytest.mark.parametrize("policy", ["float64", "mixed_float16", "mixed_bfloat16"], indirect=True)
def test_gradients_have_the_dtype_of_their_layer(policy: str, keras: Any, tmp_path: Path) -> None:
    """They are of the type that the layer has in the file, and verified like the layers."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, activation="gelu", name="conv")(image)
    x = layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D(name="gap")(x))
    model = keras.Model(image, layers.Activation("softmax", dtype="float32", name="scores")(x))
    report = layertap_export.export(model, tmp_path / "model.onnx", gradients="last-conv")
    assert gradients_of(report.card).tensors.keys() == {"conv"}
    dtypes = {layer.name: layer.dtype for layer in report.card.layers}
    kinds = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}
    given = {
        x.name: kinds[x.type] for x in reference.session(report.path.read_bytes()).get_outputs()
    }
    assert given[gradients_of(report.card).tensors["conv"]] == dtypes["conv"]
    assert check(layertap.open(report.path))


# --- Inputs -------------------------------------------------------------------------------------

WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")


@pytest.mark.parametrize(
    "dtype",
    ["int8", "int64", "bool", "float64", *map(slow, WHOLE[1:3] + WHOLE[4:]), slow("float16")],
)
def test_inputs_keep_their_dtype(dtype: str, keras: Any, tmp_path: Path) -> None:
    """Arithmetic in the input's own type, with casts where onnxruntime has no kernel for it."""
    ops = keras.ops
    entry = keras.Input((5,), dtype=dtype, name="x")
    outputs = {"same": ops.where(entry == entry, entry, entry), "float": ops.cast(entry, "float32")}
    if dtype == "bool":
        outputs["both"] = ops.logical_and(entry, ops.logical_not(entry))
    else:
        outputs["sum"] = ops.add(entry, entry)
        outputs["product"] = ops.multiply(entry, entry)
        outputs["top"] = ops.max(entry, axis=1)
        outputs["less"] = ops.less(entry, ops.flip(entry, axis=1))
        outputs["clipped"] = ops.clip(entry, 1, 3)
        outputs["sorted"] = ops.sort(entry, axis=1)
    model = keras.Model(entry, outputs)
    report = layertap_export.export(model, tmp_path / "model.onnx")
    assert report.card.inputs[0].dtype == dtype
    opened = layertap.open(tmp_path / "model.onnx")
    assert check(opened)
    values = np.array([[0, 1, 5, 3, 2], [1, 1, 0, 7, 4]]).astype(dtype)
    given = reference.session(report.path.read_bytes()).run(list(outputs), {"x": values})
    expected = model(values)
    for name, value in zip(outputs, given, strict=True):
        assert value.dtype == np.asarray(expected[name]).dtype
        np.testing.assert_allclose(value, np.asarray(expected[name]))


def test_uint64_and_what_onnxruntime_lacks(keras: Any, tmp_path: Path) -> None:
    entry = keras.Input((5,), dtype="uint64", name="x")
    model = keras.Model(entry, keras.ops.sum(entry + entry, axis=1))
    report = layertap_export.export(model, tmp_path / "model.onnx")
    assert report.verification.worst.scaled == 0


def test_strings_go_in_as_text(keras: Any, tmp_path: Path) -> None:
    """Words in, through a lookup table; words out, from an inverted one."""
    layers = keras.layers
    words = keras.Input((3,), dtype="string", name="words")
    vocabulary = ["cat", "dog", "größe"]
    places = layers.StringLookup(vocabulary=vocabulary, name="places")(words)
    back = layers.StringLookup(vocabulary=vocabulary, invert=True, name="back")(places)
    dense = layers.Embedding(4, 2, name="embedding")(places)
    model = keras.Model(words, [back, dense])
    report = layertap_export.export(model, tmp_path / "model.onnx")
    assert golden_of(report.card).inputs[0].choices == (*vocabulary, "neither of these")
    opened = layertap.open(tmp_path / "model.onnx")
    assert [(x.name, x.dtype) for x in opened.inputs] == [("words", "string")]
    assert check(opened)
    assert {layer.name: layer.dtype for layer in opened.layers}["back"] == "string"
    given = opened.activations(np.array([["dog", "größe", "fish"]]), ["places", "back"])
    assert given["places"].tolist() == [[2, 3, 0]]
    assert given["back"].tolist() == [["dog", "größe", "[UNK]"]]
    # The runtime's cutter carries the table: it is a part of its own.
    cut = layertap.open(tmp_path / "model.onnx").tap("embedding")
    assert cut(np.array([["dog", "cat", "cat"]])).shape == (1, 3, 2)


def test_gradients_behind_strings(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    words = keras.Input((3,), dtype="string", name="words")
    x = layers.StringLookup(vocabulary=["cat", "dog"], name="places")(words)
    x = layers.Flatten()(layers.Embedding(3, 2, name="embedding")(x))
    model = keras.Model(words, layers.Dense(2, name="scores")(x))
    report = layertap_export.export(model, tmp_path / "model.onnx", gradients="embedding")
    assert gradients_of(report.card).tensors.keys() == {"embedding"}
    assert check(layertap.open(report.path))


def test_the_keys_of_a_table_are_tried(keras: Any, tmp_path: Path) -> None:
    """Numbers drawn at random would hardly ever be one of them."""
    keys = [10**6, 17, -3]
    entry = keras.Input((4,), dtype="int64")
    model = keras.Model(entry, keras.layers.IntegerLookup(vocabulary=keys, name="places")(entry))
    report = layertap_export.export(model, tmp_path / "model.onnx")
    assert golden_of(report.card).inputs[0].choices == (*sorted(keys), 10**6 + 1)
    assert check(layertap.open(tmp_path / "model.onnx"))
    given = layertap.open(tmp_path / "model.onnx").activations(np.array([[17, -3, 5, 10**6]]), -1)
    assert given.tolist() == [[2, 3, 0, 1]]


# --- Ranks and sizes ----------------------------------------------------------------------------

QUICK_RANKS = ((1, None), (4, 3), (5, None))


@pytest.mark.parametrize(
    ("rank", "batch"),
    [
        (rank, batch) if (rank, batch) in QUICK_RANKS else slow(rank, batch)
        for rank in (1, 2, 3, 4, 5, 6)
        for batch in (None, 1, 3)
    ],
)
def test_ranks_and_batches(rank: int, batch: int | None, keras: Any, tmp_path: Path) -> None:
    entry = keras.Input((2, 3, 4, 5, 2)[: rank - 1], batch_size=batch, name="x")
    x = keras.ops.tanh(entry)
    outputs = [x, keras.ops.sum(x), keras.layers.Flatten()(x) if rank > 1 else -x]
    report = layertap_export.export(keras.Model(entry, outputs), tmp_path / "model.onnx")
    assert report.card.inputs[0].shape == (batch, *(2, 3, 4, 5, 2)[: rank - 1])
    assert report.card.outputs[1].shape == ()
    opened = layertap.open(tmp_path / "model.onnx")
    total = opened.select(type="Sum")[0]
    given = opened.activations(np.ones((batch or 4, *(2, 3, 4, 5, 2)[: rank - 1])), total)
    assert given.shape == ()
    assert check(opened)


@pytest.mark.parametrize("cell", [slow("SimpleRNN"), "LSTM", "GRU"])
@pytest.mark.parametrize("batch", [slow(None), 2])
def test_recurrent_layers_of_any_length(
    cell: str, batch: int | None, keras: Any, tmp_path: Path
) -> None:
    entry = keras.Input((None, 3), batch_size=batch)
    layer = getattr(keras.layers, cell)(4, return_sequences=True, return_state=True, name="cell")
    model = keras.Model(entry, layer(entry))
    assert layertap_export.export(model, tmp_path / "model.onnx").verification
    opened = layertap.open(tmp_path / "model.onnx")
    for length in (1, 5, 31):
        x = np.random.default_rng(length).uniform(-1, 1, (2, length, 3)).astype(np.float32)
        np.testing.assert_allclose(opened.activations(x, "cell"), model(x)[0], atol=1e-6)


def test_steps_of_any_number(keras: Any, tmp_path: Path) -> None:
    """Keras takes the batch size for the number of steps when both are free."""
    entry = keras.Input((None, 6, 3))
    inner = keras.layers.Conv1D(2, 3)
    model = keras.Model(entry, keras.layers.TimeDistributed(inner, name="each")(entry))
    assert layertap_export.export(model, tmp_path / "model.onnx").verification
    opened = layertap.open(tmp_path / "model.onnx")
    x = np.random.default_rng(0).uniform(-1, 1, (2, 5, 6, 3)).astype(np.float32)
    np.testing.assert_allclose(opened.activations(x, "each"), model(x), atol=1e-6)


# --- Kernels ------------------------------------------------------------------------------------

LACKING = [op_type for op_type, row in OPERATORS.items() if row.no_kernel]
"""Operators that lack a kernel for a dtype."""

ATTRIBUTES: dict[str, dict[str, Any]] = {
    "ArgMax": {"axis": 0},
    "ArgMin": {"axis": 0},
    "AveragePool": {"kernel_shape": [2, 2]},
    "BitShift": {"direction": "LEFT"},
    "DepthToSpace": {"blocksize": 2},
    "Einsum": {"equation": "a,a->a"},
    "GRU": {"hidden_size": 2},
    "LRN": {"size": 3},
    "LSTM": {"hidden_size": 2},
    "LpPool": {"kernel_shape": [2, 2]},
    "Resize": {"mode": "nearest"},
    "RNN": {"hidden_size": 2},
    "SpaceToDepth": {"blocksize": 2},
}
"""The attributes and inputs that an operator requires."""


def opens(op_type: str, dtype: str) -> bool:
    """Whether onnxruntime finds a kernel for one node, its typed inputs all of one type."""
    schema = onnx.defs.get_schema(op_type, 18, "")
    kind, formals = schema.inputs[OPERATORS[op_type].typed_by].type_str, {}
    for index, formal in enumerate(schema.inputs):
        optional = formal.option == onnx.defs.OpSchema.FormalParameterOption.Optional
        if optional and not (op_type == "Resize" and index == 3):
            formals[f"_{index}"] = ""
        elif formal.type_str == kind:
            formals[f"x{index}"] = dtype
        else:
            names = ("tensor(int64)", "tensor(bool)")
            known = [name for name in names if name in formal.types] or list(formal.types)
            formals[f"x{index}"] = {"tensor(bool)": "bool"}.get(known[0], "int64")
    inputs = ["" if name.startswith("_") else name for name in formals]
    while inputs and not inputs[-1]:
        inputs.pop()
    outputs = ["y", "z"] if op_type == "TopK" else ["y"]
    numbers = {
        name: helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        for name, dtype in formals.items()
        if dtype
    }
    graph = helper.make_graph(
        [helper.make_node(op_type, inputs, outputs, **ATTRIBUTES.get(op_type, {}))],
        "one",
        [helper.make_tensor_value_info(name, number, None) for name, number in numbers.items()],
        [helper.make_empty_tensor_value_info("y")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    try:
        reference.session(model.SerializeToString())
    except Exception as exc:
        if "Could not find an implementation" in str(exc):
            return False
        raise
    return True


@pytest.mark.parametrize("op_type", LACKING)
def test_what_stands_in_has_a_kernel(op_type: str) -> None:
    for dtype in OPERATORS[op_type].no_kernel.split():
        other = substitute(op_type, dtype, 18)
        assert other is not None, dtype
        assert other in SUBSTITUTES[dtype]
        assert opens(op_type, other), (dtype, other)


@pytest.mark.parametrize("op_type", LACKING)
def test_types_that_are_not_missing_have_a_kernel(op_type: str) -> None:
    """What newer versions of onnxruntime have learnt is cast all the same, for the older ones."""
    schema = onnx.defs.get_schema(op_type, 18, "")
    allowed = schema.inputs[OPERATORS[op_type].typed_by].types
    names = {"double": "float64", "float": "float32"}
    dtypes = [kind.removeprefix("tensor(").removesuffix(")") for kind in allowed]
    for dtype in (names.get(kind, kind) for kind in dtypes):
        if dtype in SUBSTITUTES and dtype not in OPERATORS[op_type].no_kernel.split():
            assert opens(op_type, dtype), dtype


def test_an_operator_that_lacks_nothing_is_left_alone() -> None:
    assert substitute("Conv", "float32", 18) is None
    assert substitute("MatMul", "float64", 18) is None
    assert substitute("Conv", "float64", 18) == "float32"
    assert substitute("Where", "bool", 13) == "int32"
