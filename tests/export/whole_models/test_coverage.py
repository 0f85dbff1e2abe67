"""docs/coverage.md agrees with the tables of the tests and with the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import pages
from generators.layer_table import REFUSALS
from generators.ops_table import DIFFERENT, KERAS_REFUSES, REFUSED
from pages import quoted, rows

pytestmark = pytest.mark.tensorflow

PAGE = (Path(__file__).parents[3] / "docs" / "coverage.md").read_text(encoding="utf-8")


def section(heading: str) -> list[list[str]]:
    return rows(pages.section(PAGE, heading))


def in_code(cells: list[str]) -> list[str]:
    return [word for cell in cells for word in quoted(cell)]


def test_the_page_lists_the_layers_that_cannot_be_exported(keras: Any) -> None:
    table = section("Layers that cannot be exported")
    listed = [quoted(row[0])[0] for row in table]
    makes = [row.make for name, row in REFUSALS.items() if name != "float8"]
    codes = [make.__code__ for make in makes]
    for code in codes:
        codes += [constant for constant in code.co_consts if isinstance(constant, type(code))]
    used = {name for code in codes for name in code.co_names if hasattr(keras.layers, name)}
    assert sorted(listed) == sorted(used)
    operations = {x for row in REFUSALS.values() for x in re.findall(r"(\w+) \(layer", row.message)}
    assert sorted(set(in_code([row[1] for row in table]))) == sorted(operations)


def test_the_page_lists_the_functions_that_cannot_be_exported() -> None:
    functions = [quoted(row[0]) for row in section("Functions that cannot be exported")]
    listed = {name for names in functions for name in names} - {"nuc"}
    table = {name.partition(" ")[0] for name in [*REFUSED, *DIFFERENT, *KERAS_REFUSES]}
    assert sorted(listed - table) == ["irfft"]  # only for free sizes
    assert sorted(table - listed) == []
    assert sorted(functions[-1]) == sorted(KERAS_REFUSES)


def test_the_page_lists_the_dtypes_tolerances_and_missing_kernels(keras: Any) -> None:
    from layertap_export.convert.dtypes import file_dtype
    from layertap_export.graph.operators import OPERATORS
    from layertap_export.verification.tolerances import DEFAULT_TOLERANCE, TOLERANCE_BY_DTYPE

    table = section("Number types")
    for policies, computed, allowed in table:
        for policy in quoted(policies):
            dtype = keras.DTypePolicy(policy).compute_dtype
            assert quoted(computed) == [file_dtype(dtype)]
            assert float(allowed) == TOLERANCE_BY_DTYPE.get(dtype, DEFAULT_TOLERANCE)
    assert {keras.DTypePolicy(x).compute_dtype for x in in_code([row[0] for row in table])} == {
        "float32",
        "float64",
        *TOLERANCE_BY_DTYPE,
    }
    (paragraph,) = re.findall(r"names them: (.*?)\. If there", PAGE, re.DOTALL)
    missing = [name for name, row in OPERATORS.items() if "float64" in row.no_kernel.split()]
    assert quoted(paragraph) == missing


def test_the_page_lists_the_operations_that_layertap_converts(keras: Any) -> None:
    from layertap_export.convert.tf_ops import handlers

    table = section("Operations that layertap converts itself")
    assert sorted(in_code([row[1] for row in table])) == sorted(handlers({}))
