"""Running a network many times with some of its tensors changed, such as one layer.

The part before these tensors is computed once for the whole batch of images. The part after them is
computed for many changed copies of one image's tensors at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from layertap._cut import boundary
from layertap._cut.plan import peel, view
from layertap.errors import UsageError

from .axes import copies, has_rows, laid_out, sample_axis
from .scores import Scores
from .targets import Targets

if TYPE_CHECKING:
    from layertap._engine.program import Program

Array = npt.NDArray[Any]

Change = Callable[[Mapping[str, Array], int], "Mapping[str, Array] | None"]
"""From the values of one image, `(h, w, c)` by tensor, and a try to the new values. A tensor that
is missing stays as it is; `None` skips the try."""


class IndependentScoresError(UsageError):
    """The scores do not depend on what is changed."""


class Perturbation:
    """Scores of one batch of images with tensors changed."""

    def __init__(
        self,
        program: Program,
        tensors: Mapping[str, str],
        scores: Scores,
        feeds: Mapping[str, Any],
        also: Sequence[str] = (),
    ) -> None:
        """Run the network once, as far as the tensors and `also` need.

        Args:
            tensors: the tensor of a layer, or inputs, with their names in messages.
            feeds: values by input name, `(n, ...)`.
            also: further tensors to fetch in the same run, into `values`.

        Raises:
            IndependentScoresError: the scores do not depend on a tensor.
        """
        graph = program.graph
        self._program = program
        self._scores = scores
        self._feeds = feeds
        self._leaves = peel(graph, [*tensors])
        sources = tuple(self._leaves[tensor].source for tensor in tensors)
        plan = program.plan(scores.tensors, sources, scores.appended)
        for tensor, name in tensors.items():
            if self._leaves[tensor].source not in (*plan.starts, *plan.inputs):
                raise IndependentScoresError(f"the scores do not depend on {name!r}.")
        bypassing = sorted(boundary.bypassing(graph, plan, set(sources)))
        self._given = (*sources, *bypassing)
        wanted = [*also, *scores.tensors, *self._given]
        self._before = program.fetch([*dict.fromkeys(wanted)], appended=scores.appended)
        self.values = self._before(feeds)
        """The values of the fetched tensors, `(n, ...)`."""
        self.whole = scores.read(self.values)
        """The scores without a change, `(n, ..., classes)`."""
        inputs = (name for name in sources if name in graph.inputs)
        self._fixed = next((size for name in inputs if (size := self._rows(name))), None)
        values = {**feeds, **self.values}
        self._after = program.fetch(scores.tensors, values, self._given, scores.appended)

    def seen(self, tensor: str) -> Array:
        """The values of a changed tensor, `(n, h, w, c)`; `(n, ...)` if it has no channels."""
        return self._view(tensor, self.values)

    def scores(
        self,
        sample: int,
        tries: Sequence[int],
        change: Change,
        batch_size: int,
        targets: Targets,
    ) -> npt.NDArray[np.float64]:
        """The scores of the targets in each try, `(tries, targets)`. NaN for skipped tries.

        Args:
            sample: index of the image in the batch.
            tries: what `change` is called with, one after the other.
            batch_size: number of copies per run, which are in memory together; a file that states
                the size of its batches has that.
            targets: those of the batch.
        """
        wholes = {tensor: self.seen(tensor)[sample] for tensor in self._leaves}
        size = self._fixed or max(1, min(batch_size, len(tries)))
        feeds = self._copies(sample, size)
        changed = {tensor: self._view(tensor, feeds) for tensor in self._leaves}
        weights = targets.weights[sample].astype(np.float64)
        found = np.full((len(tries), len(weights)), np.nan)
        waiting: list[int] = []
        for at, one in enumerate(tries):
            values = change(wholes, one)
            if values is not None:
                for tensor, whole in wholes.items():
                    changed[tensor][len(waiting)] = values.get(tensor, whole)
                waiting.append(at)
            if waiting and (len(waiting) == size or at == len(tries) - 1):
                # The last copies may be stale: computing them is cheaper than another shape.
                scores = targets.read(self._scores.read(self._after(feeds))[: len(waiting)])
                found[waiting] = scores @ weights.T
                waiting = []
        return found

    def _rows(self, name: str) -> int | None:
        """The number of samples that an input always has; `None` for any."""
        dims = self._program.graph.inputs[name].dims
        size = dims[sample_axis(self._program, name, len(dims))] if dims else None
        return size if isinstance(size, int) else None

    def _view(self, tensor: str, values: Mapping[str, Any]) -> Array:
        """A tensor, `(n, h, w, c)`, as a view of its source."""
        leaf = self._leaves[tensor]
        return laid_out(self._program, tensor, view(values[leaf.source], leaf.perms))

    def _copies(self, sample: int, size: int) -> dict[str, Any]:
        """All inputs of the second half, for `size` copies of one image."""
        source = self.values[self._given[0]]
        samples = source.shape[sample_axis(self._program, self._given[0], source.ndim)]
        values = {name: self.values[name] for name in self._given}
        if all(self._is_batch(name, value, samples) for name, value in values.items()):
            return copies(self._program, values, sample, samples, size)
        # A tensor (a shape, perhaps) depends on the batch but has no axis for it.
        values = self._before(copies(self._program, self._feeds, sample, samples, size))
        return {name: np.array(values[name]) for name in self._given}

    def _is_batch(self, name: str, value: Any, samples: int) -> bool:
        """Whether a tensor has one row per image, or one row for all of them."""
        if name in self._feeds:
            return True
        axis = sample_axis(self._program, name, np.ndim(value))
        return value.dtype.kind == "f" and any(has_rows(value, row, axis) for row in {1, samples})
