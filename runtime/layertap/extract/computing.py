"""Computes what is asked for of a batch: layers in one run, gradients and heat maps in others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layertap._cut.plan import Appended
from layertap._engine.program import Program
from layertap.cam.gradients import layer_gradients
from layertap.cam.heat_maps import heat_maps, layer_of
from layertap.cam.methods import find_method
from layertap.errors import InputError, UsageError
from layertap.format.text import shape_text

from .asked import GRADIENT, HEAT_MAP, Asked
from .inputs import fixed_batch

if TYPE_CHECKING:
    from layertap._engine.program import Fetch

Arrays = dict[str, NDArray[Any]]


class Part(NamedTuple):
    """One array of the result."""

    asked: Asked
    field: str
    """`channels` or `values`, of the strongest channels; otherwise empty."""


class Work:
    """What is computed for each batch. It is safe to use from several threads."""

    def __init__(
        self, program: Program, asked: Sequence[Asked], dtype: str | None, cam_layer: Any
    ) -> None:
        """
        Args:
            program: computes it.
            asked: what is asked for, each once.
            dtype: what floating-point results are cast to.
            cam_layer: the layer of the heat maps, see `Model.cam`.

        Raises:
            UsageError: a reduction does not suit its layer, a layer's values do not belong to the
                samples, or several inputs are needed.
        """
        self._program, self._dtype, self._cam_layer = program, dtype, cam_layer
        self._asked = asked
        self._tensors: dict[str, None] = {}
        self._appended: dict[str, Appended] = {}
        self._writes: dict[Asked, tuple[str, ...]] = {}
        for one in asked:
            if one.kind == "layer":
                self._add(one)
        self.input = self._only_input()
        """The name of the input."""
        self.parts = dict(_keys(asked))
        """The arrays of the result, by key, in the order requested."""

    def _add(self, one: Asked) -> None:
        """Add a layer to the request."""
        program = self._program
        layer = program.layer(one.name)
        axes = program.axes(str(layer.tensor), len(layer.shape))
        if layer.per_sample is False or axes.find("N") > 0:
            raise UsageError(
                f"{layer.name!r}, of shape {shape_text(layer.shape)}, does not have one row for "
                "each image, so it cannot be stored by image."
            )
        request = program.request({layer.name: one.how}, self._dtype, peeled=False)
        self._tensors |= dict.fromkeys(request.tensors)
        self._appended |= {next(iter(extra.writes)): extra for extra in request.appended}
        self._writes[one] = request.results[layer.name]

    def _only_input(self) -> str:
        program = self._program
        names = list(program.graph.inputs)
        if len(names) > 1 and all(one.kind == "layer" for one in self._asked):
            plan = program.plan(
                list(self._tensors), appended=list(self._appended.values()), peeled=False
            )
            names = list(plan.needs)
        if len(names) != 1:
            listed = ", ".join(map(repr, names)) or "none"
            raise UsageError(
                f"a collection gives one input for each item, but {program.name} needs "
                f"{len(names)} ({listed}) for this."
            )
        return names[0]

    @cached_property
    def _fetch(self) -> Fetch:
        return self._program.fetch(
            list(self._tensors), appended=list(self._appended.values()), peeled=False
        )

    def start(self) -> None:
        """Make the session for the layers, which otherwise the first batch does."""
        if self._writes:
            self._fetch  # noqa: B018 - it is computed once

    def __call__(self, batch: NDArray[Any], watch: bool = False) -> Arrays:
        """The arrays by key, `(n, ...)`, for a batch `(n, ...)` as the model takes it.

        Args:
            batch: at least one row. A model whose batch has a fixed size is run on parts of this
                size, of which the last is filled up.
            watch: warn of batches that no image can have become.

        Raises:
            InputError: the batch does not fit the model.
        """
        size = fixed_batch(self._program, self.input)
        if size is None or size == len(batch):
            return self._run(batch, watch)
        found = [
            self._run(np.take(batch, range(start, start + size), 0, mode="clip"), watch)
            for start in range(0, len(batch), size)
        ]
        return {key: np.concatenate([one[key] for one in found])[: len(batch)] for key in found[0]}

    def _run(self, batch: NDArray[Any], watch: bool) -> Arrays:
        program, found = self._program, {}
        if self._writes:
            feeds = program.prepare([self.input], {self.input: batch}, None, watch=watch)
            values = self._fetch(feeds)
            found = {
                Part(one, field): values[name]
                for one, names in self._writes.items()
                for name, field in zip(names, _fields(one), strict=True)
            }
        for target in dict.fromkeys(one.how for one in self._asked if one.kind == "gradient"):
            group = [x for x in self._asked if x.kind == "gradient" and x.how == target]
            slopes = layer_gradients(
                program, {self.input: batch}, [one.name for one in group], target
            )
            found |= {Part(one, ""): self._cast(slopes[one.name]) for one in group}
        for method in dict.fromkeys(one.how for one in self._asked if one.kind == "cam"):
            group = [x for x in self._asked if x.kind == "cam" and x.how == method]
            maps = heat_maps(
                _Opened(program),
                {self.input: batch},
                self._cam_layer,
                [one.name for one in group],
                method=method,
            ).maps
            found |= {Part(one, ""): self._cast(maps[:, at]) for at, one in enumerate(group)}
        for key, part in self.parts.items():
            if not isinstance(found[part], np.ndarray) or found[part].shape[:1] != batch.shape[:1]:
                raise InputError(
                    f"{key!r} does not have one row for each of {len(batch)} images, so it cannot "
                    "be stored by image."
                )
        return {key: found[part] for key, part in self.parts.items()}

    def _cast(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values that were not cast in the graph."""
        with np.errstate(all="ignore"):  # what is too large becomes infinite, and is counted
            return values if self._dtype is None else values.astype(self._dtype)

    def asked_json(self, key: str) -> dict[str, Any]:
        """What an array is, as JSON."""
        one, field = self.parts[key]
        if one.kind == "gradient":
            return {"gradient": one.name, "target": one.how}
        if one.kind == "cam":
            layer = layer_of(self._program, self._cam_layer, find_method(one.how))
            return {"cam": one.name, "method": one.how, "layer": layer}
        asked = {"layer": one.name, "reduction": one.how}
        return {**asked, "part": field} if field else asked

    def stated(self, key: str) -> tuple[str, tuple[int, ...]] | None:
        """The dtype and shape of one row of an array; `None` where the file does not state them."""
        one, field = self.parts[key]
        if one.kind != "layer":
            return None
        layer, how = self._program.layer(one.name), one.how
        if not layer.dtype or not layer.shape:
            return None
        shape, dtype = layer.shape[1:], layer.dtype
        if how is not None and how != "flatten":
            axes = self._program.axes(str(layer.tensor), len(layer.shape))
            at = axes.find("C") if "C" in axes else 1
            shape = (int(how[3:]),) if field else (layer.shape[at],)
            if how != "max" and "float" not in dtype:
                dtype = "float32"
        known = [size for size in shape if size is not None]
        if len(known) < len(shape):
            return None
        if field == "channels":
            return "int64", tuple(known)
        if self._dtype is not None and "float" in dtype:
            dtype = self._dtype
        return dtype, (math.prod(known),) if how == "flatten" else tuple(known)


class _Opened:
    """A program where a model is expected."""

    def __init__(self, program: Program) -> None:
        self._program = program


def _fields(one: Asked) -> tuple[str, ...]:
    """The fields of what is asked for."""
    top = one.kind == "layer" and str(one.how).startswith("top")
    return ("values", "channels") if top else ("",)


def _keys(asked: Sequence[Asked]) -> Iterator[tuple[str, Part]]:
    """The arrays by key: the short form where it is the only one, otherwise the long one."""
    names = [(one.kind, one.name) for one in asked]
    taken: set[str] = set()
    for one in asked:
        prefix = {"layer": "", "gradient": GRADIENT, "cam": HEAT_MAP}[one.kind]
        short = f"{prefix}{one.name}"
        long = short if one.how is None else f"{short}={one.how}"
        alone = names.count((one.kind, one.name)) == 1
        fields = _fields(one)
        base = short if alone else long
        if any(_joined(base, field) in taken for field in fields):
            base = long
        number = 1
        while any(_joined(base, field) in taken for field in fields):
            number += 1
            base = f"{long}#{number}"
        for field in reversed(fields):  # the channels come first
            taken.add(_joined(base, field))
            yield _joined(base, field), Part(one, field)


def _joined(base: str, field: str) -> str:
    return f"{base}.{field}" if field else base
