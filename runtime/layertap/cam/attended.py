"""Runs the model for a rollout of attention: the scores of all layers, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from layertap._cut.plan import MissingTensorError, places
from layertap.errors import LayerNotFoundError, ModelFileError, UsageError
from layertap.format.attention_rows import ATTENTION, attention_scores
from layertap.format.layer import Attention, Layer
from layertap.format.select import is_single
from layertap.format.text import shape_text

from . import available
from .evidence import Evidence, Gatherer
from .gradients import Differentiated, differentiate
from .methods import Method
from .rollout import of_patches
from .targets import Array, Target, Targets

if TYPE_CHECKING:
    from layertap._engine.program import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionGatherer(Gatherer):
    """Gathers the scores of attention layers; `layer` is the last of them."""

    rows: Sequence[Layer]
    """The layers of scores, in the order in which they run."""
    heads: str = "mean"
    """How `rollout` makes one matrix of those of all heads."""

    @property
    def label(self) -> str:
        """What the maps are of, for people."""
        return self.layer.name if len(self.rows) == 1 else ATTENTION

    @property
    def _tensors(self) -> list[str]:
        return [str(row.tensor) for row in self.rows]

    @property
    def _slopes(self) -> dict[str, str]:
        """The tensors of the gradients, by row."""
        gradients = available.require(self.program)
        return {row.name: gradients.tensors[row.name] for row in self.rows}

    def _evidence(self, feeds: Mapping[str, Any], target: Target | Targets) -> Evidence:
        if self.method.takes == "gradients":
            gradients = available.require(self.program)
            also = [*self._tensors, self.output]
            found = differentiate(
                self.program, gradients, feeds, self._slopes, also, target, self.at
            )
            targets, values = found.targets, found.values
            outputs = targets.read(self._values(values))

            def maps(sample: int) -> list[tuple[Any, ...]]:
                count = targets.weights.shape[1]
                return [(self._map(self._pairs(found, sample, at)),) for at in range(count)]

        else:
            wanted = dict.fromkeys([*self._tensors, self.output])
            values = self.program.fetch([*wanted])(feeds)
            targets, outputs = self._resolved(target, values)

            def maps(sample: int) -> list[tuple[Any, ...]]:
                one = self._map(self._by_head(values[name][sample]) for name in self._tensors)
                return [(one,)] * targets.weights.shape[1]

        for row in self.rows:
            self._check(row, np.shape(values[str(row.tensor)]), len(outputs))
        blank = np.zeros((len(outputs), *_grid(self.rows[0]), 1))
        return Evidence(blank, outputs, targets, maps)

    def _pairs(self, found: Differentiated, sample: int, at: int) -> Iterator[tuple[Array, Array]]:
        """Scores and gradients of each layer, for one target of a sample."""
        for row in self.rows:
            slope = found.of(row.name, at)[sample]
            yield self._by_head(found.values[str(row.tensor)][sample]), self._by_head(slope)

    def _by_head(self, values: Array) -> npt.NDArray[np.float64]:
        """The scores of one sample as `(heads, tokens, tokens)`, in float64."""
        scores = values.astype(np.float64)
        return scores if scores.ndim == 3 else scores[None]

    def _map(self, layers: Iterator[Any]) -> npt.NDArray[np.float64]:
        """The relevance of the patches, `(rows, columns)`."""
        options = {} if self.method.takes else {"heads": self.heads}
        attention = _attention(self.rows[0])
        return of_patches(
            self.method.compute(layers, **options), _grid(self.rows[0]), attention.first
        )

    def _check(self, row: Layer, shape: tuple[int, ...], samples: int) -> None:
        """Check that scores have as many tokens as the card says, and a row for each sample."""
        attention = _attention(row)
        rank, patches = (4 if attention.heads else 3), math.prod(_grid(row))
        fits = len(shape) == rank and shape[-1] == shape[-2] >= attention.first + patches
        if not fits or shape[0] != samples:
            expected = f"{attention.first} tokens and {patches} patches"
            raise ModelFileError(
                f"{self.program.name} is damaged: the scores of {row.name!r} have the shape "
                f"{shape}, but the card states {expected}. Export it again."
            )


def attention_gatherer(
    program: Program, layer: str | int | Layer | None, method: Method, **more: Any
) -> AttentionGatherer:
    """What gathers the scores for a rollout.

    Args:
        program: computes them.
        layer: `None` or `attention` for all layers of scores; or one of them, for itself.
        method: `rollout` or `gradientrollout`.
        more: the other fields.

    Raises:
        LayerNotFoundError: the file has no scores, or not those of every layer; or it has no
            gradient of some, and the method needs it.
        ModelFileError: the method needs gradients, and the file has none.
        UsageError: the layer is none of scores, or the scores are not those of one image's patches.
    """
    if layer is not None and is_single(program.layers, layer):
        row = program.layer(layer)
        if row.attention is None:
            raise UsageError(
                f"{method.name} joins the scores of all attention layers, and {row.name!r} is not "
                f"one of them. Leave out the layer; {ATTENTION!r} selects the same."
            )
        rows = [row]
    elif layer is None or layer == ATTENTION:
        rows = _all_rows(program, method)
    else:
        raise UsageError(f"{method.name} is for one layer of scores or for all, got {layer!r}.")
    for row in rows:
        _check_square(row, method)
    _check_same(rows, method)
    gather = AttentionGatherer(
        program=program, layer=rows[-1], method=method, rows=tuple(rows), **more
    )
    if method.takes == "gradients":
        known = available.require(program, gather.label).tensors
        if any(row.name not in known for row in rows):
            raise available.missing(program, known, gather.label)
    return gather


def _all_rows(program: Program, method: Method) -> list[Layer]:
    """The layers of scores over patches, in the order in which they run."""
    exposed = attention_scores(program.layers)
    rows = [row for row in program.layers if row.attention is not None]
    of_patches = [row for row in rows if _attention(row).grid is not None]
    if not of_patches:
        raise UsageError(
            f"{method.name} makes a map of an image, and {program.name} does not state that the "
            f"tokens of its {len(exposed)} attention layers are patches of one. "
            f"model.activations(x, {ATTENTION!r}) gives the scores."
        )
    for row in of_patches:
        if not row.exposed:
            reason = row.why_not or "this file does not expose them"
            raise LayerNotFoundError(
                f"{method.name} needs the scores of every attention layer, but {row.name!r} are "
                f"not available: {reason}. With the name of another layer of scores, it shows that "
                "layer alone."
            )
    try:
        order = places(program.graph, [str(row.tensor) for row in of_patches])
    except MissingTensorError as exc:
        raise program.missing_tensor(exc.tensor) from exc
    return sorted(of_patches, key=lambda row: order[str(row.tensor)])


def _check_square(row: Layer, method: Method) -> None:
    """Check that each query of a layer is a key, and that they are patches."""
    attention, (queries, keys) = _attention(row), row.shape[-2:]
    if attention.grid is None or queries != keys:
        raise UsageError(
            f"{method.name} needs attention among the patches of one image, but "
            f"{row.name!r} {shape_text(row.shape)} "
            + ("has other tokens." if attention.grid is None else "has other queries than keys.")
        )


def _check_same(rows: Sequence[Layer], method: Method) -> None:
    """Check that all layers have the same tokens."""
    first = rows[0]
    for row in rows:
        one, other = _attention(row), _attention(first)
        if (one.grid, one.first, row.shape[-1]) != (other.grid, other.first, first.shape[-1]):
            raise UsageError(
                f"{method.name} needs layers with the same tokens, but those of {first.name!r} "
                f"{shape_text(first.shape)} and {row.name!r} {shape_text(row.shape)} differ. Give "
                "one layer of scores."
            )


def _attention(row: Layer) -> Attention:
    assert row.attention is not None
    return row.attention


def _grid(row: Layer) -> tuple[int, int]:
    grid = _attention(row).grid
    assert grid is not None
    return grid
