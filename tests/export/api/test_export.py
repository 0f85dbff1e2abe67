"""The export as a whole: what the file is, and what is left behind when it fails."""

from __future__ import annotations

import json
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import layertap
import layertap_export
from generators import tiny, zoo
from layertap._engine import stopping
from layertap.cli import main
from layertap.format.card import KEY, Card
from layertap.images.load import image_libraries
from shell import files_of_two_processes

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def card_of(path: Path) -> Card:
    (text,) = [p.value for p in onnx.load(path).metadata_props if p.key == KEY]
    return Card.from_json(text)


# --- The file -----------------------------------------------------------------------------------


def test_the_file_is_plain_onnx(small_file: Path) -> None:
    model = onnx.load(small_file)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
    assert [value.name for value in model.graph.input] == ["image"]
    assert dims(model.graph.input[0]) == ["batch", 7, 9, 3]


def test_outputs_bear_the_layers_names_the_models_own_first(small_file: Path) -> None:
    outputs = onnx.load(small_file).graph.output
    names = ["dense", "conv", "bn", "relu", "add", "drop", "pool", "gap"]
    assert [value.name for value in outputs] == names
    assert {value.name: dims(value) for value in outputs}["pool"] == ["batch", 3, 4, 8]


def test_no_transpose_stands_between_layers(small_file: Path) -> None:
    graph = onnx.load(small_file).graph
    outputs = {value.name for value in graph.output}
    inner = [n for n in graph.node if n.op_type == "Transpose" and n.output[0] not in outputs]
    assert [list(node.input) for node in inner] == [["image"]]  # the way in
    assert [n.op_type for n in graph.node].count("BatchNormalization") == 1


def test_nodes_and_weights_are_named_after_layers(small_file: Path) -> None:
    graph = onnx.load(small_file).graph
    layers = {layer.name for layer in card_of(small_file).layers}
    names = [node.name for node in graph.node] + [item.name for item in graph.initializer]
    assert len(set(names)) == len(names)
    assert {name.split("/")[0] for name in names} <= layers
    assert {"conv/Conv", "conv/Conv/W", "conv/Conv/B", "dense/MatMul"} <= set(names)


def test_the_card_matches_the_model(small: Any, small_file: Path) -> None:
    card = card_of(small_file)
    assert card.source.model == "small"
    assert card.source.type == "Functional"
    assert [layer.name for layer in card.layers] == [layer.name for layer in small.layers]
    assert [layer.index for layer in card.layers] == list(range(len(small.layers)))
    assert card.layers[4].inbound == ("conv", "relu")
    assert [layer.parameters for layer in card.layers] == [x.count_params() for x in small.layers]
    assert [info.name for info in card.outputs] == ["dense"]
    assert card.verification is not None
    assert set(card.verification.layers) == {x.name for x in small.layers} - {"image"}
    assert card.verification.tolerance == 1e-4
    assert card.golden is not None
    assert card.golden.inputs[0].shape == (29, 7, 9, 3)


def test_plain_onnxruntime_gives_what_keras_gives(keras: Any, small: Any, small_file: Path) -> None:
    session = onnxruntime.InferenceSession(small_file, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).normal(size=(3, 7, 9, 3)).astype(np.float32)
    names = [output.name for output in session.get_outputs()]
    function = keras.Model(small.input, [small.get_layer(name).output for name in names])
    for name, ours, theirs in zip(
        names, session.run(names, {"image": x}), function.predict(x, verbose=0), strict=True
    ):
        assert ours.shape == theirs.shape, name
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max(), err_msg=name)


def test_same_model_same_options_same_bytes(tmp_path: Path) -> None:
    """Even from another process, where Python hashes strings otherwise."""
    program = (
        "import sys; from pathlib import Path; import layertap_export as export; export.export; "
        "import keras; from generators import zoo; names = ['mixed', 'tuples_and_dicts']; "
        "[export.export(zoo.make(keras, n), Path(sys.argv[1]) / f'{n}.onnx') for n in names]"
    )
    files = files_of_two_processes(program, tmp_path, Path(zoo.__file__).parents[1])
    assert len(files) == 2


def test_free_sizes_stay_free(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    image = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="conv")(image)
    x = layers.MaxPooling2D(name="pool")(x)
    model = keras.Model(image, layers.Conv2D(2, 1, name="head")(x))
    report = layertap_export.export(model, tmp_path / "free.onnx")
    assert report.verification.batches == (
        "1 x 64 x 64 x 3, seeded",
        "2 x 96 x 80 x 3, seeded",
        "12 x 64 x 64 x 3, seeded",
        "1 x 64 x 64 x 3, zeros",
        "14 x 64 x 64 x 3, negative",
        "1 x 64 x 64 x 3, times 100",
        "1 x 33 x 47 x 3, other sizes",
        "1 x 131 x 97 x 3, other sizes",
    )
    graph = onnx.load(report.path).graph
    assert dims(graph.input[0]) == ["batch", "height", "width", 3]
    tapped = layertap.open(report.path)
    assert tapped.layer("pool").shape == (None, None, None, 4)
    for height, width in ((8, 8), (30, 17), (5, 64)):
        x = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
        expected = model.predict(x, verbose=0)
        np.testing.assert_allclose(tapped.predict(x), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "types", "exposed"),
    [
        ("all", None, ["image", "conv", "bn", "relu", "add", "drop", "pool", "gap", "dense"]),
        (["conv", "-2"], None, ["conv", "gap", "dense"]),
        ("re:.*o.*", None, ["conv", "drop", "pool", "dense"]),
        (slice(1, 3), None, ["conv", "bn", "dense"]),
        ("all", ["Conv2D", "Add"], ["conv", "add", "dense"]),
    ],
)
def test_only_the_layers_asked_for_are_exposed(
    layers: Any, types: Any, exposed: list[str], small: Any, tmp_path: Path
) -> None:
    """The model's own outputs are always there."""
    report = layertap_export.export(small, tmp_path / "some.onnx", layers=layers, type=types)
    assert list(report.exposed) == exposed
    tapped = layertap.open(report.path)
    assert [layer.name for layer in tapped.layers] == [layer.name for layer in small.layers]
    assert [layer.name for layer in tapped.select()] == exposed


def test_labels_and_preprocessing_go_into_the_file(small: Any, tmp_path: Path) -> None:
    recipe = {"size": [7, 9], "scaling": {"mode": "tf"}}
    (tmp_path / "labels.txt").write_text("cat\n\ndog\n bird \n")
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    path = tmp_path / "small.onnx"
    layertap_export.export(
        small, path, labels=tmp_path / "labels.txt", preprocess=tmp_path / "recipe.json"
    )
    tapped = layertap.open(path)
    assert tapped.labels == ("cat", "dog", "bird")
    assert tapped.preprocessing == layertap.Preprocessing.from_dict(recipe)
    assert tapped.card is not None
    assert tapped.card.images == image_libraries()
    again = tmp_path / "again.onnx"
    layertap_export.export(small, again, labels=tapped.labels, preprocess=recipe)
    assert again.read_bytes() == path.read_bytes()


def test_card_without_a_recipe_names_no_libraries_of_images(small: Any, tmp_path: Path) -> None:
    report = layertap_export.export(small, tmp_path / "small.onnx")
    assert report.card.images is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"labels": ["cat", "dog"]},
            "got 2 labels, but the model's output 'dense' has 3 classes. Give one label for each "
            "class, in order.",
        ),
        (
            {"preprocess": {"size": [9, 7]}},
            "the preprocessing returns images of 9 x 7 x 3, but the model's input 'image' takes "
            '7 x 9 x 3. Set its "size" to [7, 9]; of a recipe by name as in resnet50:7x9.',
        ),
        (
            {"preprocess": {"size": [7, 9], "color_mode": "grayscale"}},
            "the preprocessing returns images of 7 x 9 x 1, but the model's input 'image' takes "
            "7 x 9 x 3.",
        ),
        ({"opset": 19}, "opset must be from 13 to 18, got 19."),
        (
            {"opset": np.array([13, 14])},
            "opset must be an integer of at least 1, got array([13, 14]).",
        ),
        (
            {"gradients": "dense", "score": True},
            "score must be the name of an output or a layer, got True.",
        ),
        ({"score": 0}, "score must be the name of an output or a layer, got 0."),
        ({"samples": True}, "samples must be images, arrays, dicts of arrays, or paths, got True."),
        ({"tolerance": True}, "tolerance must be a finite number of at least 0, got True."),
        ({"sizes": 7}, "sizes must be a dict, as in {'height': 512}, got 7."),
        (
            {"gradients": np.array(1)},
            "cannot select layers for gradients by array(1): give names, patterns, indices or "
            "slices, or one of the words 'all', 'input' and 'last-conv'.",
        ),
        (
            {"layers": np.array(1)},
            "cannot select a layer by array(1): give a name, a pattern, an index or a slice.",
        ),
    ],
)
def test_options_that_do_not_fit(
    options: dict[str, Any], message: str, small: Any, tmp_path: Path
) -> None:
    with pytest.raises(layertap.LayertapError) as caught:
        layertap_export.export(small, tmp_path / "small.onnx", **options)
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


# --- Failing well -------------------------------------------------------------------------------


def interrupt(stage: str) -> None:
    if stage == "verifying against Keras":
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"progress": interrupt}, KeyboardInterrupt),
        ({"tolerance": 1e-12}, layertap_export.VerificationError),
    ],
)
def test_nothing_is_left_behind(
    options: dict[str, Any], error: type[BaseException], small: Any, tmp_path: Path
) -> None:
    target = tmp_path / "small.onnx"
    target.write_bytes(b"older")
    with pytest.raises(error):
        layertap_export.export(small, target, **options)
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == b"older"


@pytest.mark.parametrize(
    "stage", ["tracing", "converting", "adding gradients", "writing", "verifying against Keras"]
)
def test_a_timeout_between_two_stages(
    stage: str, small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = 0.0
    clock = types.SimpleNamespace(monotonic=lambda: time.monotonic() + late)
    monkeypatch.setattr(stopping, "time", clock)

    def slow(now: str) -> None:
        nonlocal late
        late += 9000 * (now == stage)

    target = tmp_path / "small.onnx"
    target.write_bytes(b"older")
    what = stage if stage != "verifying against Keras" else "loading '.*'"
    message = (
        f"^{what} took longer than the timeout of 900 s and was stopped. Give a longer timeout"
    )
    with pytest.raises(layertap.RunTimeoutError, match=message):
        layertap_export.export(small, target, gradients="last-conv", timeout=900, progress=slow)
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == b"older"


def endless(file: Path, target: Path) -> Path:
    """The file, with an output that is behind an endless loop."""
    made, counting = onnx.load(file), tiny.counting()
    output = made.graph.output[0].name
    for node in made.graph.node:
        node.output[:] = ["kept" if name == output else name for name in node.output]
    parts = [*counting.graph.node[1:4]]
    parts[0].input[0] = made.graph.input[0].name
    parts += [onnx.helper.make_node("Add", ["kept", "last"], [output])]
    made.graph.node.extend(parts)
    made.graph.initializer.extend(counting.graph.initializer)
    return tiny.save(made, target)


@pytest.mark.filterwarnings("ignore::layertap.LayertapWarning")
def test_a_timeout_stops_a_run_of_the_file(small_file: Path, small: Any, tmp_path: Path) -> None:
    file = endless(small_file, tmp_path / "endless.onnx")
    began: list[float] = []

    def note(stage: str) -> None:
        if stage.startswith("comparing"):
            began.append(time.monotonic())
            stopping._local.limit = stopping._local.limit._replace(ends=began[0] + 4)

    with pytest.raises(layertap.RunTimeoutError, match=r"running .*endless\.onnx.* was stopped"):
        layertap_export.verify(file, small, timeout=900, progress=note)
    assert time.monotonic() - began[0] < 5.5
    with pytest.raises(layertap.UsageError, match="timeout must be a number of seconds"):
        layertap_export.verify(file, small, timeout=0)


def test_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(layertap_export.ModelLoadError) as caught:
        layertap_export.export(3, tmp_path / "three.onnx")
    assert str(caught.value) == (
        "expected a keras.Model from the caller, got an instance of builtins.int."
    )


def test_the_export_and_verify_commands(
    small: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, file = tmp_path / "small.keras", tmp_path / "small.onnx"
    small.save(model)
    assert (
        main(["export", str(model), "-o", str(file), "--layers", "conv", "--type", "Conv2D"]) == 0
    )
    printed = capsys.readouterr()
    assert printed.out.startswith(f"wrote {file} (")
    assert "2 of 9 layers exposed" in printed.out
    assert printed.err == ""
    assert main(["verify", str(file), str(model)]) == 0
    assert capsys.readouterr().out.startswith("verified 2 layers against Keras on 6 batches (")
    assert main(["export", str(model), "-o", str(file), "--tolerance", "1e-12"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "The first to diverge is " in printed.err


# --- Which first axes are the batch ---------------------------------------------------------------


@pytest.fixture
def rows(keras: Any) -> Any:
    """A model with an output that has as many rows as there are positive numbers."""
    import tensorflow as tf

    class Positive(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return tf.where(x > 0)

    entry = keras.Input((5,), name="x")
    return keras.Model(entry, [Positive(name="places")(entry), keras.layers.ReLU(name="r")(entry)])


def first_axes(path: Path) -> dict[str, str]:
    outputs = onnx.load(path).graph.output
    return {x.name: x.type.tensor_type.shape.dim[0].dim_param for x in outputs}


def test_a_wrong_guess_of_the_batch_is_corrected_and_verified_again(
    rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from layertap_export.api import export as exporting

    verified: list[dict[str, str]] = []
    from layertap_export.verification.layers import verify_file as original

    def verify_file(file: Any, *args: Any, **kwargs: Any) -> Any:
        verified.append(first_axes(file.path))
        return original(file, *args, **kwargs)

    monkeypatch.setattr(exporting, "verify_file", verify_file)
    report = layertap_export.export(rows, tmp_path / "rows.onnx")
    assert verified == [{"places": "batch", "r": "batch"}, {"places": "", "r": "batch"}]
    assert first_axes(report.path) == verified[-1]
    assert report.card.layers[1].per_sample is False


def test_an_axis_that_is_wrongly_named_makes_the_export_fail(
    rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from layertap_export.api import export as exporting

    def name_all(model: onnx.ModelProto, outputs: Any) -> None:
        for value in model.graph.output:
            value.type.tensor_type.shape.dim[0].dim_param = "batch"

    monkeypatch.setattr(exporting, "name_batch", name_all)
    with pytest.raises(layertap_export.VerificationError) as caught:
        layertap_export.export(rows, tmp_path / "rows.onnx")
    assert str(caught.value) == (
        f"{tmp_path / 'rows.onnx'} says that the first axis of 'places' is that of the batch, and "
        "it has another size."
    )
    assert list(tmp_path.iterdir()) == []
