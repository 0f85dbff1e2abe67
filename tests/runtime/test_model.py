"""`open`, models and taps: fetching activations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import layertap
import reference
from generators import tiny
from generators.tiny import images
from layertap._engine import engine, program
from layertap._engine.library import give_back_memory
from layertap._engine.program import program_of

TinyFile = Callable[[str], Path]
RUNTIME = Path(layertap.__file__).parents[1]


@pytest.fixture
def chain(tiny_file: TinyFile) -> layertap.Model:
    return layertap.open(tiny_file("linear_chain"))


def expected(name: str, tensors: list[str], feeds: dict[str, Any]) -> dict[str, Any]:
    made = getattr(tiny, name)()
    return dict(zip(tensors, reference.run(made, tensors, feeds), strict=True))


# --- Opening ------------------------------------------------------------------------------------


def test_properties_of_a_model(tiny_file: TinyFile) -> None:
    path = tiny_file("image_classifier")
    model = layertap.open(path)
    assert model.path == path
    assert [layer.name for layer in model.layers] == [
        "image", "conv", "relu", "drop", "pool", "hidden", "probs",
    ]  # fmt: skip
    assert [(i.name, i.shape, i.dtype) for i in model.inputs] == [
        ("image", (None, 8, 6, 3), "float32")
    ]
    assert [(o.name, o.shape) for o in model.outputs] == [("probs", (None, 2))]
    assert model.labels == ("cat", "dog")
    assert model.device == "cpu"
    assert model.metadata == {"author": "tests"}
    assert model.preprocessing == layertap.Preprocessing.from_dict(
        {"size": [8, 6], "scaling": {"mode": "rescale", "scale": 1 / 255}}
    )
    assert repr(model) == (
        f"<layertap.Model '{path}': 7 layers, inputs image (None, 8, 6, 3), device cpu>"
    )


def test_a_model_from_bytes(classifier: layertap.Model, tiny_file: TinyFile) -> None:
    data = tiny_file("image_classifier").read_bytes()
    sources: list[Any] = [data, bytearray(data), memoryview(data)]
    for source in sources:
        model = layertap.open(source)
        assert model.path is None
        np.testing.assert_array_equal(
            model.activations(images(), "relu"), classifier.activations(images(), "relu")
        )


def test_a_file_from_elsewhere(tiny_file: TinyFile) -> None:
    model = layertap.open(tiny_file("residual"))
    assert (model.card, model.labels, model.preprocessing) == (None, None, None)
    x = np.ones((1, 3), np.float32)
    found = model.activations(x, ["a", "d"])
    assert list(found) == ["a", "d"]
    for name, value in expected("residual", ["a", "d"], {"x": x}).items():
        reference.same(found[name], value)
    assert [layer.name for layer in model.select(type="MatMul")] == ["a", "c"]


def test_what_cannot_be_opened() -> None:
    with pytest.raises(layertap.UsageError) as caught:
        layertap.open(3)  # type: ignore[arg-type]
    assert str(caught.value) == "cannot open an int. Give a path, or bytes."


def test_opening_reads_no_weights_and_needs_no_onnxruntime(
    tiny_file: TinyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "import_onnxruntime", lambda: pytest.fail("imported"))
    model = layertap.open(tiny_file("image_classifier"))
    assert model.summary().splitlines()[0].startswith("index  name")
    assert len(model.summary().splitlines()) == 2 + 7


# --- Fetching -----------------------------------------------------------------------------------


def test_each_layer_alone_is_its_graph_output(classifier: layertap.Model) -> None:
    x = images(3)
    names = ["conv", "relu", "drop", "pool", "probs"]
    for name, value in expected("image_classifier", names, {"image": x}).items():
        reference.same(classifier.activations(x, name), value)


def test_one_name_gives_an_array_and_everything_else_a_dict(classifier: layertap.Model) -> None:
    x = images()
    relu = classifier.activations(x, "relu")
    assert relu.shape == (2, 8, 6, 4)
    for single in (2, -5, classifier.layers[2]):
        np.testing.assert_array_equal(classifier.activations(x, single), relu)
    for several in (["relu"], ("relu",), "relu*", "re:relu", slice(2, 3), iter(["relu"])):
        found = classifier.activations(x, several)
        assert list(found) == ["relu"]
        np.testing.assert_array_equal(found["relu"], relu)


def test_results_are_in_the_order_asked(classifier: layertap.Model) -> None:
    found = classifier.activations(images(), ["probs", "conv", 3, "re:c.*|pool"])
    assert list(found) == ["probs", "conv", "drop", "pool"]
    assert list(classifier.activations(images())) == [
        "image", "conv", "relu", "drop", "pool", "probs",
    ]  # fmt: skip


def test_layers_on_one_tensor_are_views_of_it(classifier: layertap.Model) -> None:
    found = classifier.activations(images(), ["relu", "drop"])
    assert np.shares_memory(found["relu"], found["drop"])


def test_an_input_layer_gives_what_was_fed(classifier: layertap.Model) -> None:
    x = images()
    assert classifier.activations(x, "image") is x
    assert classifier.activations(x.astype(np.float64), "image").dtype == np.float32


def test_a_layer_that_is_not_exposed(classifier: layertap.Model) -> None:
    with pytest.raises(layertap.LayerNotFoundError, match="this file does not expose it"):
        classifier.activations(images(), "hidden")


def test_a_file_of_unusual_tensors(tiny_file: TinyFile) -> None:
    model = layertap.open(tiny_file("odd_types"))
    given_ = {"index": [0, 3], "words": ["a", "b", "c"]}
    feeds = {"index": np.array([0, 3]), "words": np.array(["a", "b", "c"], object)}
    names = [layer.name for layer in model.layers]
    found = model.activations(given_)
    assert list(found) == names
    for name, value in expected("odd_types", names, feeds).items():
        reference.same(found[name], value)
    # A value alone is for the one input that the layer needs.
    assert model.activations(np.array([0, 3]), "picked").shape == (
        2,
        2,
    )


def test_a_tensor_that_needs_no_input(tiny_file: TinyFile) -> None:
    model = layertap.open(tiny_file("constant_outputs"))
    negative = model.activations({}, "n")
    np.testing.assert_array_equal(negative, model.activations(None, "n"))
    assert list(model.predict(np.ones((1, 3), np.float32))) == ["w", "x", "n", "y"]


def test_predict_gives_the_models_own_outputs(
    classifier: layertap.Model, tiny_file: TinyFile
) -> None:
    x = images()
    reference.same(
        classifier.predict(x), expected("image_classifier", ["probs"], {"image": x})["probs"]
    )
    model = layertap.open(tiny_file("two_inputs"))
    feeds = tiny.feeds(tiny.two_inputs())
    found = model.predict(feeds)
    assert list(found) == ["sum", "product"]
    for name, value in expected("two_inputs", ["sum", "product"], feeds).items():
        reference.same(found[name], value)


def test_only_the_inputs_that_count(tiny_file: TinyFile) -> None:
    model = layertap.open(tiny_file("two_inputs"))
    feeds = tiny.feeds(tiny.two_inputs())
    seen = model.activations(feeds["image"], "seen")
    np.testing.assert_array_equal(seen, model.activations({"image": feeds["image"]}, "seen"))
    assert model.activations(feeds, "vector") is feeds["vector"]
    both = model.activations(feeds, ["seen", "vector"])
    np.testing.assert_array_equal(both["seen"], seen)
    assert both["vector"] is feeds["vector"]
    with pytest.raises(layertap.InputError, match="different batch sizes"):
        model.predict({"image": feeds["image"], "vector": feeds["vector"][:1]})


# --- Optional inputs ----------------------------------------------------------------------------

X = np.array([[1, 2, 3], [-1, 0, 2]], np.float32)
GAIN = np.array([[2, -3]], np.float32)


def test_an_input_that_has_a_value_may_be_fed(tiny_file: TinyFile) -> None:
    model = layertap.open(tiny_file("optional_input"))
    assert [info.name for info in model.inputs] == ["x"]
    product = X.astype(np.float64) @ onnx.numpy_helper.to_array(tiny.weights("w", 3, 2))
    tap = model.tap(["a", "b"])
    for gain in (None, GAIN, [[2, -3]], np.array([[2, -3], [5, 0]], np.float64)):
        given_ = {"x": X} if gain is None else {"x": X, "gain": gain}
        found, scale = tap(given_), 1.0 if gain is None else np.array(gain)
        np.testing.assert_allclose(found["a"], product, rtol=1e-6)
        np.testing.assert_allclose(found["b"], product * scale, rtol=1e-6)
        np.testing.assert_array_equal(model.activations(given_, "b"), found["b"])
        np.testing.assert_allclose(model.predict(given_), -product * scale, rtol=1e-6)
    assert model.activations({"x": X, "gain": GAIN}, "a").shape == (2, 2)  # which does not read it


def test_running_on_with_an_optional_input(tiny_file: TinyFile) -> None:
    model = layertap.open(tiny_file("optional_input"))
    a = np.array([[1, 10]], np.float32)
    assert model.resume({"a": a}).tolist() == [[-1, -10]]
    assert model.resume({"a": a, "gain": GAIN}).tolist() == [[-2, 30]]
    many = np.array([[1, 1], [2, 2], [3, 3]], np.float32)  # it is no part of the batch
    assert model.resume({"a": a, "gain": many}).tolist() == [[-1, -10], [-2, -20], [-3, -30]]

    gain = GAIN.copy()
    x, w = X[:1], onnx.numpy_helper.to_array(tiny.weights("w", 3, 2))
    edited = model.edit({"x": x, "gain": gain}, {"gain": lambda value: value.__imul__(10)})
    np.testing.assert_allclose(edited, -(x.astype(np.float64) @ w) * gain * 10, rtol=1e-6)
    assert gain.tolist() == GAIN.tolist()
    default = model.edit(x, {"gain": lambda value: value * 10})
    np.testing.assert_allclose(default, -(x.astype(np.float64) @ w) * 10, rtol=1e-6)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (
            {"x": X, "gain": [[1, 2, 3]]},
            "input 'gain' has shape (1, 3), expected (n, 2): axis 1 must be 2, got 3.",
        ),
        ({"x": X, "gian": GAIN}, "the model has no input 'gian'; it has 'x'. Did you mean 'gain'?"),
        (
            {"gain": GAIN},
            "input 'x' is missing: the request needs 'x', but only 'gain' was given.",
        ),
    ],
)
def test_an_optional_input_that_does_not_fit(
    tiny_file: TinyFile, given_: dict[str, Any], message: str
) -> None:
    with pytest.raises(layertap.InputError) as caught:
        layertap.open(tiny_file("optional_input")).predict(given_)
    assert str(caught.value) == message


# --- Images -------------------------------------------------------------------------------------


def test_another_preprocessing(classifier: layertap.Model, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    recipe = {"size": [8, 6], "scaling": {"mode": "tf"}}
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    wanted = (pixels[None] / np.float32(127.5) - np.float32(1)).astype(np.float32)
    for preprocess in (recipe, layertap.Preprocessing.from_dict(recipe), path, str(path)):
        found = classifier.activations(pixels, "image", preprocess=preprocess)
        np.testing.assert_array_equal(found, wanted)
    with pytest.raises(layertap.PreprocessingError):
        classifier.tap("relu")(pixels, preprocess={"sise": [8, 6]})


# --- Taps and sessions --------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of each model that a session was made for, as it happens."""
    names: list[str] = []
    plain = engine.Engine.start

    def start(self: Any, model: bytes, name: str, *others: Any, **more: Any) -> Any:
        names.append(name)
        return plain(self, model, name, *others, **more)

    monkeypatch.setattr(engine.Engine, "start", start)
    return names


def test_a_tap_is_ready_before_it_is_called(classifier: layertap.Model, started: list[str]) -> None:
    tap = classifier.tap(["relu", "probs"])
    assert len(started) == 1
    assert [layer.name for layer in tap.layers] == ["relu", "probs"]
    first, second = tap(images(1)), tap(images(2))
    assert (first["relu"].shape[0], second["relu"].shape[0]) == (1, 2)
    assert len(started) == 1
    assert repr(tap) == f"<layertap.Tap 'relu', 'probs' of {classifier!r}>"
    assert repr(classifier.tap()).startswith("<layertap.Tap 'image', 'conv', 'relu' and 3 more of ")


def test_sessions_are_kept_by_what_they_compute(
    classifier: layertap.Model, started: list[str]
) -> None:
    x = images()
    classifier.activations(x, ["relu", "probs"])
    classifier.activations(x, ["probs", "relu"])
    classifier.activations(x, ["probs", "drop"])  # the same tensors: drop hands on relu's
    assert len(started) == 1
    classifier.activations(x, "relu")
    assert len(started) == 2
    classifier.activations(x, "image")  # nothing to compute
    assert len(started) == 2


def test_old_sessions_are_let_go_but_a_tap_keeps_its_own(
    classifier: layertap.Model, started: list[str]
) -> None:
    x = images()
    tap = classifier.tap("conv")
    for request in (["relu"], ["pool"], ["probs"], ["conv", "relu"]):
        classifier.activations(x, request)
    assert len(started) == 1 + program.SESSIONS
    tap(x)
    assert len(started) == 1 + program.SESSIONS
    classifier.activations(x, "conv")
    assert len(started) == 2 + program.SESSIONS


def test_room_is_made_before_much_is_asked_for(
    classifier: layertap.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before little: it takes some milliseconds."""
    calls: list[bool] = []
    monkeypatch.setattr(program, "give_back_memory", lambda: calls.append(True))
    classifier.tap()
    assert calls == []
    monkeypatch.setattr(program, "MUCH", 1000)
    classifier.tap("probs")
    assert calls == []
    classifier.tap()
    assert calls == [True]
    monkeypatch.undo()
    give_back_memory()  # for real: nothing is raised


def compare(found: Any, wanted: Any) -> None:
    """Bit for bit."""
    if not isinstance(wanted, dict):
        found, wanted = {"": found}, {"": wanted}
    assert list(found) == list(wanted)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], strict=True)


def test_session_options_reach_the_session(tiny_file: TinyFile, tmp_path: Path) -> None:
    options = {"enable_profiling": True, "profile_file_prefix": str(tmp_path / "profile")}
    model = layertap.open(tiny_file("linear_chain"), session_options=options)
    model.predict(np.zeros((1, 4)))
    assert list(tmp_path.glob("profile*"))
    program_of(model).fetch(["c"]).session.inner.end_profiling()  # type: ignore[union-attr]


# --- When things go wrong -----------------------------------------------------------------------


def test_a_file_that_changed_under_the_model(tmp_path: Path) -> None:
    path = tiny.save(tiny.linear_chain(), tmp_path / "m.onnx")
    model = layertap.open(path)
    tap = model.tap("a")
    tiny.save(tiny.residual(), path)
    with pytest.raises(layertap.ModelFileError) as caught:
        model.tap("b")
    assert str(caught.value) == (
        f"'{path}' was changed since it was opened. Open it again with layertap.open."
    )
    assert tap(np.zeros((1, 4))).shape == (1, 5)  # a session holds its own copy


def test_a_card_that_names_a_tensor_that_is_gone(tmp_path: Path) -> None:
    model = tiny.linear_chain()
    model.graph.node.remove(model.graph.node[-1])
    path = tiny.save(model, tmp_path / "m.onnx")
    assert layertap.open(path).activations(np.zeros((1, 4)), "b").shape == (1, 3)
    with pytest.raises(layertap.ModelFileError) as caught:
        layertap.open(path).tap("c")
    assert str(caught.value) == (
        f"'{path}' has no tensor 'c', though its card names it. It was changed after the export; "
        "export it again."
    )


def test_a_transpose_that_does_not_fit() -> None:
    made = tiny.model(
        [tiny.node("Relu", "x", "r"), tiny.node("Transpose", "r", "y", perm=[0, 2, 1])],
        [tiny.value("x", ["n", 2])],
        [tiny.value("y", None)],
    )
    model = layertap.open(made.SerializeToString())
    with pytest.raises(layertap.ModelFileError) as caught:
        model.predict(np.zeros((1, 2)))
    assert str(caught.value) == (
        "the model has a Transpose that does not fit its tensor: axes don't match array."
    )


def test_a_model_that_onnxruntime_refuses_opens_all_the_same(tmp_path: Path) -> None:
    made = tiny.residual()
    made.graph.node[2].op_type = "Nope"
    path = tiny.save(made, tmp_path / "m.onnx")
    model = layertap.open(path)
    assert len(model.layers) == 5
    assert model.activations(np.zeros((1, 3)), "b").shape == (1, 3)  # the cut has no Nope in it
    with pytest.raises(layertap.ModelFileError) as caught:
        model.predict(np.zeros((1, 3)))
    assert str(caught.value).startswith(f"onnxruntime {onnxruntime.__version__} rejects '{path}': ")


def test_damage_in_the_type_of_an_output() -> None:
    made = tiny.image_classifier()
    data = made.SerializeToString()
    kind = made.graph.output[1].type.SerializeToString()
    with pytest.raises(layertap.ModelFileError, match=r"has no end.*Copy or export it again\."):
        layertap.open(data.replace(kind, kind[:-1] + b"\xff")).tap("relu")


# --- Weights beside the file --------------------------------------------------------------------


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A model whose weights are in two files, one of them in a folder."""
    folder = tmp_path / "model"
    (folder / "more").mkdir(parents=True)
    made = tiny.linear_chain()
    for index, weights in enumerate(made.graph.initializer):
        location = "m.data" if index % 2 else "more/n.data"
        with (folder / location).open("ab") as file:
            offset = file.tell()
            file.write(weights.raw_data)
        entries = {"location": location, "offset": offset, "length": len(weights.raw_data)}
        weights.ClearField("raw_data")
        weights.data_location = onnx.TensorProto.EXTERNAL
        for key, text in entries.items():
            weights.external_data.add(key=key, value=str(text))
    return tiny.save(made, folder / "m.onnx")


@pytest.fixture(params=["by reference", "brought in"])
def any_onnxruntime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 1.21, onnxruntime does not take such models from bytes."""
    if request.param == "brought in":
        monkeypatch.setattr(engine, "supports_external_weights", lambda: False)


@pytest.mark.usefixtures("any_onnxruntime")
def test_weights_in_other_files(
    beside: Path, chain: layertap.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    x = np.ones((2, 4), np.float32)
    wanted = chain.activations(x)
    monkeypatch.chdir(tmp_path)
    for path in (beside, beside.relative_to(tmp_path)):
        compare(layertap.open(path).activations(x), wanted)


@pytest.mark.usefixtures("any_onnxruntime")
def test_weights_and_model_linked_into_a_cache(
    beside: Path, chain: layertap.Model, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    (cache / "more").mkdir(parents=True)
    (cache / "m.onnx").symlink_to(beside)
    (cache / "m.data").symlink_to(beside.parent / "m.data")
    (cache / "more" / "n.data").symlink_to(beside.parent / "more" / "n.data")
    x = np.ones((2, 4), np.float32)
    compare(layertap.open(cache / "m.onnx").activations(x), chain.activations(x))


def test_weights_too_large_to_be_brought_in(beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "supports_external_weights", lambda: False)
    monkeypatch.setattr(program, "PROTOBUF_BYTES", 100)
    with pytest.raises(layertap.ModelFileError) as caught:
        layertap.open(beside).tap("a")
    assert str(caught.value) == (
        f"the request needs 0.0 GB of '{beside}' and its weights, more than onnxruntime can load "
        "from memory. Upgrade onnxruntime: from version 1.21 on, weights can stay in their files."
    )


def test_weights_outside_the_folder_are_refused(beside: Path, tmp_path: Path) -> None:
    made = onnx.load(beside, load_external_data=False)
    for weights in made.graph.initializer:
        weights.external_data[0].value = "../outside.data"
    (tmp_path / "outside.data").write_bytes(bytes(1000))
    tiny.save(made, beside)
    with pytest.raises(layertap.ModelFileError) as caught:
        layertap.open(beside).tap("a")
    assert str(caught.value) == (
        f"'{beside}' keeps weights in '../outside.data', outside its own folder. Put them in "
        "the folder of the model."
    )


def test_weights_that_are_gone(beside: Path) -> None:
    (beside.parent / "m.data").unlink()
    model = layertap.open(beside)
    with pytest.raises(layertap.ModelFileError) as caught:
        model.tap("a")
    assert str(caught.value) == (
        f"'{beside}' keeps weights in 'm.data', which is not there. Copy it into the model's "
        "folder."
    )


# --- Nothing is left behind ---------------------------------------------------------------------


def test_an_activation_leaves_nothing_in_the_home_folder(
    tiny_file: TinyFile, tmp_path: Path
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "ORT_DISABLE_TELEMETRY" and not name.startswith("XDG_")
    }
    environment |= {"HOME": str(home), "USERPROFILE": str(home), "PYTHONPATH": str(RUNTIME)}
    code = (
        "import os, sys, layertap\n"
        "model = layertap.open(sys.argv[1])\n"
        "print(model.activations([[1, 2, 3, 4]], 'b').shape, os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_file("linear_chain"))],
        env=environment,
        cwd=here,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("(1, 3) 1\n", "")
    assert [*home.rglob("*"), *here.rglob("*")] == []
