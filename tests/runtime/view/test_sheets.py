"""What sheets of tokens and of attention show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import layertap
from generators import transformers
from generators.transformers import GRID, HEADS, TOKENS
from layertap._engine.program import Program, program_of
from layertap.errors import UsageError
from layertap.format.layer import Attention
from layertap.view.sheets import sheet_maps

SCORES = "1/mha/attention_scores"
X = np.random.default_rng(0).random((2, 6, 8, 3)).astype(np.float32)


def opened(first: int, after: int) -> layertap.Model:
    made = transformers.vision_transformer(first=first, after=after)
    return layertap.open(made.SerializeToString())


@pytest.mark.parametrize(
    ("first", "after", "reader"),
    [
        (1, 0, "token 0"),
        (3, 0, "token 0"),
        (0, 1, "token 12"),
        (0, 0, "all tokens, their mean,"),
    ],
)
def test_patches_as_the_class_token_reads_them(first: int, after: int, reader: str) -> None:
    model = opened(first, after)
    values = model.activations(X, SCORES)
    shown = sheet_maps(program_of(model), "scores", SCORES, values)
    assert shown is not None
    assert shown.caption == f"scores: 2 heads; what {reader} reads of 3 x 4 patches"
    row = {"token 0": 0, "token 12": 12}.get(reader)
    for head in range(HEADS):
        one = values[1, head]
        seen = one.mean(axis=0) if row is None else one[row]
        expected = seen[first : first + TOKENS].reshape(GRID)
        np.testing.assert_allclose(shown.values[1, :, :, head], expected, rtol=1e-6)


def test_tokens_are_shown_as_feature_maps() -> None:
    model = opened(2, 1)
    values = model.activations(X, "norm")
    shown = sheet_maps(program_of(model), "norm", "norm", values)
    assert shown is not None
    assert shown.caption == "norm: 3 x 4, 8 channels"
    np.testing.assert_array_equal(shown.values, values[:, 2:14].reshape(2, 3, 4, 8))


def test_a_text_has_a_matrix_for_each_head() -> None:
    model = layertap.open(transformers.text_transformer().SerializeToString())
    x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    values = model.activations(x, SCORES)
    shown = sheet_maps(program_of(model), "scores", SCORES, values)
    assert shown is not None
    assert shown.caption == (
        "scores: 2 heads; queries 0 to 4 from top to bottom, keys 0 to 4 from left to right"
    )
    np.testing.assert_array_equal(shown.values, values.transpose(0, 2, 3, 1))


def other(program: Program, **changes: Any) -> Any:
    """A program whose first row of scores is changed."""
    rows = tuple(
        replace(row, attention=Attention(of="mha", **changes)) if row.name == SCORES else row
        for row in program.layers
    )

    class Changed:
        layers = rows

    return Changed()


def test_scores_without_heads_and_over_several_axes() -> None:
    program = program_of(opened(1, 0))
    values = np.random.default_rng(0).random((1, 4, 5))
    shown = sheet_maps(other(program, heads=0), "s", SCORES, values)
    assert shown is not None
    assert shown.values.shape == (1, 4, 5, 1)
    assert "1 head; queries 0 to 3" in shown.caption
    values = np.random.default_rng(0).random((1, 2, 3, 4, 3, 4))  # attention over two axes
    shown = sheet_maps(other(program, heads=2), "s", SCORES, values)
    assert shown is not None
    assert shown.values.shape == (1, 12, 12, 2)
    assert shown.values[0, 5, 7, 1] == values[0, 1, 1, 1, 1, 3]


def test_a_reduction_of_scores_is_no_map() -> None:
    program = program_of(opened(1, 0))
    assert sheet_maps(program, "s", SCORES, np.ones((2, 2))) is None
    assert sheet_maps(program, "norm", "norm", np.ones((2, 8))) is None


def test_heads_are_drawn_in_their_order() -> None:
    model = opened(1, 0)
    whole = model.sheet(X[:1], SCORES)
    assert whole.size == model.sheet(X[:1], SCORES, channels=[0, 1]).size
    np.testing.assert_array_equal(whole, model.sheet(X[:1], SCORES, channels=[0, 1]))
    assert model.sheet(X[:1], SCORES, count=1).width < whole.width
    with pytest.raises(UsageError, match="channel 2 does not exist: the layer has 2, 0 to 1"):
        model.sheet(X[:1], SCORES, channels=[2])
