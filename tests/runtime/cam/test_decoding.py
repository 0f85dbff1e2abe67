"""Predictions as names of classes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import layertap
from generators import tiny
from layertap.errors import UsageError

SCORES = np.array([[0.1, 0.7, 0.2], [0.4, 0.4, 0.2]], np.float32)


def opened(classes: int, labels: tuple[str, ...] | None, final: str = "Identity") -> layertap.Model:
    """A model with one layer of scores, `(n, classes)`."""
    made = tiny.model(
        [tiny.node(final, "x", "y")],
        [tiny.value("x", ["batch", classes])],
        [tiny.value("y", ["batch", classes])],
        card=tiny.card(
            [tiny.layer(0, "y", "Activation", (None, classes))],
            {"x": (None, classes)},
            {"y": (None, classes)},
            labels=labels,
        ),
    )
    return layertap.open(made.SerializeToString())


ANIMALS = opened(3, ("cat", "dog", "bird"))


def test_the_best_classes_come_first_and_equal_ones_in_order() -> None:
    assert ANIMALS.decode(ANIMALS.predict(SCORES), top=2) == [
        [("dog", float(SCORES[0, 1])), ("bird", float(SCORES[0, 2]))],
        [("cat", float(SCORES[1, 0])), ("dog", float(SCORES[1, 1]))],
    ]
    assert [len(one) for one in ANIMALS.decode(SCORES.tolist())] == [3, 3]
    assert ANIMALS.decode(np.array([[1, 3, 2]])) == [[("dog", 3.0), ("bird", 2.0), ("cat", 1.0)]]
    assert ANIMALS.decode(SCORES[:0]) == []


def test_without_labels_the_names_are_numbers() -> None:
    assert opened(3, None).decode(SCORES[:1], top=1) == [[("1", float(SCORES[0, 1]))]]


@pytest.mark.parametrize(
    ("final", "negative"), [("Sigmoid", lambda p: 1 - p), ("Identity", lambda p: -p)]
)
def test_one_score_of_two_labels_is_both_classes(final: str, negative: Any) -> None:
    model = opened(1, ("healthy", "ill"), final)
    scores = model.predict(np.array([[-2.0], [3.0]], np.float32))
    healthy, ill = negative(scores), scores
    assert model.decode(scores) == [
        [("healthy", float(healthy[0, 0])), ("ill", float(ill[0, 0]))],
        [("ill", float(ill[1, 0])), ("healthy", float(healthy[1, 0]))],
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            np.zeros((2, 5)),
            "the scores are of 5 classes, but the model has 3 labels. Give what predict returned.",
        ),
        (
            {"y": SCORES},
            "decode takes the scores of one output, got a dict of 'y'. Give one of them.",
        ),
        (
            SCORES[0],
            "decode takes scores as predict returns them, an array (samples, classes), got an "
            "array of shape (3,) and dtype float32.",
        ),
        (
            SCORES.astype(str),
            "decode takes scores as predict returns them, an array (samples, classes), got an "
            "array of shape (2, 3) and dtype <U32.",
        ),
        (
            [[1], [1, 2]],
            "decode takes scores as predict returns them, an array (samples, classes), got a list.",
        ),
    ],
)
def test_what_are_no_scores(given: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        ANIMALS.decode(given)
    assert str(caught.value) == message


def test_top_is_at_least_one() -> None:
    with pytest.raises(UsageError, match=r"^top must be at least 1, got 0\.$"):
        ANIMALS.decode(SCORES, top=0)


@pytest.mark.tensorflow
def test_equals_decode_predictions_of_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from keras.src.applications import imagenet_utils
    names = [f"class {number}" for number in range(1000)]
    index = {str(number): [f"n{number}", name] for number, name in enumerate(names)}
    monkeypatch.setattr(imagenet_utils, "CLASS_INDEX", index)
    scores = np.random.default_rng(0).random((4, 1000), np.float32)
    expected = [
        [(name, float(score)) for _, name, score in row]
        for row in imagenet_utils.decode_predictions(scores, top=7)
    ]
    assert opened(1000, tuple(names)).decode(scores, top=7) == expected
