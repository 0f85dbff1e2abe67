"""Collects the values of layers for all samples of a page, and packs what fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from layertap.format.text import number_of

from . import values as packing
from .about import shown
from .room import fitted, need, shared

if TYPE_CHECKING:
    from layertap._engine.program import Program
    from layertap.format.layer import Layer

MOST_CHANNELS = 64
"""Channels of a layer in a page, if there is room and no number is given."""

MOST_VALUES = 4096
"""Values of a vector that are stored."""

MEMORY = 1 << 29
"""Bytes of activations that are in memory until the channels are chosen."""


class LayerStore:
    """Collects the values of layers until the channels are chosen, and packs them."""

    def __init__(
        self,
        program: Program,
        channels: int | None,
        layers: Sequence[Layer],
        samples: int,
        room: int,
    ) -> None:
        """
        Args:
            program: says what the axes of its tensors mean.
            channels: how many of each layer; `None` for as many as fit.
            layers: the layers.
            samples: how many samples there will be.
            room: the number of bytes for all values.
        """
        self._program, self._channels, self._layers = program, channels, layers
        self._room = room // samples
        self._waiting: list[dict[str, packing.LayerValues | None]] = []
        self._parts: dict[str, list[dict[str, Any]]] = {layer.name: [] for layer in layers}
        self._bytes: dict[str, list[bytes]] = {layer.name: [] for layer in layers}
        self._chosen: dict[str, tuple[list[int], int]] | None = None
        self._problems: dict[str, str] = {}

    def add(self, values: dict[str, Any]) -> None:
        """Take the values of one sample, by tensor."""
        found = {}
        for layer in self._layers:
            tensor = str(layer.tensor)
            found[layer.name] = packing.layer_values(self._program, tensor, values[tensor])
        self._waiting.append(found)
        held = sum(x.maps.nbytes for x in found.values() if x) * (len(self._waiting) + 1)
        if self._chosen is not None or held > MEMORY:
            self._flush()

    def _flush(self) -> None:
        if self._chosen is None:
            self._chosen = self._choose()
        for found in self._waiting:
            for layer in self._layers:
                self._pack(layer, found[layer.name])
        self._waiting = []

    def _choose(self) -> dict[str, tuple[list[int], int]]:
        """The channels of each layer, and the bytes for each sample."""
        wanted, needs = [], []
        for layer in self._layers:
            shapes = [x.maps.shape for found in self._waiting if (x := found[layer.name])]
            if not shapes:
                wanted.append(0)
                needs.append(0)
                continue
            shape = max(shapes, key=math.prod)
            if len(shape) == 1:
                wanted.append(0)
                needs.append(8 * min(shape[0], MOST_VALUES))
            else:
                most = min(self._channels or MOST_CHANNELS, shape[0])
                wanted.append(most)
                needs.append(need(shape[1:], most))
        rooms = shared(needs, self._room)
        chosen: dict[str, tuple[list[int], int]] = {}
        for layer, most, room in zip(self._layers, wanted, rooms, strict=True):
            maps = [x.maps for found in self._waiting if (x := found[layer.name])]
            if not most:
                chosen[layer.name] = ([], room)
                continue
            shape = max((one.shape for one in maps), key=math.prod)
            keep, _ = fitted(shape[1:], most, room, fixed=self._channels is not None)
            same = [packing.strengths(one) for one in maps if len(one) == shape[0]]
            with np.errstate(all="ignore"):
                mean = np.mean(same, axis=0)
            order = np.argsort(-np.nan_to_num(mean, nan=-1.0), kind="stable")[:keep]
            chosen[layer.name] = ([int(one) for one in order], room)
        return chosen

    def _pack(self, layer: Layer, found: packing.LayerValues | None) -> None:
        assert self._chosen is not None
        parts, data = self._parts[layer.name], self._bytes[layer.name]
        channels, room = self._chosen[layer.name]
        if found is None:
            parts.append({})
            return
        maps = found.maps
        if maps.dtype.kind in "OU":
            texts = [shown(str(x)[: packing.LONGEST]) for x in maps.reshape(-1)[:200]]
            parts.append({"texts": texts, "shape": list(maps.shape)})
            return
        if maps.dtype.kind not in "fiub":
            parts.append({})
            self._problems[layer.name] = f"a page does not show values of dtype {maps.dtype}"
            return
        part: dict[str, Any] = {"stats": packing.statistics(maps), "shape": list(maps.shape)}
        if found.sizes:
            part["cut"], part["sizes"] = list(found.cut), list(found.sizes)
        if maps.ndim == 1:
            part |= self._vector(maps, room, data)
        else:
            kept = [one for one in channels if one < len(maps)] or [0]
            _, side = fitted(maps.shape[1:], len(kept), room, fixed=True)
            part |= {"step": side, "count": len(kept)}
            if kept != channels:
                part["channels"] = kept
            data.append(packing.packed_maps(maps[kept], side))
        parts.append(part)

    def _vector(self, values: NDArray[Any], room: int, data: list[bytes]) -> dict[str, Any]:
        """The values of a vector; of a long one the largest, with their indices."""
        wide = values.dtype.itemsize > 4 or values.dtype == np.uint32
        dtype = "<f8" if wide else "<f4"
        size = np.dtype(dtype).itemsize
        most = max(8, min(MOST_VALUES, room // (size + 4)))
        if len(values) * size <= max(room, 64) and len(values) <= MOST_VALUES:
            data.append(values.astype(dtype).tobytes())
            return {"dtype": dtype[1:]}
        sizes = np.nan_to_num(np.abs(values.astype(np.float64)), nan=np.inf)
        kept = np.sort(np.argsort(-sizes, kind="stable")[:most])
        data += [kept.astype("<u4").tobytes(), values[kept].astype(dtype).tobytes()]
        return {"dtype": dtype[1:], "kept": len(kept)}

    def finish(self, rows: list[dict[str, Any]], store: Callable[[bytes], int]) -> list[str]:
        """Put the values into the rows of the layers, and return what is left out.

        Args:
            rows: the rows of all layers of the model.
            store: takes the block of a layer, and returns its index.
        """
        if self._waiting or self._chosen is None:
            self._flush()
        assert self._chosen is not None
        index = {layer.name: at for at, layer in enumerate(self._program.layers)}
        left_out = []
        reduced = fewer = 0
        for layer in self._layers:
            parts = self._parts[layer.name]
            if not any(parts):
                reason = self._problems.get(layer.name, "its value is no array, or is empty")
                left_out.append(f"{layer.name!r}: {reason}")
                continue
            row = rows[index[layer.name]]
            row["maps"] = {"channels": self._chosen[layer.name][0], "samples": parts}
            data = b"".join(self._bytes[layer.name])
            if data:
                row["maps"]["block"] = store(data)
            reduced += any(part.get("step", 1) > 1 for part in parts)
            fewer += any(part["count"] < part["shape"][0] for part in parts if "count" in part)
        if fewer:
            left_out.append(f"some channels of {number_of(fewer, 'layer')}, all but the strongest")
        if reduced:
            left_out.append(
                f"the full resolution of {number_of(reduced, 'layer')}: the page has the means of "
                "square blocks, unless it may be larger"
            )
        return left_out
