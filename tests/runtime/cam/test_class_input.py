"""The two forms of the input that selects the class: with a default, and as an ordinary input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import layertap
from generators import tiny
from layertap._engine.session import plain_session
from layertap.cli import main
from layertap.errors import LayertapError, ModelFileError, UsageError
from layertap.format.card import KEY

NOISE = "ignore:input .* the batch has values from"
"""The warning that the noise in `images` is no image."""

pytestmark = pytest.mark.filterwarnings(NOISE)


def without_default(made: onnx.ModelProto) -> onnx.ModelProto:
    """What tools make that turn optional inputs into ordinary ones; the card is unchanged."""
    kept = [item for item in made.graph.initializer if item.name != "score_weights"]
    del made.graph.initializer[:]
    made.graph.initializer.extend(kept)
    return made


@pytest.fixture(scope="module")
def both() -> tuple[layertap.Model, layertap.Model]:
    made = (tiny.differentiable(), without_default(tiny.differentiable()))
    one, other = (layertap.open(model.SerializeToString()) for model in made)
    return one, other


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    optional = tiny.save(tiny.differentiable(), tmp_path / "optional.onnx")
    return optional, tiny.save(without_default(tiny.differentiable()), tmp_path / "required.onnx")


def entries(path: Path) -> list[tuple[str, bool]]:
    """The inputs of a file, and whether they have a default."""
    graph = onnx.load(path).graph
    defaults = {item.name for item in graph.initializer}
    return [(value.name, value.name in defaults) for value in graph.input]


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: m.gradients(x, "relu", "dog"),
        lambda m, x: m.gradients(x, "relu"),
        lambda m, x: m.gradients(x, ["relu", "image"], ["cat", "top"])["image"],
        lambda m, x: m.gradients(x[:1], "relu", ["cat", "dog", "bird"]),
        lambda m, x: m.cam(x, "relu", "bird"),
        lambda m, x: m.attribute(x, "saliency", "cat"),
        lambda m, x: m.predict(x),
        lambda m, x: m.activations(x, "relu"),
        lambda m, x: m.activations(list(x), "relu"),
        lambda m, x: m.resume({"last": m.activations(x, "last")}),
    ],
)
def test_both_forms_give_the_same(both: Any, images: np.ndarray, call: Any) -> None:
    one, other = (call(model, images) for model in both)
    np.testing.assert_equal(one, other)
    assert np.any(one)


def test_both_forms_have_the_same_inputs(both: Any) -> None:
    one, other = both
    assert one.inputs == other.inputs
    assert [info.name for info in other.inputs] == ["image"]


def test_a_golden_sample_is_checked_with_ones(files: tuple[Path, Path]) -> None:
    """Its gradients are those of the default weights, whether the file has them or not."""
    from layertap.comparing import golden
    from layertap.format.card import Golden, GoldenInput, GoldenLayer

    model = layertap.open(files[0])
    card = model.card
    assert card is not None
    entry = GoldenInput(name="image", shape=(1, 8, 6, 3), low=-1.0, high=1.0)
    sample = Golden(seed=0, inputs=(entry,), layers={})
    feeds = golden.feeds(sample, card.inputs)
    (value,) = plain_session(files[0]).run(["grad/relu"], feeds)
    flat = value.ravel().astype(float)
    at = golden.indices(flat.size, 5)
    row = GoldenLayer(
        shape=value.shape,
        norm=float(np.linalg.norm(flat)),
        scale=float(np.abs(flat).max()),
        values=tuple(flat[at]),
    )
    full = replace(card, golden=replace(sample, layers={"grad/relu": row}))
    for path in files:
        made = onnx.load(path)
        next(x for x in made.metadata_props if x.key == KEY).value = full.to_json()
        onnx.save(made, path)
        assert main(["check", str(path)]) == 0


# --- From one form to the other -------------------------------------------------------------------


def test_a_cut_changes_the_form(
    files: tuple[Path, Path], tmp_path: Path, images: np.ndarray
) -> None:
    row = np.array([[0, 1, 0]], np.float32)
    (expected,) = plain_session(files[0]).run(
        ["grad/relu"], {"image": images, "score_weights": row}
    )
    for source in files:
        for form, default in (("required", False), ("optional", True)):
            target = tmp_path / f"{form}.cut.onnx"
            command = ["cut", str(source), "--to", "probs", "grad/relu", "--class-input", form]
            assert main([*command, "-o", str(target)]) == 0
            assert entries(target) == [("image", False), ("score_weights", default)]
            model = layertap.open(target)
            assert model.card is not None
            assert model.card.gradients is not None
            assert model.card.gradients.class_input == form
            opened = plain_session(target)
            (found,) = opened.run(["grad/relu"], {"image": images, "score_weights": row})
            np.testing.assert_array_equal(found, expected)
            again = model.gradients(images, "relu", 1)
            np.testing.assert_allclose(again, expected, rtol=1e-6, atol=1e-7)
            if default:
                (ones,) = opened.run(["grad/relu"], {"image": images})
                three = np.ones((1, 3), np.float32)
                (want,) = opened.run(["grad/relu"], {"image": images, "score_weights": three})
                np.testing.assert_array_equal(ones, want)
            else:
                with pytest.raises(Exception, match="score_weights"):
                    opened.run(["grad/relu"], {"image": images})


def test_a_cut_keeps_the_form_and_states_it(files: tuple[Path, Path], tmp_path: Path) -> None:
    for path, form in zip(files, ("optional", "required"), strict=True):
        layertap.open(path).cut(tmp_path / "part.onnx", None, ["probs", "grad/relu"])
        card = layertap.open(tmp_path / "part.onnx").card
        assert card is not None
        assert card.gradients is not None
        assert card.gradients.class_input == form
        assert entries(tmp_path / "part.onnx")[1] == ("score_weights", form == "optional")


def test_wrong_forms_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    model = layertap.open(files[0])
    with pytest.raises(UsageError) as caught:
        model.cut(tmp_path / "a.onnx", class_input="requried")
    assert str(caught.value) == (
        "class_input must be 'optional' or 'required', got 'requried'. Did you mean 'required'?"
    )
    with pytest.raises(LayertapError, match="has no gradients, so it has no input that could be"):
        model.cut(tmp_path / "a.onnx", None, ["relu"], class_input="required")
    assert not (tmp_path / "a.onnx").exists()


def test_old_cards_have_the_optional_form(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    card = layertap.open(files[0]).card
    assert card is not None
    assert card.gradients is not None
    assert card.gradients.class_input is None
    assert main(["info", str(files[0])]) == 0
    assert "\nclass input    score_weights, optional\n" in capsys.readouterr().out


# --- Files that state something else --------------------------------------------------------------


def restated(change: Any, **sizes: Any) -> layertap.Model:
    """The file without a default, with another entry for its gradients, or other sizes."""
    made = without_default(tiny.differentiable())
    entry = next(x for x in made.metadata_props if x.key == KEY)
    card = layertap.open(tiny.differentiable().SerializeToString()).card
    assert card is not None
    assert card.gradients is not None
    entry.value = replace(card, gradients=replace(card.gradients, **change)).to_json()
    for name, dims in sizes.items():
        value = next(x for x in made.graph.input if x.name == name)
        value.CopyFrom(tiny.value(name, dims))
    return layertap.open(made.SerializeToString())


def test_an_input_of_the_model_never_has_a_default(images: np.ndarray) -> None:
    """Whatever a card says about it: nobody's image is silently replaced by ones."""
    model = restated({"weights": "image"})
    with pytest.raises(LayertapError, match="input 'image' is missing"):
        model.predict({})
    with pytest.raises(LayertapError):
        model.gradients(images, "relu", 0)


def test_weights_of_absurd_sizes_are_not_made(images: np.ndarray) -> None:
    model = restated({}, score_weights=["rows", 2**40])
    assert model.predict(images).shape == (3, 3)
    with pytest.raises(ModelFileError, match=r"weights of (its )?classes"):
        model.gradients(images, "relu", np.ones((3,), np.float32))


# --- The command line -----------------------------------------------------------------------------


def test_a_misspelt_form_in_the_shell(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = str(tmp_path / "new.onnx")
    for command in (["gradients", str(files[0]), "--layers", "relu"], ["cut", str(files[0])]):
        assert main([*command, "--class-input", "requird", "-o", target]) == 2
        assert capsys.readouterr().err == (
            "layertap: class_input must be 'optional' or 'required', got 'requird'. Did you mean "
            "'required'?\n"
        )
