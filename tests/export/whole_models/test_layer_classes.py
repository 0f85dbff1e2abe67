"""Every class of `keras.layers` can be exported, or the error states why not.

The export compares the file with Keras, so a successful export is the test. The layers are listed
in `tests/generators/layer_table.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import layertap
import layertap_export
import reference
from generators import zoo
from generators.layer_table import ACTIVATIONS, IMAGES, KINDS, REFUSALS, built
from shell import files_of_two_processes

pytestmark = [
    pytest.mark.tensorflow,
    # Keras converts arrays for TensorFlow in a way that numpy 2 deprecates.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

NO_LAYERS = frozenset({"InputSpec", "Layer", "Wrapper"})
"""Public classes that are not layers to use: a specification of inputs, and base classes."""

NOT_INSTALLED: Mapping[str, tuple[str, str]] = {
    "JaxLayer": ("jax", "This requires the jax module. You can install it via `pip install jax`"),
    "FlaxLayer": ("flax", "No module named 'flax'"),
    "TorchModuleWrapper": ("torch", "No module named 'torch'"),
}
"""Layers that wrap other libraries: the library, and the error of Keras if it is missing."""

OPSET_17 = frozenset({"mel", "mel linear"})
"""Rows that need ONNX's Fourier transform."""


def exported(model: Any, folder: Path, **options: Any) -> Any:
    return layertap_export.export(model, folder / "layers.onnx", unsafe=True, **options)


# --- In parallel --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_layers_in_parallel_match(kind: str, layers_file: Callable[[str], Path]) -> None:
    tapped = layertap.open(layers_file(kind))
    assert all(layer.exposed for layer in tapped.layers if layer.parent is None)
    assert tapped.card
    assert tapped.card.verification
    verification = tapped.card.verification
    # Normalised over two channels, numbers of several hundreds cancel nearly to 0.
    checks = [x.scaled for name, x in verification.layers.items() if "normalization" not in name]
    assert max(checks) < 1e-5


QUICK_FREE = ("resizing", "images")


@pytest.mark.parametrize(
    "kind",
    [
        kind if kind in QUICK_FREE else pytest.param(kind, marks=pytest.mark.slow)
        for kind, table in KINDS.items()
        if table.free
    ],
)
def test_layers_of_free_sizes_match(kind: str, keras: Any, tmp_path: Path) -> None:
    table = KINDS[kind]
    assert table.free is not None
    skipped = table.slow | table.fixed_only
    makes = {name: make for name, make in table.rows.items() if name not in skipped}
    model = built(keras, makes, table.free, table.dtype)
    report = exported(model, tmp_path)
    kinds = {x.partition(" (")[0].rpartition(", ")[2] for x in report.verification.batches}
    # Zeros, negative and large numbers are for inputs that hold numbers.
    numbers = {"zeros", "negative", "times 100"} if table.dtype == "float32" else set()
    assert kinds == {"seeded", "other sizes"} | numbers
    assert report.verification.worst.scaled < 2e-5


@pytest.mark.slow
def test_every_process_writes_the_same_bytes(tmp_path: Path) -> None:
    """Also of loops and lookup tables; the hashes of strings differ between the processes."""
    program = (
        "import sys; from pathlib import Path; import layertap_export; layertap_export.export; "
        "import keras; from generators.layer_table import KINDS, side_by_side; "
        "[layertap_export.export(side_by_side(keras, kind), Path(sys.argv[1]) / f'{kind}.onnx', "
        "unsafe=True) for kind in KINDS]"
    )
    files = files_of_two_processes(program, tmp_path, Path(zoo.__file__).parents[1])
    assert {file.stem for file in files} == KINDS.keys()


# --- Separately ---------------------------------------------------------------------------------

ROWS = [(kind, name) for kind, table in KINDS.items() for name in table.rows]
FREE = [(kind, name) for kind, name in ROWS if KINDS[kind].free]


@pytest.mark.slow
@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize(("kind", "name"), ROWS)
def test_each_layer_matches(kind: str, name: str, opset: int, keras: Any, tmp_path: Path) -> None:
    table = KINDS[kind]
    if opset < 17 and name in OPSET_17:
        pytest.skip("the Fourier transform needs opset 17")
    model = built(keras, {name: table.rows[name]}, table.shape, table.dtype, table.batch)
    assert exported(model, tmp_path, opset=opset).verification


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), FREE)
def test_each_layer_of_free_sizes_matches(kind: str, name: str, keras: Any, tmp_path: Path) -> None:
    """If Keras does not support free sizes, the error says so."""
    table = KINDS[kind]
    assert table.free is not None
    if name not in table.fixed_only or (kind, name) == ("images", "reshape"):  # some sizes fit
        model = built(keras, {name: table.rows[name]}, table.free, table.dtype)
        assert exported(model, tmp_path).verification
        return
    try:
        model = built(keras, {name: table.rows[name]}, table.free, table.dtype)
    except (ValueError, TypeError):
        return  # Keras cannot build the model
    with pytest.raises(layertap_export.ExportError, match=r"^Keras cannot (trace|run) the model"):
        exported(model, tmp_path)


# --- Not supported ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSALS)
def test_unsupported_layers_are_an_error(name: str, keras: Any, tmp_path: Path) -> None:
    row = REFUSALS[name]
    model = built(keras, {name: row.make}, row.shape, row.dtype)
    with pytest.raises(layertap_export.UnsupportedLayerError) as caught:
        exported(model, tmp_path)
    assert str(caught.value) == row.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NOT_INSTALLED)
def test_layers_of_missing_libraries_are_an_error_of_keras(name: str, keras: Any) -> None:
    library, message = NOT_INSTALLED[name]
    if find_spec(library) is not None:
        pytest.skip(f"{library} is installed")
    with pytest.raises(ImportError) as caught:
        getattr(keras.layers, name)(object())
    assert str(caught.value) == message


@pytest.mark.slow
def test_a_saved_model_as_a_layer_matches(keras: Any, tmp_path: Path) -> None:
    inner = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3), keras.layers.ReLU()])
    inner.export(tmp_path / "saved", verbose=False)
    entry = keras.Input((6,))
    layer = keras.layers.TFSMLayer(str(tmp_path / "saved"), call_endpoint="serve", name="saved")
    report = exported(keras.Model(entry, layer(entry)), tmp_path)
    assert "saved" in report.exposed
    assert report.verification.worst.scaled < 1e-6


def test_the_error_names_an_inner_layer_by_its_path(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    inner = keras.Sequential([keras.Input((6,), dtype="int32"), layers.Hashing(3, name="hash")])
    inner.name = "inner"
    model = keras.Sequential([keras.Input((6,), dtype="int32"), inner])
    with pytest.raises(layertap_export.UnsupportedLayerError) as caught:
        exported(model, tmp_path)
    assert "StringToHashBucketFast (layer 'inner/hash')" in str(caught.value)


def test_the_error_contains_the_message_of_keras(keras: Any, tmp_path: Path) -> None:
    entry = keras.Input((4,))
    model = keras.Model(entry, keras.layers.Activation("threshold", name="step")(entry), name="bad")
    with pytest.raises(layertap_export.ExportError) as caught:
        exported(model, tmp_path)
    assert str(caught.value).startswith(
        "Keras cannot trace the model 'bad': Exception encountered when calling Activation.call(). "
        "threshold() missing 2 required positional arguments"
    )


def test_random_numbers_in_inference_are_an_error(keras: Any, tmp_path: Path) -> None:
    class Sampling(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x + keras.random.normal((1, 4), seed=1)

    entry = keras.Input((4,))
    model = keras.Model(entry, Sampling(name="draw")(entry))
    with pytest.raises(layertap_export.UnsupportedLayerError) as caught:
        exported(model, tmp_path)
    assert str(caught.value) == (
        "layer 'draw' draws random numbers (StatelessRandomNormalV2) in inference too, so its "
        "results cannot be compared with Keras. Export a model that ends before it, or that takes "
        "the random numbers as an input."
    )


# --- The table is complete ----------------------------------------------------------------------


def test_every_public_class_is_in_the_table(keras: Any) -> None:
    public = {
        cls: name
        for name, cls in vars(keras.layers).items()
        if isinstance(cls, type) and name not in NO_LAYERS
    }
    makes = [make for table in KINDS.values() for make in table.rows.values()]
    makes += [row.make for row in REFUSALS.values()]
    used = {name for make in makes for name in words(make)} | NOT_INSTALLED.keys() | {"TFSMLayer"}
    shown = {getattr(keras.layers, name, None) for name in used} | {keras.layers.InputLayer}
    assert sorted(public[cls] for cls in public.keys() - shown) == []


def test_every_activation_is_in_the_table(keras: Any) -> None:
    """Except `threshold`, which needs arguments that a layer cannot pass."""
    helpers = {"deserialize", "get", "serialize", "threshold"}
    public = {name: f for name, f in vars(keras.activations).items() if callable(f)}
    shown = {public[name] for name in ACTIVATIONS}
    missing = {name for name, function in public.items() if function not in shown} - helpers
    assert sorted(name for name in missing if not name.startswith("_")) == []


def words(function: Any) -> set[str]:
    """Names that a function may look up: attributes, and strings in its closure and defaults."""
    found: set[str] = set()
    codes = [function.__code__]
    for code in codes:
        found.update(code.co_names)
        codes += [constant for constant in code.co_consts if isinstance(constant, type(code))]
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return found | {x for x in [*cells, *(function.__defaults__ or ())] if isinstance(x, str)}


def test_a_class_that_is_not_in_the_table_fails_the_test(
    keras: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Novel(keras.layers.Layer):
        pass

    monkeypatch.setattr(keras.layers, "Novel", Novel, raising=False)
    with pytest.raises(AssertionError, match="Novel"):
        test_every_public_class_is_in_the_table(keras)


def test_augmentation_and_dropout_are_identities(keras: Any, tmp_path: Path) -> None:
    pixels = KINDS["pixels"].rows
    names = [name for name in pixels if name.startswith("Random") and "Crop" not in name]
    makes = {name: pixels[name] for name in [*names, "AugMix", "CutMix", "MixUp", "RandAugment"]}
    dropouts = ("dropout", "gaussian dropout", "gaussian noise", "alpha dropout", "spatial dropout")
    makes |= {name: IMAGES[name] for name in dropouts}
    exported(built(keras, makes, (12, 10, 3), "float32"), tmp_path)
    nodes = onnx.load(tmp_path / "layers.onnx").graph.node
    assert {node.op_type for node in nodes} == {"Identity"}


def test_the_file_starts_from_the_state_of_a_stateful_layer(keras: Any, tmp_path: Path) -> None:
    """In every run. The export does not change the state."""
    model = built(keras, {"one": lambda k: k.LSTM(3, stateful=True)}, (5, 2), "float32", 2)
    batch = np.random.default_rng(0).uniform(-1, 1, (2, 5, 2)).astype(np.float32)
    model(batch)  # so that the state is not zero
    before = [np.array(state) for state in model.layers[-1].states]
    exported(model, tmp_path)
    for state, value in zip(model.layers[-1].states, before, strict=True):
        np.testing.assert_array_equal(state, value)
    session = reference.session((tmp_path / "layers.onnx").read_bytes())
    first, again = (session.run(None, {session.get_inputs()[0].name: batch})[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first, model(batch), atol=1e-6)
