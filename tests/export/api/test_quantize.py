"""Quantised files: what they give, beside the file that they were made from."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from PIL import Image

import layertap
from generators import tiny
from layertap._engine.session import plain_session
from layertap.comparing.check import check
from layertap.errors import (
    ImageError,
    InputError,
    LayerNotFoundError,
    LayertapWarning,
    OutputError,
    UsageError,
)
from layertap.format.card import Card
from layertap_export import VerificationError, add_gradients, finish, quantize, verify
from layertap_export.cli import QUANTIZE
from layertap_export.writing import append_card

KINDS = ("float16", "int8")


def images(count: int, seed: int = 0) -> NDArray[np.float32]:
    """What `tiny.digits` takes, `(count, 8, 8, 1)`, float32."""
    return np.random.default_rng(seed).random((count, 8, 8, 1), np.float32)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny.digits` with the gradient at `average`."""
    folder = tmp_path_factory.mktemp("digits")
    plain = tiny.save(tiny.digits(), folder / "plain.onnx")
    add_gradients(plain, folder / "digits.onnx", "average")
    return folder / "digits.onnx"


@pytest.fixture(scope="module", params=KINDS)
def made(file: Path, request: pytest.FixtureRequest, tmp_path_factory: Any) -> Any:
    """The file in float16 and in int8, with its report."""
    path = tmp_path_factory.mktemp("quantized") / f"{request.param}.onnx"
    return quantize(file, path, to=request.param, calibrate=images(16))


def everything(path: Path, x: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """All outputs, by a plain session, as any client makes it."""
    session = plain_session(path)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": x}), strict=True))


def test_all_names_types_and_sizes_survive(made: Any, file: Path) -> None:
    one, other = onnx.load(file).graph, onnx.load(made.path).graph
    for values, others in ((one.input, other.input), (one.output, other.output)):
        assert [value.SerializeToString() for value in values] == [
            value.SerializeToString() for value in others
        ]
    x = images(3, seed=7)
    expected, found = everything(file, x), everything(made.path, x)
    for name, value in expected.items():
        assert found[name].dtype == np.float32
        assert np.abs(found[name] - value).max() <= 0.06 * np.abs(value).max(), name
    assert made.size_bytes < file.stat().st_size * (0.6 if made.to == "float16" else 0.4)


def test_the_runtime_works_on_it(made: Any, file: Path, tmp_path: Path) -> None:
    opened, plain = layertap.open(made.path), layertap.open(file)
    picture = tmp_path / "x.png"
    Image.fromarray((images(1)[0, ..., 0] * 255).astype(np.uint8)).save(picture)
    assert opened.preprocessing == plain.preprocessing
    np.testing.assert_allclose(opened.predict(picture), plain.predict(picture), atol=0.02)
    for name in ("stem_relu", "pool", "average"):
        one, other = opened.activations(picture, name), plain.activations(picture, name)
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=0.05 * np.abs(other).max())
    one, other = (m.gradients(picture, "average", 2) for m in (opened, plain))
    np.testing.assert_allclose(one, other, atol=1e-2 * np.abs(other).max())
    opened.cut(tmp_path / "part.onnx", end="pool")
    np.testing.assert_array_equal(
        layertap.open(tmp_path / "part.onnx").activations(picture, "pool"),
        opened.activations(picture, "pool"),
    )
    features = opened.extract([picture], ["average"], tmp_path / "collection")
    np.testing.assert_allclose(
        features["average"][0], opened.activations(picture, "average")[0], rtol=1e-5, atol=1e-6
    )
    app = finish(made.path, tmp_path / "app.onnx", top=2)
    assert app


def near(to: str, found: NDArray[Any], expected: NDArray[Any]) -> None:
    share = 2e-3 if to == "float16" else 0.06
    np.testing.assert_allclose(found, expected, rtol=0, atol=share * np.abs(expected).max())


@pytest.mark.parametrize("layer", ["stem_relu", "pool", "average"])
def test_what_depends_on_a_layer_reads_it(
    made: Any, file: Path, tmp_path: Path, layer: str
) -> None:
    """A run that starts at a layer, changes it or is cut there gives what it gives in float32."""
    opened, plain = layertap.open(made.path), layertap.open(file)
    x = images(3, seed=5)
    given = plain.activations(x, layer) * np.float32(0.5)
    expected = plain.resume({layer: given})
    assert np.abs(expected - plain.predict(x)).max() > 0.1 * expected.max()
    near(made.to, opened.resume({layer: given}), expected)
    near(made.to, opened.edit(x, {layer: lambda value: value * np.float32(0.5)}), expected)
    opened.cut(tmp_path / "rest.onnx", start=layer)
    near(made.to, layertap.open(tmp_path / "rest.onnx").predict(given), expected)


@pytest.mark.parametrize("method", ["scorecam", "ablationcam", "reciprocam"])
def test_heat_maps_that_change_a_layer(made: Any, file: Path, method: str) -> None:
    one, other = (
        layertap.open(path).cam(images(2), "pool", 3, method=method, normalize=False)
        for path in (made.path, file)
    )
    assert np.ptp(other) > 0
    share = 0.01 if made.to == "float16" else 0.3  # of differences between scores
    np.testing.assert_allclose(one, other, rtol=0, atol=share * np.abs(other).max())


def test_it_can_be_cut_where_the_original_can(made: Any, file: Path) -> None:
    one, other = (
        [(row.name, row.cut) for row in layertap.open(path).cost().all_rows]
        for path in (made.path, file)
    )
    assert one == other
    assert ("pool", ("pool",)) in one


def test_an_error_is_born_in_the_layer_that_makes_it(made: Any, file: Path) -> None:
    """The last layers compute in float32; what they pass on is born before them."""
    rows = {row.name: row for row in layertap.compare(file, made.path, images(4)).layers}
    assert rows["stem_relu"].born == pytest.approx(rows["stem_relu"].scaled)
    born = rows["pool"].born
    assert born is not None
    assert born < 0.1 * rows["pool"].scaled


def test_what_the_card_says(made: Any, file: Path) -> None:
    card, before = layertap.open(made.path).card, layertap.open(file).card
    assert card is not None
    assert before is not None
    assert before.digest is not None
    assert card.quantized is not None
    assert card.made_from is not None
    assert (card.made_from.step, card.made_from.file) == ("quantize", file.name)
    assert card.made_from.weights == before.digest.weights
    assert (card.layers, card.labels, card.gradients) == (
        before.layers, before.labels, before.gradients,
    )  # fmt: skip
    assert card.quantized.to == made.to
    assert card.quantized.outputs.keys() == {"digit"}
    assert card.quantized.calibrated == (8 if made.to == "int8" else None)
    assert card.quantized.samples == (8 if made.to == "int8" else 16)
    assert Card.from_json(card.to_json()) == card


def test_the_check_says_as_quantised(made: Any, file: Path) -> None:
    """It passes here, and fails for another model and for the tolerance of float32."""
    report = check(layertap.open(made.path))
    assert report
    assert f"as quantised to {made.to}" in str(report)
    assert not check(layertap.open(made.path), 1e-4)
    model = onnx.load(made.path)
    for item in model.graph.initializer:
        if item.data_type in (TensorProto.INT8, TensorProto.FLOAT16) and len(item.dims) == 4:
            item.raw_data = item.raw_data[::-1]
    assert not check(layertap.open(model.SerializeToString()))


def test_the_report_measures_what_it_says(made: Any, file: Path) -> None:
    """The errors of the layers, on the samples that were not used to calibrate."""
    held = images(16)[1::2] if made.to == "int8" else images(16)
    opened, plain = layertap.open(made.path), layertap.open(file)
    names = ["stem_relu", "pool", "average"]
    one, other = opened.activations(held[:4], names), plain.activations(held[:4], names)
    for name in names:
        error = np.abs(one[name] - other[name]).max() / np.abs(other[name]).max()
        np.testing.assert_allclose(made.layers[name], error, rtol=1e-2)
    assert list(made.layers.values()) == sorted(made.layers.values(), reverse=True)
    apart = np.abs(opened.predict(held) - plain.predict(held)).max()
    assert apart <= made.outputs["digit"] * plain.predict(held).max()
    data = json.loads(json.dumps(made.to_dict()))
    assert data["outputs"] == dict(made.outputs)
    assert len(data["layers"]) == len(made.layers)


def test_equal_bytes(file: Path, tmp_path: Path) -> None:
    for to in KINDS:
        paths = [tmp_path / f"{to}{number}.onnx" for number in range(2)]
        for path in paths:
            quantize(file, path, to=to, calibrate=images(4))
        assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("to", KINDS)
def test_gradients_at_all_layers_survive(to: str, tmp_path: Path) -> None:
    """All that they pass through computes in float32: they are those of the rounded weights."""
    plain = tiny.save(tiny.digits(), tmp_path / "plain.onnx")
    file, path = tmp_path / "all.onnx", tmp_path / "q.onnx"
    add_gradients(plain, file, "all")
    report = quantize(file, path, to=to, calibrate=images(6))
    assert "stored" in set(report.levels.values()) <= {"stored", "float32"}
    opened, x = layertap.open(path), images(1, seed=3)
    rounded = onnx.load(plain)
    values = {item.name: item for item in rounded.graph.initializer}
    for name in ("kernel", "kernel2", "dense"):
        value = onnx.numpy_helper.to_array(values[name])
        if to == "float16":
            value = value.astype(np.float16).astype(np.float32)
        else:
            axes = tuple(range(1, value.ndim)) if value.ndim == 4 else (0,)
            scale = np.abs(value).max(axis=axes, keepdims=True) / 127
            value = (np.round(value / scale) * scale).astype(np.float32)
        values[name].CopyFrom(onnx.numpy_helper.from_array(value, name))
    tiny.save(rounded, tmp_path / "rounded.onnx")
    add_gradients(tmp_path / "rounded.onnx", tmp_path / "rounded-all.onnx", "all")
    expected = layertap.open(tmp_path / "rounded-all.onnx")
    for name in ("stem_relu", "pool", "average"):
        one, other = (m.gradients(x, name, 1) for m in (opened, expected))
        np.testing.assert_allclose(one, other, atol=2e-3 * np.abs(other).max())


# --- Budgets and layers that are kept -----------------------------------------------------------


@pytest.mark.parametrize("to", KINDS)
def test_a_budget_holds_on_other_images(to: str, file: Path, tmp_path: Path) -> None:
    free = quantize(file, tmp_path / "free.onnx", to=to, calibrate=images(8))
    budget = free.error / (3 if to == "int8" else 1.5)
    report = quantize(file, tmp_path / "q.onnx", to=to, calibrate=images(8), budget=budget)
    assert report.trials > 1
    assert report.error <= budget
    assert set(report.levels.values()) - {to}
    fresh = images(64, seed=9)
    one, other = (layertap.open(x).predict(fresh) for x in (report.path, file))
    assert np.abs(one - other).max() <= budget * other.max()


def test_a_budget_that_cannot_be_held(file: Path, tmp_path: Path) -> None:
    with pytest.raises(
        VerificationError, match=r"the best that was found.*has the error"
    ) as caught:
        quantize(file, tmp_path / "q.onnx", to="int8", calibrate=images(4), budget=1e-9)
    assert caught.value.report.failed == ("digit",)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("keep", ["stem_relu", [1], ["stem*"], "re:stem.*", slice(1, 2)])
def test_layers_that_are_kept(to: str, keep: Any, file: Path, tmp_path: Path) -> None:
    report = quantize(file, tmp_path / "q.onnx", to=to, calibrate=images(4), keep=keep)
    assert report.levels["stem_relu"] == "float32"
    assert to in report.levels.values()
    x = images(2)
    one, other = (layertap.open(p).activations(x, "stem_relu") for p in (report.path, file))
    np.testing.assert_allclose(one, other, rtol=1e-6)


# --- Other files --------------------------------------------------------------------------------


@pytest.mark.parametrize("to", KINDS)
def test_a_file_from_elsewhere(to: str, tmp_path: Path) -> None:
    """No card, no recipe, an older opset, free sizes, and constants as nodes."""
    model = tiny.channels_first()
    path = tmp_path / "q.onnx"
    file = tiny.save(model, tmp_path / "elsewhere.onnx")
    feeds = [tiny.feeds(model, n=1, seed=seed) for seed in range(4)]
    report = quantize(file, path, to=to, calibrate=feeds)
    assert to in report.levels.values()
    assert check(layertap.open(path))
    names = [value.name for value in model.graph.output]
    one = plain_session(path).run(names, feeds[1])
    other = plain_session(file).run(names, feeds[1])
    for actual, expected in zip(one, other, strict=True):
        np.testing.assert_allclose(actual, expected, atol=0.05 * np.abs(expected).max())


def test_float16_needs_no_images(file: Path, tmp_path: Path) -> None:
    report = quantize(file, tmp_path / "q.onnx", to="float16")
    assert (report.samples, report.calibrated) == (1, 0)
    assert report.error < 2e-3


def test_tensorflow_is_not_imported(file: Path, tmp_path: Path) -> None:
    program = (
        "import sys, layertap_export as e\n"
        f"e.quantize({str(file)!r}, {str(tmp_path / 'q.onnx')!r}, to='float16')\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# --- Bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "problem"),
    [
        ({"to": "int4"}, UsageError, "must be 'float16' or 'int8', got 'int4'"),
        ({"to": "flaot16"}, UsageError, "Did you mean 'float16'"),
        ({"to": 8}, UsageError, "got 8"),
        ({"to": "int8"}, InputError, "at least 2.*float16 needs none"),
        ({"to": "int8", "calibrate": images(1)}, InputError, "got 1"),
        ({"to": "int8", "calibrate": np.zeros((4, 9, 8, 1), np.float32)}, InputError, "9"),
        ({"to": "int8", "calibrate": np.zeros((4, 8, 8, 3), np.float32)}, InputError, "3"),
        ({"to": "float16", "budget": -1}, UsageError, "budget"),
        ({"to": "float16", "budget": float("nan")}, UsageError, "budget"),
        ({"to": "float16", "keep": "stem_rel"}, LayerNotFoundError, "Did you mean 'stem_relu'"),
        ({"to": "float16", "keep": "*"}, UsageError, "nothing .* can be quantised"),
    ],
)
def test_bad_input(
    options: dict[str, Any], error: type[Exception], problem: str, file: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=problem):
        quantize(file, tmp_path / "q.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_images_that_cannot_be_read(file: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"a\.png"):
        quantize(file, tmp_path / "q.onnx", to="int8", calibrate=[tmp_path / "a.png"] * 2)


def test_samples_that_the_model_cannot_run(tmp_path: Path) -> None:
    """An index beyond the rows of a table: onnxruntime's reason, and no traceback."""
    made = tiny.model(
        [tiny.node("Gather", "table i", "rows"), tiny.node("MatMul", "rows w", "y")],
        [tiny.value("i", ["n"], TensorProto.INT64)],
        [tiny.value("y", ["n", 2])],
        [tiny.weights("table", 5, 3), tiny.weights("w", 3, 2)],
    )
    path = tiny.save(made, tmp_path / "table.onnx")
    for to in KINDS:
        with pytest.raises(InputError, match=r"could not run .* on i \(\d+,\) int64.*out of"):
            quantize(path, tmp_path / "q.onnx", to=to, calibrate=np.array([1, 2, 99, 99]))


def test_samples_that_are_nan(file: Path, tmp_path: Path) -> None:
    with (
        pytest.warns(LayertapWarning, match="NaN"),
        pytest.raises(
            UsageError, match=r"The values of 'image' are NaN or infinite on the samples"
        ),
    ):
        quantize(file, tmp_path / "q.onnx", to="int8", calibrate=images(4) * np.nan)


def test_a_model_in_memory_is_refused_in_words(file: Path, tmp_path: Path) -> None:
    model: Any = file.read_bytes()
    target = tmp_path / "q.onnx"
    for call in (
        lambda: quantize(model, target, to="float16"),
        lambda: add_gradients(model, target, "average"),
        lambda: finish(model, target),
        lambda: verify(model, "model.keras"),
    ):
        with pytest.raises(UsageError, match="must be a string or a Path, got a bytes"):
            call()


def test_the_source_is_not_replaced(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(OutputError, match="is an input"):
        quantize(file, file, to="float16")
    assert file.read_bytes() == before


def test_files_that_are_quantised_already(made: Any, file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"quantised already to {made.to}"):
        quantize(made.path, tmp_path / "q.onnx", to="float16")
    finish(file, tmp_path / "app.onnx", top=1)
    with pytest.raises(UsageError, match="finished file"):
        quantize(tmp_path / "app.onnx", tmp_path / "q.onnx", to="float16")
    other = tiny.save(tiny.quantised(), tmp_path / "other.onnx")
    with pytest.raises(UsageError, match="quantised already"):
        quantize(other, tmp_path / "q.onnx", to="float16")


def test_a_file_that_computes_in_float16(tmp_path: Path) -> None:
    half = tiny.model(
        [tiny.node("MatMul", "x w", "y")],
        [tiny.value("x", ["n", 2], TensorProto.FLOAT16)],
        [tiny.value("y", ["n", 2], TensorProto.FLOAT16)],
        [tiny.constant("w", [[1, 2], [3, 4]], np.float16)],
    )
    with pytest.raises(UsageError, match="computes in float16 already"):
        quantize(tiny.save(half, tmp_path / "half.onnx"), tmp_path / "q.onnx", to="int8")


def test_verify_says_what_to_compare_instead(made: Any) -> None:
    """Keras is not imported for that: the card says it."""
    with pytest.raises(UsageError, match=r"was quantised to .* Verify digits\.onnx"):
        verify(made.path, "model.keras")


def test_a_fault_in_the_file_is_found(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is not what was measured is not renamed into place."""
    module = import_module("layertap_export.api.quantize")
    real = append_card

    def damage(path: Path, card: Card) -> None:
        if card.quantized is not None:
            model = onnx.load(path)
            for item in model.graph.initializer:
                item.raw_data = item.raw_data[::-1]
            onnx.save(model, path)
        real(path, card)

    monkeypatch.setattr(module, "append_card", damage)
    with pytest.raises(VerificationError, match="was changed after it was verified"):
        quantize(file, tmp_path / "q.onnx", to="float16")
    assert not list(tmp_path.iterdir())


# --- The command --------------------------------------------------------------------------------


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    QUANTIZE.configure(parser)
    return QUANTIZE.run(parser.parse_args(list(words)))


def test_the_command(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, x in enumerate(images(6)):
        Image.fromarray((x[..., 0] * 255).astype(np.uint8)).save(folder / f"{number}.png")
    words = [str(file), "-o", str(tmp_path / "q.onnx"), "--to", "int8", "--calibrate", str(folder)]
    assert command(*words) == 0
    out = capsys.readouterr().out
    assert "reproducible=True" in out
    assert "calibrated on 3 others" in out
    assert command(*words, "--json", "--keep", "stem_relu", "--budget", "0.5") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["levels"]["stem_relu"] == "float32"
    assert command(*words[:2], str(tmp_path / "b.onnx"), *words[3:], "--budget", "1e-9") == 1
    assert "Nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "b.onnx").exists()
    with pytest.raises(InputError, match="there is no such file"):
        command(*words[:5], "--calibrate", str(tmp_path / "none"))


@pytest.mark.parametrize("to", KINDS)
def test_samples_that_are_too_small_for_the_model_are_an_error(to: str, tmp_path: Path) -> None:
    """A free size may be any size, but a window of 5 needs as many rows."""
    free = (None, 3, None, None)
    rows = [
        tiny.layer(0, "x", "InputLayer", free),
        tiny.layer(1, "y", "Conv2D", (None, 4, None, None), "x"),
    ]
    model = tiny.model(
        [tiny.node("Conv", "x w", "y", "y/Conv")],
        [tiny.value("x", ["n", 3, "h", "v"])],
        [tiny.value("y", ["n", 4, None, None])],
        [tiny.weights("w", 4, 3, 5, 5)],
        card=tiny.card(rows, {"x": free}, {"y": (None, 4, None, None)}),
    )
    file, path = tiny.save(model, tmp_path / "free.onnx"), tmp_path / "small.onnx"
    samples = np.zeros((4, 3, 2, 2), np.float32)
    with pytest.raises(InputError, match=r"could not run .* on x \(4?2?1?, 3, 2, 2\) float32"):
        quantize(file, path, to=to, calibrate=samples)
    assert not path.exists()
