"""Where to cut a model between a device and a server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import layertap
from layertap.errors import UsageError
from layertap.measuring.splitting import bytes_per_second

Row = tuple[str, int, float, tuple[str, ...] | None]


def costs(rows: list[Row], milliseconds: float | None, input_bytes: int = 1000) -> Any:
    """Costs of a model whose layers run one after another.

    Args:
        rows: name, bytes that cross after it, its milliseconds, and where it can be cut.
    """
    before, made = 0.0, []
    for index, (name, crossing, spent, cut) in enumerate(rows):
        before += spent
        made.append(
            layertap.LayerCost(
                name=name, type="Dense", index=index, multiply_adds=0, parameters=0,
                nbytes=crossing, crossing=crossing, tensors=1, cut=cut,
                milliseconds=spent, milliseconds_before=before,
            )
        )  # fmt: skip
    return layertap.LayerCosts(
        made, made, model="m.onnx", inputs={"x": (1, 250)}, input_bytes=input_bytes,
        multiply_adds=0, parameters=0, milliseconds=milliseconds, unassigned=0.0, device="cpu",
    )  # fmt: skip


def rows_of(numbers: list[tuple[int, int]]) -> list[Row]:
    return [(f"l{at}", size, float(ms), (f"l{at}",)) for at, (size, ms) in enumerate(numbers)]


def test_the_times_of_a_place() -> None:
    """1 MB/s are 1,000 bytes per millisecond."""
    split = layertap.Split(costs(rows_of([(5000, 10), (100, 30), (900, 60)]), 100.0), "1MB/s", 5)
    places = {place.layers: place for place in split.places}
    second = places["l1",]
    assert (second.device, second.transfer, second.server) == pytest.approx((40, 0.1, 12))
    first = places["l0",]
    assert (first.total, second.total) == pytest.approx((10 + 5 + 18, 40 + 0.1 + 12))
    assert split.best is first
    server, device = split.uncut
    assert (server.device, server.transfer, server.server) == pytest.approx((0, 1, 20))
    assert (device.device, device.transfer, device.server) == pytest.approx((100, 0, 0))
    assert "No cut is faster than all on the server (21.00 ms). The best cut is after l0" in str(
        split
    )


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 100)), min_size=1, max_size=8),
    st.floats(1, 1e9),
    st.floats(0.1, 100),
)
def test_the_best_place_is_that_of_all_sums(
    numbers: list[tuple[int, int]], rate: float, speed: float
) -> None:
    total = sum(ms for _, ms in numbers)
    split = layertap.Split(costs(rows_of(numbers), float(total)), rate, speed)
    assert split.best is not None
    expected = min(
        sum(ms for _, ms in numbers[: at + 1])
        + 1000 * size / rate
        + sum(ms for _, ms in numbers[at + 1 :]) / speed
        for at, (size, _) in enumerate(numbers)
    )
    assert split.best.total == pytest.approx(expected)


def test_only_places_that_can_be_cut_count() -> None:
    rows: list[Row] = [("a", 1, 1.0, None), ("b", 99, 1.0, ("b", "it's")), ("c", 1, 1.0, None)]
    split = layertap.Split(costs(rows, 3.0), "1kB/s")
    assert [place.layers for place in split.places] == [("b", "it's")]
    assert split.commands("my model.onnx") == [
        "layertap cut 'my model.onnx' --to b 'it'\"'\"'s' -o 'my model.device.onnx'",
        "layertap cut 'my model.onnx' --from b 'it'\"'\"'s' -o 'my model.server.onnx'",
    ]
    none = layertap.Split(costs(rows[:1], 1.0), "1kB/s")
    assert (none.best, none.commands("m.onnx")) == (None, [])
    assert "The model cannot be cut in two" in str(none)
    assert none.to_dict()["places"] == []


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10Mbit/s", 1.25e6), ("1MB/s", 1e6), ("500 kB/s", 5e5), ("1Gbit/s", 1.25e8),
        ("8bit/s", 1), ("0.5MB/s", 5e5), ("1e3 kbps", 125e3), ("8 Mb/s", 1e6),
        (" 1.5KB/s ", 1500), (2000, 2000), (1.5, 1.5), ("10mbit/s", 1.25e6), ("10Mbps", 1.25e6),
        ("10MBps", 1e7), ("1Gbit", 1.25e8), ("2MiB/s", 2 * 2**20), ("8 Mibit/s", 2**20),
        ("10 mb/s", 1.25e6), ("3 Mbits/s", 375e3), ("2 kbytes/s", 2000), ("5.MB/s", 5e6),
    ],
)  # fmt: skip
def test_bandwidths(text: Any, rate: float) -> None:
    assert bytes_per_second(text) == pytest.approx(rate)


@pytest.mark.parametrize(
    "text",
    ["", "fast", "10", "10M", "-1MB/s", "0MB/s", "0", "nan MB/s", "infMB/s", "1 MB", "1,5MB/s",
     "9e999MB/s", "1MB/s/s", 0, -3.0, float("nan"), float("inf"), True, None, [1]],
)  # fmt: skip
def test_what_is_no_bandwidth(text: Any) -> None:
    with pytest.raises(UsageError, match="bandwidth"):
        bytes_per_second(text)


def test_a_number_without_a_unit_is_shown_with_both() -> None:
    with pytest.raises(UsageError, match="Give it as in 10Mbit/s or 10MB/s"):
        bytes_per_second("10M")
    with pytest.raises(UsageError, match="Give it as in 25Mbit/s or 25MB/s"):
        bytes_per_second("25")


@pytest.mark.parametrize("wrong", [None, {}, "m.onnx"])
def test_what_is_no_costs_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"costs must be what `Model\.cost` gives"):
        layertap.Split(wrong, "1MB/s")


def test_costs_without_times_and_speeds_that_are_none() -> None:
    with pytest.raises(UsageError, match='Give measure="random", or an image'):
        layertap.Split(costs(rows_of([(1, 1)]), None), "1MB/s")
    for speed in (0, -1, float("nan"), "fast"):
        with pytest.raises(UsageError, match="server_speed must be"):
            layertap.Split(costs(rows_of([(1, 1)]), 1.0), "1MB/s", speed)  # type: ignore[arg-type]
