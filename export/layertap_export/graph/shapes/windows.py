"""The window of a convolution or pooling: the cells of the input that make one of the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .sizes import Size


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The attributes of a Conv, ConvTranspose or pooling, per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    """Cells of padding in front; not used while `same` is set."""
    ends: tuple[int, ...]
    same: str
    """`SAME_UPPER` or `SAME_LOWER` where the padding follows from the sizes, else empty."""
    ceil: bool
    """Whether a last window may begin inside the input and end beyond it."""
    shape: tuple[int, ...] | None
    """The output sizes that a ConvTranspose states."""

    @classmethod
    def of(cls, attributes: Mapping[str, Any], kernel: Sequence[int]) -> Window:
        """From the attributes of a node, by name."""
        rank = len(kernel)
        auto = attributes.get("auto_pad", b"NOTSET").decode()
        pads = tuple(attributes.get("pads", ())) or (0,) * (2 * rank)
        if auto == "VALID":
            pads = (0,) * (2 * rank)
        return cls(
            kernel=tuple(kernel),
            strides=tuple(attributes.get("strides", ())) or (1,) * rank,
            dilations=tuple(attributes.get("dilations", ())) or (1,) * rank,
            begins=pads[:rank],
            ends=pads[rank:],
            same=auto if auto.startswith("SAME") else "",
            ceil=bool(attributes.get("ceil_mode", 0)),
            shape=tuple(attributes.get("output_shape", ())) or None,
        )

    @property
    def extents(self) -> tuple[int, ...]:
        """The number of cells from the first to the last of a window, dilation included."""
        return tuple(
            (size - 1) * dilation + 1
            for size, dilation in zip(self.kernel, self.dilations, strict=True)
        )

    @property
    def axes(self) -> list[int]:
        """The spatial axes of a tensor that is channels first."""
        return list(range(2, 2 + len(self.kernel)))

    @property
    def dense(self) -> bool:
        """Whether all strides are 1."""
        return all(stride == 1 for stride in self.strides)

    @property
    def padded(self) -> bool:
        return bool(self.same or any(self.begins) or any(self.ends))

    def fixed(self, sizes: Sequence[Size]) -> Window | None:
        """The window with its padding in numbers; `None` if that depends on a free size."""
        if not self.same:
            return self
        totals = []
        for axis, size in enumerate(sizes):
            stride = self.strides[axis]
            rows = (size + (stride - 1)) // stride
            total = (rows - 1) * stride + (self.extents[axis] - size)
            if not isinstance(total, int):
                return None
            totals.append(max(total, 0))
        return self._padded_to(totals, self.same == "SAME_UPPER")

    def _padded_to(self, totals: Sequence[int], upper: bool) -> Window:
        begins = tuple(total // 2 if upper else total - total // 2 for total in totals)
        ends = tuple(total - begin for total, begin in zip(totals, begins, strict=True))
        return replace(self, begins=begins, ends=ends, same="")

    def outputs(self, sizes: Sequence[Size]) -> list[Size | None]:
        """Sizes of the output of a convolution or pooling."""
        found: list[Size | None] = []
        for axis, size in enumerate(sizes):
            stride = self.strides[axis]
            if self.same:
                found.append((size + (stride - 1)) // stride)
                continue
            room = size + (self.begins[axis] + self.ends[axis] - self.extents[axis])
            if self.ceil and stride > 1:
                found.append(None)  # a last window must not begin in the padding
            else:
                found.append(room // stride + 1)
        return found

    def spread(self, sizes: Sequence[Size], extra: Sequence[int] | None) -> list[Size]:
        """Sizes of the output of a ConvTranspose; `extra` is its `output_padding`."""
        if self.shape is not None:
            return [*self.shape[-len(sizes) :]]
        more = extra or (0,) * len(sizes)
        if self.same:
            return [size * stride for size, stride in zip(sizes, self.strides, strict=True)]
        return [
            (size - 1) * self.strides[axis]
            + (more[axis] + self.extents[axis] - self.begins[axis] - self.ends[axis])
            for axis, size in enumerate(sizes)
        ]

    def fixed_spread(self, sizes: Sequence[Size], extra: Sequence[int] | None) -> Window | None:
        """The window of a ConvTranspose with its padding in numbers; `None` if it depends on a free
        size."""
        if not self.same and self.shape is None:
            return self
        more = extra or (0,) * len(sizes)
        totals = []
        for axis, (size, put_out) in enumerate(zip(sizes, self.spread(sizes, extra), strict=True)):
            full = (size - 1) * self.strides[axis] + (more[axis] + self.extents[axis])
            total = full - put_out
            if not isinstance(total, int):
                return None
            totals.append(max(total, 0))
        return self._padded_to(totals, self.same == "SAME_UPPER")
