"""The table of layers, as text and as JSON-compatible rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import layertap
from generators.tiny import layer
from layertap.format.cost import Cost
from layertap.format.layer import Layer, Shape
from layertap.format.table import as_rows, as_text, cost_text
from layertap.format.text import aligned, printable, shape_text, type_text

LAYERS = [
    layer(0, "input", "InputLayer", (None, None, None, 3)),
    layer(1, "backbone/conv", "Conv2D", (None, None, None, 64), "input", 1_234_567),
    layer(2, "hidden", "Dropout", (None, 8), "backbone/conv", exposed=False),
    layer(10, "out", "Dense", (None, 14), "hidden", 18),
]


def test_table_has_one_row_per_layer() -> None:
    costs = [Cost(None), Cost(26_214_400, exact=False), Cost(32), Cost(56)]
    assert (
        as_text(LAYERS, costs)
        == """\
index  name           class       output shape            parameters        MB  connected to
-----  -------------  ----------  ----------------------  ----------  --------  -------------
    0  input          InputLayer  (None, None, None, 3)            0
    1  backbone/conv  Conv2D      (None, None, None, 64)   1,234,567     ~26.2  input
    2  (hidden)       Dropout     (None, 8)                        0  0.000032  backbone/conv
   10  out            Dense       (None, 14)                      18  0.000056  hidden"""
    )


def rows_of(inbound: list[str]) -> list[str]:
    """The lines of `connected to` for a layer with these inbound layers."""
    text = as_text([replace(LAYERS[3], inbound=tuple(inbound))], [Cost(None)])
    lines = text.splitlines()
    column = lines[0].index("connected to")
    return [line[column:] for line in lines[2:]]


@pytest.mark.parametrize(
    ("inbound", "expected"),
    [
        ([], [""]),
        (["a", "b"], ["a, b"]),
        (["a" * 20, "b" * 22], ["a" * 20 + ", " + "b" * 22]),  # 44 characters
        (["a" * 20, "b" * 23], ["a" * 20 + ",", "b" * 23]),
        (["a" * 20, "b" * 21, "c"], ["a" * 20 + ", " + "b" * 21 + ",", "c"]),
        # A name is never split, even if it contains hyphens and spaces or is too long.
        (["some-name with-hyphens-" * 3, "b"], ["some-name with-hyphens-" * 3 + ",", "b"]),
    ],
)
def test_many_inbound_layers_are_wrapped(inbound: list[str], expected: list[str]) -> None:
    assert rows_of(inbound) == expected


def test_empty_table_has_only_a_header() -> None:
    assert as_text([], []).splitlines() == [
        "index  name  class  output shape  parameters  MB  connected to",
        "-----  ----  -----  ------------  ----------  --  ------------",
    ]


def test_control_characters_in_names_are_escaped() -> None:
    """Names in a file may contain any characters; a row must stay on one line."""
    row = replace(LAYERS[0], name="a\x1b[2J\nb", inbound=("größe", "\ud800"))
    lines = as_text([row], [Cost(None)]).splitlines()
    assert len(lines) == 3
    assert "a\\x1b[2J\\nb" in lines[2]
    assert lines[2].endswith("größe, \\ud800")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("conv1/relu:0#1", "conv1/relu:0#1"),
        ("größe 大", "größe 大"),
        ("it's", "it's"),
        ("a\\b", "a\\b"),
        ("a\tb", "a\\tb"),
        ("", ""),
    ],
)
def test_printable_escapes_control_characters(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_rows_are_json_objects() -> None:
    inner = replace(LAYERS[2], parent="around", why_not="it runs inside a loop")
    rows = as_rows([replace(LAYERS[1], inbound=("input", "other")), inner])
    assert rows == [
        {
            "index": 1,
            "name": "backbone/conv",
            "type": "Conv2D",
            "shape": [None, None, None, 64],
            "dtype": "float32",
            "parameters": 1_234_567,
            "inbound": ["input", "other"],
            "exposed": True,
        },
        {
            "index": 2,
            "name": "hidden",
            "type": "Dropout",
            "shape": [None, 8],
            "dtype": "float32",
            "parameters": 0,
            "inbound": ["backbone/conv"],
            "exposed": False,
            "parent": "around",
            "why_not": "it runs inside a loop",
        },
    ]
    assert json.loads(json.dumps(rows)) == rows


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((None, 10, 10, 1024), "float32", "(None, 10, 10, 1024)"),
        ((None,), "float32", "(None,)"),
        ((), "int64", "()"),
        ((), "", "?"),
        ((), "sequence", "sequence"),
        ((), "map", "map"),
        ((None, 3), "string", "(None, 3)"),
    ],
)
def test_shape_and_dtype_are_shown_as_text(shape: Shape, dtype: str, expected: str) -> None:
    assert type_text(shape, dtype) == expected
    if dtype not in ("", "sequence", "map"):
        assert shape_text(shape) == expected


@pytest.mark.parametrize(
    ("nbytes", "expected"),
    [
        (None, ""),
        (0, "0.000000"),
        (56, "0.000056"),
        (999, "0.000999"),
        (1_000, "0.0010"),
        (99_999, "0.1000"),
        (100_000, "0.10"),
        (9_990_000, "9.99"),
        (10_000_000, "10.0"),
        (1_234_567_890, "1234.6"),
    ],
)
def test_sizes_are_shown_in_megabytes(nbytes: int | None, expected: str) -> None:
    """In units of 10^6 bytes, with about three digits."""
    assert cost_text(Cost(nbytes)) == expected
    assert cost_text(Cost(nbytes, exact=False)) == (f"~{expected}" if expected else "")


def test_columns_are_aligned() -> None:
    assert aligned([("a", "n"), ("long name", "1"), ("b", "12345")], right={1}) == (
        "a              n\n---------  -----\nlong name      1\nb          12345"
    )


@pytest.mark.parametrize(
    ("dtype", "shape", "batch", "expected"),
    [
        ("float32", (None, 10, 10, 1024), 1, 409_600),
        ("float32", (None, 10, 10, 1024), 3, 1_228_800),
        ("float64", (None, 2), 1, 16),
        ("float16", (5, 2), 7, 20),  # a fixed batch
        ("bool", (None,), 4, 4),
        ("int64", (), 4, 8),
        ("float32", (None, 0), 1, 0),
        ("float32", (None, None, 2), 1, None),
        ("string", (None, 2), 1, None),
        ("", (), 1, None),
    ],
)
def test_nbytes_is_the_size_of_the_activations(
    dtype: str, shape: Shape, batch: int, expected: int | None
) -> None:
    one: Layer = replace(LAYERS[0], dtype=dtype, shape=shape)
    assert one.nbytes(batch) == expected


def test_model_summary_is_the_table(tiny_file: Callable[[str], Path]) -> None:
    model = layertap.open(tiny_file("linear_chain"))
    assert model.summary(batch=1000).splitlines() == [
        "index  name  class       output shape  parameters      MB  connected to",
        "-----  ----  ----------  ------------  ----------  ------  ------------",
        "    0  x     InputLayer  (None, 4)              0  0.0160",
        "    1  a     Dense       (None, 5)             25  0.0200  x",
        "    2  b     Dense       (None, 3)             18  0.0120  a",
        "    3  c     Dense       (None, 2)              8  0.0080  b",
    ]
