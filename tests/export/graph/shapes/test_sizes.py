"""Free sizes as expressions."""

from __future__ import annotations

import pytest

from layertap_export.graph.shapes.sizes import Free, Size, fixed, product, quotient

H, W, N = (Free.named(name) for name in ("h", "w", "n"))


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (H + 2, "2 + h"),
        (2 + H, "2 + h"),
        (H - 3, "-3 + h"),
        (5 - H, "5 + -1 * h"),
        (H + W, "h + w"),
        (H * W * 2, "2 * h * w"),
        ((H + 1) * W, "h * w + w"),
        ((2 * H + 4) // 2, "2 + h"),
        ((2 * H + 5) // 2, "2 + h"),
        ((H + 3) // 2, "1 + (1 + h) // 2"),
        ((H + 3) // 2 - 1, "(1 + h) // 2"),
        (((H + 1) // 2 + 1) // 2, "(1 + (1 + h) // 2) // 2"),
        (quotient(N * H * W * 64, 64 * W), "h * n"),
        (quotient(N * H + N, N), "1 + h"),
        (quotient(N * H, W), "(h * n) / (w)"),
        (quotient(N * 3, 2), "(3 * n) / (2)"),
        (product([2, N, 3, H]), "6 * h * n"),
    ],
)
def test_sizes_are_written_as_sums_and_products(size: Size, text: str) -> None:
    assert str(size) == text


@pytest.mark.parametrize(
    ("size", "number"),
    [
        (H - H, 0),
        (H + 2 - H, 2),
        (H * 0, 0),
        (quotient(N * H, H * N), 1),
        (quotient(12, 3), 4),
        (quotient(12, 0), 0),
        ((2 * H) // 2 - H, 0),
        (product([]), 1),
    ],
)
def test_free_sizes_that_cancel_give_a_number(size: Size, number: int) -> None:
    assert size == number
    assert isinstance(size, int)


def test_equal_expressions_are_equal_sizes() -> None:
    """A padded convolution and a padded pooling, both of stride 2, give the same size."""
    assert (H + 2 * 1 - 3) // 2 + 1 == (H + 1) // 2
    assert (H + 1) // 2 != (H + 2) // 2
    area = H * W
    assert not isinstance(area, int)
    assert area.names == {"h", "w"}


def test_numbers_alone() -> None:
    assert fixed((2, 3)) == [2, 3]
    assert fixed(()) == []
    assert fixed((2, H)) is None
    assert fixed(None) is None
