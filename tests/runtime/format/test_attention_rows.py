"""What the scores of attention cost, and which tokens a heat map explains."""

from __future__ import annotations

from dataclasses import replace

import pytest

from generators.tiny import layer
from layertap.format.attention_rows import last_tokens, price
from layertap.format.layer import Attention, Layer, Tokens

GRID = (2, 2)


def tokens(index: int, name: str, kind: str, inbound: str = "", parent: str | None = None) -> Layer:
    row = layer(index, name, kind, (None, 5, 8), inbound)
    return replace(row, parent=parent, tokens=Tokens(grid=GRID, first=1))


def scores(
    index: int, of: str, inbound: str, keys: int | None = 5, grid: tuple[int, int] | None = GRID
) -> Layer:
    row = layer(index, f"{of}/attention_scores", "AttentionScores", (None, 2, keys, keys), inbound)
    return replace(row, parent=of, attention=Attention(of=of, heads=2, grid=grid, first=1))


FLAT = [
    tokens(0, "embedding", "Embedding"),
    tokens(1, "norm1", "LayerNormalization", "embedding"),
    tokens(2, "mha", "MultiHeadAttention", "norm1 norm1"),
    tokens(3, "add", "Add", "embedding mha"),
    tokens(4, "norm", "LayerNormalization", "add"),
    layer(5, "probs", "Dense", (None, 3), "norm"),
]


def test_what_the_last_attention_reads_is_explained() -> None:
    found = last_tokens([*FLAT, scores(6, "mha", "norm1 norm1")])
    assert found is not None
    assert found.name == "norm1"


def test_layers_inside_of_a_block_are_found_by_their_order() -> None:
    block = [
        tokens(0, "embedding", "Embedding"),
        tokens(1, "block", "Block", "embedding"),
        tokens(2, "block/norm1", "LayerNormalization", "", "block"),
        tokens(3, "block/mha", "MultiHeadAttention", "", "block"),
        tokens(4, "block/add", "Add", "", "block"),
        scores(5, "block/mha", ""),
    ]
    found = last_tokens(block)
    assert found is not None
    assert found.name == "block/norm1"
    found = last_tokens([row for row in block if row.name != "block/norm1"])
    assert found is not None
    assert found.name == "embedding"  # not the block, which ends after its attention


def test_without_attention_the_last_tokens_are_explained() -> None:
    found = last_tokens(FLAT)
    assert found is not None
    assert found.name == "norm"
    assert last_tokens([replace(row, tokens=None) for row in FLAT]) is None
    text = scores(6, "mha", "norm1", grid=None)  # attention among other tokens
    found = last_tokens([*FLAT, text])
    assert found is not None
    assert found.name == "norm"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (5, "1 layer of attention scores, 0.000200 MB a sample: not in `all`; --layers attention"),
        (None, "1 layer of attention scores, of a free size: not in `all`; --layers attention"),
    ],
)
def test_the_price_of_scores(keys: int | None, expected: str) -> None:
    assert price([*FLAT, scores(6, "mha", "", keys)]) == expected  # 2 x 5 x 5 x 4 bytes
    assert price(FLAT) is None
