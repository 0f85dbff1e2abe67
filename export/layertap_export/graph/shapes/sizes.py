"""Sizes of axes: numbers, and expressions for free sizes.

A free size is a sum of products of named sizes, `batch`, `height + 2`, `2 * batch * tokens`. Two
tensors with the same expressions have the same sizes, whatever these turn out to be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

Product: TypeAlias = "tuple[str, ...]"
"""Names, sorted; the empty product is 1."""


@dataclass(frozen=True, slots=True)
class Free:
    """A size that is not known when the file is made."""

    terms: tuple[tuple[Product, int], ...]
    """Products with their factors, sorted."""

    @classmethod
    def named(cls, name: str) -> Free:
        return cls((((name,), 1),))

    @property
    def names(self) -> frozenset[str]:
        return frozenset(name for product, _ in self.terms for name in product)

    def __add__(self, other: Size) -> Size:
        total = Counter(dict(self.terms))
        for product, factor in _terms(other).items():
            total[product] += factor
        return _size(total)

    __radd__ = __add__

    def __sub__(self, other: Size) -> Size:
        return self + other * -1

    def __rsub__(self, other: int) -> Size:
        return self * -1 + other

    def __mul__(self, other: Size) -> Size:
        total: Counter[Product] = Counter()
        for left, first in self.terms:
            for right, second in _terms(other).items():
                total[tuple(sorted((*left, *right)))] += first * second
        return _size(total)

    __rmul__ = __mul__

    def __floordiv__(self, other: Size) -> Size:
        """Rounded down. A remainder becomes a name of its own: `(height + 1) // 2`."""
        if isinstance(other, Free):
            return quotient(self, other)
        whole = {product: factor // other for product, factor in self.terms}
        rest = _size({product: factor % other for product, factor in self.terms})
        if isinstance(rest, Free):
            return _size(whole) + Free.named(f"({rest}) // {other}")
        return _size(whole)

    def __str__(self) -> str:
        return " + ".join(
            " * ".join(([str(factor)] if factor != 1 or not product else []) + list(product))
            for product, factor in self.terms
        )


Size: TypeAlias = "int | Free"
Dims: TypeAlias = "tuple[Size, ...]"


def fixed(dims: Dims | None) -> list[int] | None:
    """Sizes as numbers; `None` if any is free."""
    sizes = [size for size in dims or () if isinstance(size, int)]
    return sizes if dims is not None and len(sizes) == len(dims) else None


def product(sizes: Iterable[Size]) -> Size:
    total: Size = 1
    for size in sizes:
        total = total * size
    return total


def quotient(total: Size, part: Size) -> Size:
    """`total / part`, where there is no remainder."""
    if total == part:
        return 1
    if isinstance(total, int) and isinstance(part, int):
        return total // part if part else 0
    parts = _terms(part)
    if len(parts) == 1:
        ((names, factor),) = parts.items()
        found: dict[Product, int] = {}
        for name, count in _terms(total).items():
            left = Counter(name)
            left.subtract(names)
            if count % factor or min(left.values(), default=0) < 0:
                break
            found[tuple(sorted(left.elements()))] = count // factor
        else:
            return _size(found)
    return Free.named(f"({total}) / ({part})")


def _terms(size: Size) -> dict[Product, int]:
    return dict(size.terms) if isinstance(size, Free) else {(): size}


def _size(terms: Mapping[Product, int]) -> Size:
    kept = {product: factor for product, factor in terms.items() if factor}
    if not kept.keys() - {()}:
        return kept.get((), 0)
    return Free(tuple(sorted(kept.items())))
