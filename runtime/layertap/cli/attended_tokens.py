"""Which tokens the tokens of a text attend to, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap._model import Model
from layertap.errors import InputError, UsageError
from layertap.format.layer import Layer
from layertap.format.text import aligned, printable

BEST = 3
"""Number of keys that are printed for each query."""
MOST_QUERIES = 512
"""Most queries that are printed of a layer."""


def read_tokens(path: str) -> list[str]:
    """The texts of the tokens of a sequence, one a line.

    Raises:
        InputError: the file cannot be read, or is empty.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise InputError(f"--tokens {path!r} cannot be read: {reason}.") from exc
    lines = lines[:-1] if lines[-1] == "" else lines  # what follows the last line break
    if not lines:
        raise InputError(f"--tokens {path!r} is empty: give one token a line.")
    return lines


def attended(
    model: Model, results: Mapping[str, NDArray[Any]], tokens: Sequence[str] | None
) -> str | None:
    """The keys that each query of the first sample attends to most, in the mean over the heads.

    Args:
        model: says which results are scores.
        results: by layer, of a batch.
        tokens: the texts of the tokens; further positions are not printed.

    Returns:
        `None` if no result is scores of attention among tokens of a text.

    Raises:
        UsageError: tokens are given, and there is nothing to print, or for several samples.
    """
    rows = {layer.name: layer for layer in model.layers if layer.attention is not None}
    texts = {name: value for name, value in results.items() if _is_text(rows.get(name), value)}
    if tokens is not None and not texts:
        raise UsageError(
            "--tokens names the tokens of a text, for the scores of attention: give --layers "
            "attention, or the name of a layer of scores without patches of an image."
        )
    if tokens is not None and any(len(value) != 1 for value in texts.values()):
        raise UsageError("--tokens names the tokens of one sample, got a batch of several.")
    blocks = []
    for name, value in texts.items():
        which = f", the first of {len(value)} samples" if len(value) > 1 else ""
        blocks.append(f"{printable(name)}{which}\n{_table(value[0], tokens)}")
    return "\n\n".join(blocks) or None


def _is_text(row: Layer | None, value: NDArray[Any]) -> bool:
    if row is None or row.attention is None or row.attention.grid is not None:
        return False
    return np.ndim(value) == (4 if row.attention.heads else 3) and 0 not in value.shape


def _table(scores: NDArray[Any], tokens: Sequence[str] | None) -> str:
    """The table of one sample, with scores `(heads, queries, keys)` or `(queries, keys)`."""
    mean = scores.astype(np.float64)
    mean = mean.mean(axis=0) if mean.ndim == 3 else mean
    if tokens is not None:
        mean = mean[: len(tokens), : len(tokens)]
    best = np.argsort(-mean, axis=-1, kind="stable")[:MOST_QUERIES, :BEST]
    lines = [("query", "attends to")]
    for query, keys in enumerate(best):
        read = ", ".join(f"{_place(key, tokens)} {mean[query, key]:.3f}" for key in keys)
        lines.append((_place(query, tokens), read))
    left = len(mean) - len(best)
    return aligned(lines) + (f"\nand {left} more" if left > 0 else "")


def _place(at: int, tokens: Sequence[str] | None) -> str:
    return str(at) if tokens is None else f"{at} {printable(tokens[at])}"
