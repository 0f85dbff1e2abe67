"""Attention rollout, gradient rollout, and heat maps of tokens, next to a forward in float64."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest

import layertap
from generators import transformers
from generators.transformers import BLOCKS, GRID, TOKENS, InNumpy
from layertap._engine.program import program_of
from layertap.cam import METHODS, heat_maps
from layertap.cam.heat_maps import layer_of
from layertap.cam.rollout import gradient_rollout, of_patches, rollout
from layertap.errors import LayerNotFoundError, LayertapWarning, ModelFileError, UsageError
from layertap.extract.asked import what_is_asked
from layertap.extract.computing import Work
from layertap.format.card import KEY, Card

ROWS = [f"{block}/mha/attention_scores" for block in range(BLOCKS)]


class Case(NamedTuple):
    """A file with gradients, and the same model in numpy."""

    model: layertap.Model
    numpy: InNumpy
    first: int
    after: int


@pytest.fixture(scope="module", params=[(1, 0), (3, 1), (0, 0), (0, 1)])
def case(request: Any, tmp_path_factory: Any) -> Case:
    first, after = request.param
    made = transformers.vision_transformer(first=first, after=after)
    folder = tmp_path_factory.mktemp("transformer")
    file = transformers.with_gradients(made, folder, ["attention", "1/norm1", "1/add", "norm"])
    return Case(layertap.open(file), InNumpy(made, first), first, after)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(3).random((2, 6, 8, 3)).astype(np.float32)


def expected_map(case: Case, relevance: np.ndarray) -> np.ndarray:
    """The relevance of the patches, for the class token if there is one."""
    if case.first:
        row = relevance[0]
    elif case.after:
        row = relevance[TOKENS]
    else:
        row = relevance.mean(axis=0)
    return row[case.first : case.first + TOKENS].reshape(GRID)


# --- Rollout ------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", ["mean", "max", "min"])
def test_rollout_is_the_product_of_the_joined_heads(
    case: Case, images: np.ndarray, heads: str
) -> None:
    maps = case.model.cam(images, method="rollout", heads=heads, normalize=False, resize=False)
    for image, found in zip(images, maps, strict=True):
        flow = np.eye(case.first + TOKENS + case.after)
        for scores in case.numpy(image.astype(np.float64))[1]:
            joined = getattr(scores, heads)(axis=0) + np.eye(len(flow))
            flow = joined / joined.sum(axis=1, keepdims=True) @ flow
        np.testing.assert_allclose(found[0], expected_map(case, flow), rtol=2e-5, atol=1e-9)


def test_rollout_of_one_layer_is_its_own_attention(case: Case, images: np.ndarray) -> None:
    maps = case.model.cam(images, ROWS[1], method="rollout", normalize=False, resize=False)
    scores = case.numpy(images[1].astype(np.float64))[1][1].mean(axis=0)
    expected = expected_map(case, (scores + np.eye(len(scores))) / 2)
    np.testing.assert_allclose(maps[1, 0], expected, rtol=2e-5)


def test_rows_of_a_rollout_sum_to_one() -> None:
    scores = np.random.default_rng(0).dirichlet(np.ones(5), size=(3, 2, 5))
    for heads in ("mean", "max", "min"):
        np.testing.assert_allclose(rollout(scores, heads).sum(axis=1), 1)


def test_the_first_layer_is_the_last_factor() -> None:
    """A token that only the first layer reads is seen through what the second layer reads."""
    first, second = np.eye(3), np.eye(3)
    first[1] = [0, 0, 1]  # token 1 reads token 2
    second[0] = [0, 1, 0]  # token 0 reads token 1
    assert rollout([first[None], second[None]])[0, 2] == 0.25
    assert rollout([second[None], first[None]])[0, 2] == 0


# --- Gradient rollout ---------------------------------------------------------------------------


def slopes(case: Case, image: np.ndarray, target: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The scores of each block, and central differences of a logit with respect to them."""
    image = image.astype(np.float64)
    step, scores = 1e-5, case.numpy(image)[1]
    for block, whole in enumerate(scores):
        gradient = np.zeros_like(whole)
        for place in np.ndindex(whole.shape):
            ends = []
            for sign in (1, -1):
                changed = whole.copy()
                changed[place] += sign * step
                ends.append(case.numpy(image, {block: changed})[0][target])
            gradient[place] = (ends[0] - ends[1]) / (2 * step)
        yield whole, gradient


def test_gradient_rollout_is_that_of_its_definition(case: Case, images: np.ndarray) -> None:
    options: dict[str, Any] = {"method": "gradient-rollout", "normalize": False, "resize": False}
    maps = case.model.cam(images, target=["dog", 0], **options)
    assert maps.shape == (2, 2, *GRID)
    for at, target in ((0, 1), (1, 0)):
        relevance = np.eye(case.first + TOKENS + case.after)
        for scores, gradient in slopes(case, images[0], target):
            relevance = relevance + np.maximum(gradient * scores, 0).mean(axis=0) @ relevance
        expected = expected_map(case, relevance)
        np.testing.assert_allclose(maps[0, at], expected, rtol=1e-3, atol=1e-6)


def test_gradient_rollout_explains_the_class(case: Case, images: np.ndarray) -> None:
    maps = heat_maps(case.model, images, None, ["cat", "dog"], method="gradientrollout")
    assert maps.layer == "attention"
    assert maps.explains_class
    assert not np.allclose(maps.maps[:, 0], maps.maps[:, 1])
    scores = case.model.predict(images)
    np.testing.assert_allclose(maps.scores, scores[:, :2], rtol=1e-5)


def test_maps_are_scaled_from_their_least_value(case: Case, images: np.ndarray) -> None:
    for method in ("rollout", "gradientrollout"):
        maps = case.model.cam(images, method=method, resize=False)
        assert maps.min(axis=(2, 3)).tolist() == [[0.0], [0.0]]
        assert maps.max(axis=(2, 3)).tolist() == [[1.0], [1.0]]
    assert case.model.cam(images, method="rollout").shape == (2, 1, 6, 8)


def test_layers_without_heads() -> None:
    scores = np.random.default_rng(0).dirichlet(np.ones(4), size=(2, 4))
    relevance = gradient_rollout((one[None], np.ones((1, 4, 4))) for one in scores)
    eye = np.eye(4)
    np.testing.assert_allclose(relevance, (eye + scores[1]) @ (eye + scores[0]))
    assert of_patches(relevance, (2, 2), 0).shape == (2, 2)


def test_the_target_of_a_rollout_has_no_effect(case: Case, images: np.ndarray) -> None:
    with pytest.warns(LayertapWarning, match="the map of rollout is the same for every class"):
        case.model.cam(images, target="dog", method="rollout")


# --- Heat maps of tokens ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, one in METHODS.items() if not one.of_attention])
def test_tokens_are_folded_to_the_grid(case: Case, images: np.ndarray, name: str) -> None:
    """As a function that the user wrote would fold them."""

    def fold(values: np.ndarray) -> np.ndarray:
        patches = values[:, case.first : case.first + TOKENS]
        return patches.reshape(len(values), *GRID, -1)

    options: dict[str, Any] = {"samples": 20} if name == "rise" else {}
    given = case.model.cam(images, "1/norm1", method=name, reshape=fold, **options)
    found = case.model.cam(images, "1/norm1", method=name, **options)
    assert found.shape == (2, 1, 6, 8)
    np.testing.assert_array_equal(found, given)


def test_the_last_maps_are_those_that_the_last_attention_reads(case: Case) -> None:
    assert heat_maps(case.model, np.zeros((1, 6, 8, 3)), "last-conv").layer == "1/norm1"


def test_patches_matter_where_the_last_attention_reads_them(case: Case, images: np.ndarray) -> None:
    """After the last attention, a class token does not read the patches any more."""
    for layer, matters in (("1/norm1", True), ("1/add", not case.first)):
        gradient = case.model.gradients(images, layer)
        patches = gradient[:, case.first : case.first + TOKENS]
        assert (np.abs(patches).max() > 0) == matters


def test_scores_are_not_the_default_layer(case: Case, images: np.ndarray) -> None:
    assert heat_maps(case.model, images).layer == "norm"


# --- Errors -------------------------------------------------------------------------------------


def model_of(made: onnx.ModelProto, **changes: Any) -> layertap.Model:
    """The model, with other rows of scores: `changes` are those of the first."""
    card = Card.from_json(next(one.value for one in made.metadata_props if one.key == KEY))
    rows = list(card.layers)
    at = next(at for at, row in enumerate(rows) if row.attention is not None)
    rows[at] = replace(rows[at], **changes)
    for entry in made.metadata_props:
        if entry.key == KEY:
            entry.value = replace(card, layers=tuple(rows)).to_json()
    return layertap.open(made.SerializeToString())


@pytest.fixture(scope="module")
def plain() -> layertap.Model:
    """Without gradients."""
    return layertap.open(transformers.vision_transformer().SerializeToString())


def message(kind: type[Exception], model: layertap.Model, *args: Any, **options: Any) -> str:
    shape = tuple(size or 1 for size in model.inputs[0].shape)
    with pytest.raises(kind) as caught:
        model.cam(np.zeros(shape, np.float32), *args, **options)
    return str(caught.value)


def test_a_file_without_gradients_says_how_to_add_them(plain: layertap.Model) -> None:
    assert message(ModelFileError, plain, method="gradientrollout").endswith(
        "has no gradients. `layertap gradients FILE.onnx --layers attention -o NEW.onnx` writes a "
        "file with it."
    )


def test_a_file_with_other_gradients(tmp_path: Path) -> None:
    made = transformers.vision_transformer()
    model = layertap.open(transformers.with_gradients(made, tmp_path, ["norm"]))
    assert "has no gradient for 'attention', only for 'norm'. `layertap gradients" in message(
        LayerNotFoundError, model, method="gradientrollout"
    )


def test_a_layer_that_is_none_of_scores(plain: layertap.Model) -> None:
    assert message(UsageError, plain, "norm", method="rollout") == (
        "rollout joins the scores of all attention layers, and 'norm' is not one of them. Leave "
        "out the layer; 'attention' selects the same."
    )
    text = message(UsageError, plain, ["norm"], method="rollout")
    assert text == "rollout is for one layer of scores or for all, got ['norm']."


def test_a_text_has_no_map() -> None:
    model = layertap.open(transformers.text_transformer().SerializeToString())
    text = message(UsageError, model, method="rollout")
    assert "does not state that the tokens of its 2 attention layers are patches of one" in text
    text = message(UsageError, model, ROWS[0], method="rollout")
    assert text == (
        "rollout needs attention among the patches of one image, but '0/mha/attention_scores' "
        "(None, 2, 5, 5) has other tokens."
    )


def test_a_file_without_scores() -> None:
    made = transformers.vision_transformer(scores=False)
    model = layertap.open(made.SerializeToString())
    text = message(LayerNotFoundError, model, method="rollout")
    assert text.startswith("this file does not contain the scores of its 2 attention layers")


def test_every_layer_is_needed() -> None:
    made = transformers.vision_transformer()
    model = model_of(made, tensor=None, why_not="it runs inside a loop")
    assert message(LayerNotFoundError, model, method="rollout") == (
        "rollout needs the scores of every attention layer, but '0/mha/attention_scores' are not "
        "available: it runs inside a loop. With the name of another layer of scores, it shows that "
        "layer alone."
    )
    image = np.zeros((1, 6, 8, 3), np.float32)
    assert model.cam(image, ROWS[1], method="rollout").shape == (1, 1, 6, 8)


def test_layers_with_other_tokens() -> None:
    made = transformers.vision_transformer()
    attention = Card.from_json(made.metadata_props[0].value).layers[-1].attention
    assert attention is not None
    model = model_of(made, attention=replace(attention, grid=(2, 6)))
    assert message(UsageError, model, method="rollout") == (
        "rollout needs layers with the same tokens, but those of '0/mha/attention_scores' "
        "(None, 2, 13, 13) and '1/mha/attention_scores' (None, 2, 13, 13) differ. Give one layer "
        "of scores."
    )


def test_scores_that_are_not_those_of_the_card() -> None:
    made = transformers.vision_transformer()
    model = model_of(made, tensor="0/mha")
    text = message(ModelFileError, model, ROWS[0], method="rollout")
    assert text.endswith(
        "is damaged: the scores of '0/mha/attention_scores' have the shape (1, 13, 8), but the "
        "card states 1 tokens and 12 patches. Export it again."
    )


@pytest.mark.parametrize("grid", [(5, 4), (30_000, 30_000), (1 << 62, 1 << 62)])
def test_more_patches_than_tokens(grid: tuple[int, int]) -> None:
    """Of free sizes, so that the card alone does not show it."""
    made = transformers.vision_transformer()
    entry = next(one for one in made.metadata_props if one.key == KEY)
    card = json.loads(entry.value)
    for row in card["layers"]:
        for key in {"attention", "tokens"} & row.keys():
            row["shape"] = [None] * len(row["shape"])
            row[key]["grid"] = grid
    entry.value = json.dumps(card)
    model = layertap.open(made.SerializeToString())
    image = np.zeros((1, 6, 8, 3), np.float32)
    for call, name in (
        (lambda: model.cam(image, "norm", method="eigencam"), "norm"),
        (lambda: model.sheet(image, "norm"), "norm"),
        (lambda: model.sheet(image, ROWS[0]), ROWS[0]),
    ):
        with pytest.raises(ModelFileError) as caught:
            call()
        assert str(caught.value) == (
            f"the file is damaged: {name!r} has 13 tokens, but the card states 1 before {grid[0]} "
            f"x {grid[1]} patches. Export it again."
        )
    with pytest.raises(ModelFileError, match="but the card states 1 tokens and "):
        model.cam(image, method="rollout")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"method": "gradcam", "heads": "max"}, "heads is for the method rollout, got gradcam."),
        (
            {"method": "rollout", "heads": "sum"},
            "heads must be 'mean', 'max', 'min', got 'sum'.",
        ),
        (
            {"method": "rollout", "reshape": np.asarray},
            "reshape is for maps of a layer, not for rollout. Leave it out.",
        ),
    ],
)
def test_options(plain: layertap.Model, options: dict[str, Any], expected: str) -> None:
    assert message(UsageError, plain, **options) == expected


def test_a_collection_has_a_column_of_a_rollout(plain: layertap.Model) -> None:
    program = program_of(plain)
    assert layer_of(program, None, METHODS["rollout"]) == "attention"
    assert layer_of(program, ROWS[0], METHODS["rollout"]) == ROWS[0]
    assert layer_of(program, "norm", METHODS["eigencam"]) == "norm"
    work = Work(program, what_is_asked(program, ["cam:top=rollout"]), None, None)
    image = np.random.default_rng(0).random((1, 6, 8, 3)).astype(np.float32)
    ((key, values),) = work(image).items()
    np.testing.assert_array_equal(values, plain.cam(image, method="rollout")[:, 0])
    assert work.asked_json(key) == {"cam": "top", "method": "rollout", "layer": "attention"}


def test_a_page_has_methods_of_one_layer(plain: layertap.Model, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="here the methods are those of one layer"):
        plain.view([np.zeros((6, 8, 3), np.float32)], tmp_path / "page.html", methods="rollout")
