"""Small transformers as ONNX files, with the scores of their attention; and in numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from generators.tiny import card, constant, layer, model, node, value, weights
from layertap.format.layer import Attention, Layer, Tokens
from layertap_export import add_gradients

GRID = (3, 4)
"""Rows and columns of patches, of 2 x 2 pixels."""
WIDTH, HEADS, BLOCKS, CLASSES = 8, 2, 2, 3
TOKENS = GRID[0] * GRID[1]


def vision_transformer(*, first: int = 1, after: int = 0, scores: bool = True) -> onnx.ModelProto:
    """Images (n, 6, 8, 3) -> patches -> `first` tokens before them and `after` behind -> two blocks
    of attention -> norm -> the first token, or the mean of all -> probs, of three classes.

    Args:
        first: number of tokens before the patches.
        after: number of tokens after them.
        scores: whether the card has rows of scores, as since format 1.4.
    """
    length = first + TOKENS + after
    nodes = [
        node("Transpose", "image", "pixels", perm=[0, 3, 1, 2]),
        node("Conv", "pixels patch/w", "patch_nchw", kernel_shape=[2, 2], strides=[2, 2]),
        node("Transpose", "patch_nchw", "patch", perm=[0, 2, 3, 1]),
        node("Reshape", "patch as_tokens", "sequence"),
        node("Shape", "image", "batch", start=0, end=1),
    ]
    parts, whole = [], "sequence"
    for name, count in (("before", first), ("after", after)):
        if count:
            nodes.append(node("Concat", f"batch {name}/shape", f"{name}/size", axis=0))
            nodes.append(node("Expand", f"{name}/w {name}/size", name))
            parts.append(constant(f"{name}/shape", [count, WIDTH]))
            parts.append(weights(f"{name}/w", 1, count, WIDTH))
            order = f"{name} {whole}" if name == "before" else f"{whole} {name}"
            nodes.append(node("Concat", order, f"with_{name}", axis=1))
            whole = f"with_{name}"
    nodes.append(node("Add", f"{whole} position", "embedding"))
    rows = [
        layer(0, "image", "InputLayer", (None, 6, 8, 3)),
        _with(layer(1, "patch", "Conv2D", (None, *GRID, WIDTH), "image", 96), axes="NHWC"),
        _tokens(layer(2, "embedding", "Embedding", (None, length, WIDTH), "patch"), first),
    ]
    before = _append_blocks(nodes, rows, "embedding", length, lambda row: _tokens(row, first))
    nodes += [
        node("LayerNormalization", f"{before} norm/w norm/b", "norm", axis=-1),
        node("Gather", "norm zero", "head", axis=1)
        if first
        else node("ReduceMean", "norm one_axis", "head", keepdims=0),
        node("MatMul", "head dense", "logits"),
        node("Softmax", "logits", "probs", axis=-1),
    ]
    rows.append(
        _tokens(
            layer(len(rows), "norm", "LayerNormalization", (None, length, WIDTH), before), first
        )
    )
    rows.append(layer(len(rows), "head", "Lambda", (None, WIDTH), "norm"))
    rows.append(layer(len(rows), "probs", "Dense", (None, CLASSES), "head", 24))
    if scores:
        rows += [_scores(len(rows) + at, str(at), length, first, GRID) for at in range(BLOCKS)]
    return model(
        nodes,
        [value("image", ["batch", 6, 8, 3])],
        [value(str(row.tensor), ["batch", *row.shape[1:]]) for row in rows[1:]],
        [
            *parts,
            weights("patch/w", WIDTH, 3, 2, 2, fan_in=4),
            weights("position", 1, length, WIDTH),
            weights("norm/w", WIDTH),
            weights("norm/b", WIDTH),
            weights("dense", WIDTH, CLASSES),
            constant("as_tokens", [0, TOKENS, WIDTH]),
            constant("zero", 0),
            constant("one_axis", [1]),
            *_shared(),
            *(made for block in range(BLOCKS) for made in _weights(str(block))),
        ],
        card=card(
            rows,
            {"image": (None, 6, 8, 3)},
            {"probs": (None, CLASSES)},
            labels=("cat", "dog", "bird"),
            preprocessing={"size": [6, 8], "scaling": {"mode": "rescale", "scale": 1 / 255}},
        ),
    )


def text_transformer(length: int | None = 5) -> onnx.ModelProto:
    """Vectors of tokens (n, length, 8) -> two blocks of attention, without a grid."""
    rows = [_with(layer(0, "vectors", "InputLayer", (None, length, WIDTH)), axes="NTC")]
    nodes: list[onnx.NodeProto] = []
    before = _append_blocks(nodes, rows, "vectors", length, lambda row: _with(row, axes="NTC"))
    rows += [_scores(len(rows) + at, str(at), length, 0, None) for at in range(BLOCKS)]
    sizes = {row.name: [size or "length" for size in row.shape[1:]] for row in rows}
    return model(
        nodes,
        [value("vectors", ["batch", length or "length", WIDTH])],
        [value(row.name, ["batch", *sizes[row.name]]) for row in rows[1:]],
        [*_shared(), *(made for block in range(BLOCKS) for made in _weights(str(block)))],
        card=card(rows, {"vectors": (None, length, WIDTH)}, {before: (None, length, WIDTH)}),
    )


def _with(row: Layer, **more: Any) -> Layer:
    return replace(row, **more)


def _tokens(row: Layer, first: int) -> Layer:
    return _with(row, axes="NTC", tokens=Tokens(grid=GRID, first=first))


def _scores(
    index: int, block: str, length: int | None, first: int, grid: tuple[int, int] | None
) -> Layer:
    return _with(
        layer(
            index,
            f"{block}/mha/attention_scores",
            "AttentionScores",
            (None, HEADS, length, length),
            f"{block}/norm1 {block}/norm1",
        ),
        axes="N???",
        parent=f"{block}/mha",
        attention=Attention(of=f"{block}/mha", heads=HEADS, grid=grid, first=first),
    )


def _append_blocks(
    nodes: list[onnx.NodeProto],
    rows: list[Layer],
    before: str,
    length: int | None,
    known: Callable[[Layer], Layer],
) -> str:
    """Append all blocks, and their rows with what is `known` of them; return the last tensor."""
    for block in map(str, range(BLOCKS)):
        nodes += _block(block, before)
        for name, kind, inbound in (
            ("norm1", "LayerNormalization", before),
            ("mha", "MultiHeadAttention", f"{block}/norm1 {block}/norm1"),
            ("add", "Add", f"{before} {block}/mha"),
        ):
            made = layer(len(rows), f"{block}/{name}", kind, (None, length, WIDTH), inbound)
            rows.append(known(made))
        before = f"{block}/add"
    return before


def _block(block: str, before: str) -> list[onnx.NodeProto]:
    scores = f"{block}/mha/attention_scores"
    nodes = [
        node(
            "LayerNormalization",
            f"{before} {block}/norm1/w {block}/norm1/b",
            f"{block}/norm1",
            axis=-1,
        )
    ]
    for part in "qkv":
        nodes.append(node("MatMul", f"{block}/norm1 {block}/{part}/w", f"{block}/{part}/flat"))
        nodes.append(node("Reshape", f"{block}/{part}/flat by_head", f"{block}/{part}/heads"))
        order = [0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]
        nodes.append(node("Transpose", f"{block}/{part}/heads", f"{block}/{part}", perm=order))
    return [
        *nodes,
        node("MatMul", f"{block}/q {block}/k", f"{block}/products"),
        node("Mul", f"{block}/products scale", f"{block}/scaled"),
        node("Softmax", f"{block}/scaled", scores, axis=-1),
        node("MatMul", f"{scores} {block}/v", f"{block}/mixed"),
        node("Transpose", f"{block}/mixed", f"{block}/turned", perm=[0, 2, 1, 3]),
        node("Reshape", f"{block}/turned joined", f"{block}/joined"),
        node("MatMul", f"{block}/joined {block}/o/w", f"{block}/mha"),
        node("Add", f"{before} {block}/mha", f"{block}/add"),
    ]


def _weights(block: str) -> list[onnx.TensorProto]:
    return [
        weights(f"{block}/norm1/w", WIDTH),
        weights(f"{block}/norm1/b", WIDTH),
        *(weights(f"{block}/{part}/w", WIDTH, WIDTH, fan_in=2) for part in "qkvo"),
    ]


def _shared() -> list[onnx.TensorProto]:
    return [
        constant("by_head", [0, 0, HEADS, WIDTH // HEADS]),
        constant("joined", [0, 0, WIDTH]),
        constant("scale", (WIDTH // HEADS) ** -0.5, np.float32),
    ]


def with_gradients(made: onnx.ModelProto, folder: Path, layers: Any) -> Path:
    """The file with gradients of the logits at some layers."""
    source = folder / "without.onnx"
    source.write_bytes(made.SerializeToString())
    target = folder / "with.onnx"
    add_gradients(source, target, layers, seconds=0)
    return target


class InNumpy:
    """`vision_transformer` in float64, with any of its attention scores replaced."""

    def __init__(self, made: onnx.ModelProto, first: int = 1) -> None:
        self.first = first
        self._weights = {
            item.name: numpy_helper.to_array(item).astype(np.float64)
            for item in made.graph.initializer
        }

    def __call__(
        self, image: Any, scores: Mapping[int, Any] | None = None
    ) -> tuple[Any, list[Any]]:
        """The logits (3,) of one image (6, 8, 3), and the scores (heads, tokens, tokens) by block.

        Args:
            scores: used instead of the computed ones, by block.
        """
        w = self._weights
        rows, columns = GRID
        blocks = image.reshape(rows, 2, columns, 2, 3).transpose(0, 2, 4, 1, 3)
        x = blocks.reshape(TOKENS, 12) @ w["patch/w"].reshape(WIDTH, 12).T
        none = np.zeros((1, 0, WIDTH))
        x = np.concatenate([w.get("before/w", none)[0], x, w.get("after/w", none)[0]])
        x = x + w["position"][0]
        found = []
        for block in range(BLOCKS):
            normal = _normalised(x, w[f"{block}/norm1/w"], w[f"{block}/norm1/b"])
            q, k, v = (
                (normal @ w[f"{block}/{part}/w"]).reshape(len(x), HEADS, -1).transpose(1, 0, 2)
                for part in "qkv"
            )
            powers = np.exp(q @ k.transpose(0, 2, 1) * (WIDTH // HEADS) ** -0.5)
            attention = powers / powers.sum(axis=-1, keepdims=True)
            attention = (scores or {}).get(block, attention)
            found.append(attention)
            x = x + (attention @ v).transpose(1, 0, 2).reshape(len(x), WIDTH) @ w[f"{block}/o/w"]
        last = _normalised(x, w["norm/w"], w["norm/b"])
        return (last[0] if self.first else last.mean(axis=0)) @ w["dense"], found


def _normalised(x: Any, scale: Any, bias: Any) -> Any:
    variance = x.var(axis=-1, keepdims=True)
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(variance + 1e-5) * scale + bias
