"""What a caller may say a heat map is for, and what it means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from layertap.cam import targets
from layertap.errors import UsageError

LABELS = ("cat", "dog", "bird", "Edema")
SCORES = np.array([[0.1, 0.7, 0.2, 0.3], [0.9, 0.2, 0.3, 0.4]])


def resolve(target: Any, **options: Any) -> targets.Targets:
    given = {"samples": 2, "classes": 4, "labels": LABELS, "values": SCORES}
    return targets.resolve(target, **{**given, **options})


@pytest.mark.parametrize(
    ("target", "classes", "several"),
    [
        ("dog", [[1], [1]], False),
        (2, [[2], [2]], False),
        (-1, [[3], [3]], False),
        (np.int64(2), [[2], [2]], False),
        (np.str_("cat"), [[0], [0]], False),
        ("top", [[1], [0]], False),
        (["dog"], [[1], [1]], True),
        (["dog", -4, "top"], [[1, 0, 1], [1, 0, 0]], True),
        (("bird", "bird"), [[2, 2], [2, 2]], True),
        (np.array([3, 1]), [[3, 1], [3, 1]], True),
        ([["dog"], ["Edema"]], [[1], [3]], True),
        ([["dog", "top"], ["top", 3]], [[1, 1], [0, 3]], True),
        ([np.array([1, 2]), (0, 3)], [[1, 2], [0, 3]], True),
    ],
)
def test_a_target_is_one_class_per_image_and_target(
    target: Any, classes: list[list[int]], several: bool
) -> None:
    found = resolve(target)
    assert found.classes is not None
    assert found.classes.tolist() == classes
    assert found.weights.dtype == np.float32
    assert found.weights.tolist() == np.eye(4)[classes].tolist()
    assert found.several is several


@pytest.mark.parametrize(
    ("shape", "wanted", "several"),
    [((4,), (2, 1, 4), False), ((2, 4), (2, 1, 4), False), ((2, 3, 4), (2, 3, 4), True)],
)
def test_mixes_of_classes(shape: tuple[int, ...], wanted: tuple[int, ...], several: bool) -> None:
    target = np.random.default_rng(0).normal(size=shape)
    found = resolve(target)
    assert found.classes is None
    assert found.weights.shape == wanted
    expected = np.broadcast_to(target.reshape(-1, *wanted[1:]), wanted)
    np.testing.assert_array_equal(found.weights, expected.astype(np.float32))
    assert found.several is several


def test_the_scores_of_targets() -> None:
    assert resolve(["dog", "top"]).scores(SCORES).tolist() == [
        [np.float32(0.7), np.float32(0.7)],
        [np.float32(0.2), np.float32(0.9)],
    ]
    mixed = resolve(np.array([1.0, -1.0, 0, 0])).scores(SCORES)
    np.testing.assert_allclose(mixed, [[-0.6], [0.7]], rtol=1e-6)


def test_when_the_scores_must_be_known() -> None:
    of_scores: list[Any] = ["top", ["dog", "top"], [["dog"], ["top"]]]
    for target in of_scores:
        assert targets.needs_scores(target, LABELS)
    known: list[Any] = ["dog", 3, ["dog", 1], [["dog"], [1]], np.ones(4)]
    for target in known:
        assert not targets.needs_scores(target, LABELS)


def test_a_class_that_is_called_top() -> None:
    labels = ("left", "top")
    assert not targets.needs_scores(["top"], labels)
    found = resolve("top", classes=2, labels=labels, values=None)
    assert found.classes is not None
    assert found.classes.tolist() == [[1], [1]]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "edema",
            "no class is called 'edema'; there are 4, 'cat', 'dog', 'bird', ... Did you mean "
            "'Edema'?",
        ),
        (["dog", "xyz"], "no class is called 'xyz'; there are 4, 'cat', 'dog', 'bird', ..."),
        (4, "class 4 is out of range: the output has 4, 0 to 3."),
        ([0, -5], "class -5 is out of range: the output has 4, 0 to 3."),
        (
            1.0,
            "1.0 is not a valid target. Give a label or an index, or 'top'; or weights of the "
            "classes as an array.",
        ),
        (
            True,
            "True is not a valid target. Give a label or an index, or 'top'; or weights of the "
            "classes as an array.",
        ),
        (
            [[0.5, 0.5, 0, 0], [1, 0, 0, 0]],
            "0.5 is not a valid target. Give a label or an index, or 'top'; or weights of the "
            "classes as an array.",
        ),
        ([], "the list of targets is empty. Give labels or indices of classes, or 'top'."),
        (
            ["dog", ["cat"]],
            "the list of targets contains both targets and lists of targets. Give targets, which "
            "apply to all images, or one list for each image.",
        ),
        (
            [["dog"], ["cat"], ["bird"]],
            "expected lists of targets for 2 images, got 3.",
        ),
        (
            [["dog"], ["cat", "bird"]],
            "every image must have the same number of targets, at least one; the lists have 1, 2.",
        ),
        (
            [[], []],
            "every image must have the same number of targets, at least one; the lists have 0, 0.",
        ),
        (
            np.eye(4, dtype=int),
            "an array of dtype int64 and shape (4, 4) is not a valid target. Weights of the "
            "classes must be floats; give the indices of several classes as a list.",
        ),
        (
            np.ones((3, 4)),
            "weights of the classes must have shape (4,), (2, 4) or (2, targets, 4), got (3, 4).",
        ),
        (
            np.ones(3),
            "weights of the classes must have shape (4,), (2, 4) or (2, targets, 4), got (3,).",
        ),
        (
            np.array([0, np.nan, 1, 0]),
            "the weights of the scores have a value that is not finite in float32.",
        ),
        (
            np.array([0, 1e39, 1, 0]),
            "the weights of the scores have a value that is not finite in float32.",
        ),
    ],
)
def test_invalid_targets_are_refused(target: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(target)
    assert str(caught.value) == message


def test_one_image_is_one() -> None:
    with pytest.raises(UsageError, match=r"for 1 image, got 2\.$"):
        resolve([["dog"], ["cat"]], samples=1)


@pytest.mark.parametrize("labels", [None, ("a", "b")])
def test_a_file_whose_labels_do_not_help(labels: tuple[str, ...] | None) -> None:
    """It has none, or not as many as the output has classes."""
    with pytest.raises(UsageError) as caught:
        resolve("a", labels=labels)
    assert str(caught.value) == (
        "unknown class 'a': the file has no labels. Give an index, 0 to 3, or 'top'."
    )


def test_few_labels_are_all_named() -> None:
    with pytest.raises(UsageError) as caught:
        resolve("c", classes=2, labels=("a", "b"))
    assert str(caught.value) == "no class is called 'c'; there are 'a', 'b'."
