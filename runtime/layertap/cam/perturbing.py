"""Running a network many times with one of its tensors changed.

The part before that tensor is computed once for the whole batch of images. The part after it is
computed for many changed copies of one image's tensor at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from layertap._cut import boundary
from layertap._cut.plan import peel, view
from layertap.errors import UsageError

from .axes import channels_last, copies, has_rows, sample_axis
from .scores import Scores

if TYPE_CHECKING:
    from layertap._engine.program import Program

Array = npt.NDArray[Any]

Change = Callable[[Array, int], "Array | None"]
"""From the old value of a copy, `(h, w, c)`, and a channel, to the new value; `None` to skip the
channel."""


class Perturbation:
    """Scores of one batch of images with a tensor changed."""

    def __init__(
        self,
        program: Program,
        tensor: str,
        name: str,
        scores: Scores,
        feeds: Mapping[str, Any],
        also: Sequence[str] = (),
    ) -> None:
        """Run the network once, as far as the tensor and `also` need.

        Args:
            tensor: the tensor of a layer, or an input.
            name: its name in messages.
            feeds: values by input name, `(n, ...)`.
            also: further tensors to fetch in the same run, into `values`.

        Raises:
            UsageError: the scores do not depend on the tensor.
        """
        graph = program.graph
        self._program, self._tensor = program, tensor
        self._scores = scores
        self._feeds = feeds
        self._leaf = peel(graph, [tensor])[tensor]
        self._source = self._leaf.source
        plan = program.plan(scores.tensors, (tensor,), scores.appended)
        if self._source not in (*plan.starts, *plan.inputs):
            raise UsageError(f"the scores do not depend on {name!r}.")
        self._bypassing = sorted(boundary.bypassing(graph, plan, {self._source}))
        wanted = [*also, *scores.tensors, self._source, *self._bypassing]
        self._before = program.fetch([*dict.fromkeys(wanted)], appended=scores.appended)
        self.values = self._before(feeds)
        """The values of the fetched tensors, `(n, ...)`."""
        self.whole = scores.read(self.values)
        """The scores without a change, `(n, classes)`."""
        if self.values[self._source].dtype.kind != "f":
            raise UsageError(
                f"{name!r} must be of a float dtype to be changed channel by channel, got "
                f"{self.values[self._source].dtype}."
            )
        given = (self._source, *self._bypassing)
        values = {**feeds, **self.values}
        self._after = program.fetch(scores.tensors, values, given, scores.appended)

    def scores(
        self, sample: int, channels: Sequence[int], change: Change, batch_size: int
    ) -> npt.NDArray[np.float64]:
        """The scores of all classes with each channel's change, `(channels, classes)`.

        NaN for skipped channels.

        Args:
            sample: index of the image in the batch.
            batch_size: number of copies per run, which are in memory together.
        """
        whole = self._seen(self.values[self._source])[sample]
        size = max(1, min(batch_size, len(channels)))
        feeds = self._copies(sample, size)
        changed = self._seen(feeds[self._source])
        found: dict[int, Array] = {}
        waiting: list[int] = []
        for at, channel in enumerate(channels):
            value = change(whole, channel)
            if value is not None:
                changed[len(waiting)] = value
                waiting.append(at)
            if waiting and (len(waiting) == size or at == len(channels) - 1):
                # The last copies may be stale: computing them is cheaper than another shape.
                scores = self._scores.read(self._after(feeds))
                found |= dict(zip(waiting, scores, strict=False))
                waiting = []
        nothing = np.full(self.whole.shape[1], np.nan)
        return np.array([found.get(at, nothing) for at in range(len(channels))], np.float64)

    def _seen(self, source: Array) -> Array:
        """The tensor, `(n, h, w, c)`, as a view of its source."""
        return channels_last(self._program, self._tensor, view(source, self._leaf.perms))

    def _copies(self, sample: int, size: int) -> dict[str, Any]:
        """All inputs of the second half, for `size` copies of one image."""
        source = self.values[self._source]
        samples = source.shape[sample_axis(self._program, self._source, source.ndim)]
        values = {name: self.values[name] for name in (self._source, *self._bypassing)}
        if all(self._is_batch(name, value, samples) for name, value in values.items()):
            return copies(self._program, values, sample, samples, size)
        # A tensor (a shape, perhaps) depends on the batch but has no axis for it.
        values = self._before(copies(self._program, self._feeds, sample, samples, size))
        return {name: np.array(values[name]) for name in (self._source, *self._bypassing)}

    def _is_batch(self, name: str, value: Any, samples: int) -> bool:
        """Whether a tensor has one row per image, or one row for all of them."""
        axis = sample_axis(self._program, name, np.ndim(value))
        rows = {1, samples}
        return value.dtype.kind == "f" and any(has_rows(value, row, axis) for row in rows)
