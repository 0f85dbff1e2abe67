"""`Model.jacobian`: its rows are the gradients of single scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import layertap
from generators import tiny
from layertap.cam.jacobians import Rows
from layertap.errors import LayerNotFoundError, ModelFileError, UsageError
from layertap.format.card import KEY, Card

LAYERS = ("conv", "relu", "mixed", "last", "image")


def opened(**options: Any) -> layertap.Model:
    return layertap.open(tiny.differentiable(**options).SerializeToString())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"broadcasts": False},
        {"score": "output"},
        {"score": "output", "broadcasts": False},
        {"channels_first": True},
    ],
    ids=str,
)
def test_each_row_is_the_gradient_of_one_score(options: dict[str, Any]) -> None:
    model = opened(**options)
    x = tiny.images(3)
    x = np.moveaxis(x, -1, 1) if "channels_first" in options else x
    found = model.jacobian(x, LAYERS, batch_size=2)
    assert [*found] == [*LAYERS]
    for name, value in found.items():
        expected = np.stack([model.gradients(x, name, index) for index in range(3)], axis=1)
        assert value.shape == expected.shape
        assert np.abs(value).max() > 0
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)


def test_the_derivative_is_that_of_the_output() -> None:
    """Against central differences, at the many pixels where no ReLU changes its side."""
    model = opened(score="output")
    x, step = tiny.images(1) * np.float32(0.9) + np.float32(0.05), np.float32(2e-2)
    found = model.jacobian(x)
    assert found.shape == (1, 3, 8, 6, 3)
    moved = np.repeat(x, 2 * x.size, axis=0).reshape(x.size, 2, x.size)
    moved[np.arange(x.size), 0, np.arange(x.size)] += step
    moved[np.arange(x.size), 1, np.arange(x.size)] -= step
    scores = model.predict(moved.reshape(-1, *x.shape[1:])).reshape(x.size, 2, 3)
    slopes = (scores[:, 0] - scores[:, 1]) / (2 * step)
    error = np.abs(slopes.T.reshape(found[0].shape) - found[0])
    assert np.median(error) < 1e-3 * np.abs(found).max()


def test_an_input_is_found_by_the_name_of_its_layer() -> None:
    """As `attributions` finds it."""
    made = tiny.differentiable()
    (prop,) = (item for item in made.metadata_props if item.key == KEY)
    card = Card.from_json(prop.value)
    assert card.gradients is not None
    tensors = {**card.gradients.tensors}
    tensors["photo"] = tensors.pop("image")
    first, *others = card.layers
    renamed = replace(
        card,
        layers=(replace(first, name="photo", tensor="image"), *others),
        gradients=replace(card.gradients, tensors=tensors),
    )
    prop.value = renamed.to_json()
    x = tiny.images(1)
    found = layertap.open(made.SerializeToString()).jacobian(x)
    np.testing.assert_array_equal(found, opened().jacobian(x))


def test_chosen_rows() -> None:
    model = opened()
    x = tiny.images(2)
    whole = model.jacobian(x, "conv")
    for rows, index in (
        ("dog", 1),
        (np.int64(-1), -1),
        ([2, "cat"], [2, 0]),
        ((1, 1), [1, 1]),
        (range(2), slice(2)),
    ):
        found = model.jacobian(x, "conv", rows)
        np.testing.assert_allclose(found, whole[:, index], rtol=1e-5, atol=1e-7)
        assert found.shape == whole[:, index].shape


def test_no_samples_give_the_right_shape() -> None:
    assert opened().jacobian(tiny.images(0), "mixed").shape == (0, 3, 4, 3, 5)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("zebra", "rows: no score is called 'zebra'. "),
        ("brd", "rows: no score is called 'brd'. Did you mean 'bird'? "),
        (3, "rows: 3 is out of range. "),
        ([0, -4], "rows: -4 is out of range. "),
        (True, "rows must be a score or a list of scores, got True."),
        (1.5, "rows must be a score or a list of scores, got 1.5."),
        ([(0, 1)], "rows: (0, 1) is not a score. "),
        ([], "rows is empty. Leave it out for all scores."),
    ],
)
def test_scores_that_do_not_exist(rows: Any, message: str) -> None:
    end = "Give an index or a label of the scores, which have the shape (3,), or a list of these."
    with pytest.raises(UsageError) as caught:
        opened().jacobian(tiny.images(1), "conv", rows)
    assert str(caught.value) == message + (end if message.endswith(" ") else "")


def test_scores_at_several_positions_have_tuples_as_rows() -> None:
    rows = Rows([(1, 0, 2), (0, -1, 1)], (2, 4, 3))
    assert rows.indices == [(1, 0, 2), (0, 3, 1)]
    weights, places = rows.weights(slice(None))
    assert places is not None
    whole = weights[:, None, None] * places[..., None]
    assert [tuple(map(int, at)) for at in np.argwhere(whole)] == [(0, 1, 0, 2), (1, 0, 3, 1)]
    assert Rows((1, 0, 2), (2, 4, 3)).shape == ()
    assert len(Rows(None, (2, 4, 3)).indices) == 24
    with pytest.raises(UsageError, match="a tuple of 3 indices, class last"):
        Rows(1, (2, 4, 3))


def test_a_result_that_is_too_large_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        opened().jacobian(tiny.images(2), "conv", max_gb=1e-6)
    assert str(caught.value) == (
        "the Jacobian of 3 scores with respect to 'conv' for 2 samples takes 4.6e-06 GB, and "
        "max_gb is 1e-06. Give rows=, fewer samples, a layer with fewer values, or a larger max_gb."
    )


def test_files_and_layers_without_gradients() -> None:
    with pytest.raises(ModelFileError, match="has no gradients"):
        layertap.open(tiny.image_classifier().SerializeToString()).jacobian(tiny.images(1))
    with pytest.raises(LayerNotFoundError, match="has no gradient for 'pool'"):
        opened().jacobian(tiny.images(1), "pool")
