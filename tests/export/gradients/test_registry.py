"""The registry is complete, has every operator once, and is what the documentation says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from generators.gradient_rules import CASES
from layertap_export.gradients.registry import NO_GRADIENT, RULES, merge
from layertap_export.gradients.rules import elementwise
from layertap_export.gradients.step import Rule

PAGE = Path(__file__).parents[3] / "docs" / "gradients.md"


@pytest.mark.parametrize(
    ("themes", "message"),
    [
        (
            [{"Abs": elementwise.absolute, "Relu": elementwise.relu}, {"Relu": elementwise.relu}],
            "Relu has two rules.",
        ),
        (
            [{"ReLU": elementwise.relu}],
            "ReLU has a rule, but no row in graph/operators.py.",
        ),
        (
            [{"Floor": elementwise.identity}],
            "Floor has a rule, but its row in graph/operators.py says no_gradient='step'.",
        ),
    ],
)
def test_rules_that_contradict_are_refused(themes: list[dict[str, Rule]], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        merge(themes)


def test_every_rule_is_tested() -> None:
    assert {case.op_type for case in CASES.values()} == set(RULES)


def test_every_rule_has_a_formula_or_a_sentence() -> None:
    assert [name for name, rule in RULES.items() if not rule.__doc__] == []


def operators_in(heading: str) -> set[str]:
    """The operators that a table of the page lists."""
    section = PAGE.read_text(encoding="utf-8").partition(heading)[2]
    table = section.partition("\n\n|")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| [^|`]+ \| (`.*) \|$", table, re.MULTILINE)
    found = re.findall(r"`(\w+)`", " ".join(rows))
    assert len(found) == len(set(found))
    return set(found)


def test_the_page_lists_them_all() -> None:
    assert operators_in("Operators that have a rule.") == set(RULES)
    assert operators_in("Operators through which no gradient flows") == set(NO_GRADIENT)


WITHOUT = {"If", "LabelEncoder", "Loop", "MatMulInteger"}
"""The branches of a Resizing that pads; lookup tables, the keys of which have no gradient; layers
with recurrence that ONNX has no operator for; and products in 8 bits."""


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("kind", ["images", "sequences", "volumes", "vectors", "words"])
def test_every_operator_of_every_layer_is_known(
    kind: str, layers_file: Callable[[str], Path]
) -> None:
    """Of all that the layers of the layer tests are exported to."""
    found = {node.op_type for node in onnx.load(layers_file(kind)).graph.node}
    assert found - set(RULES) - NO_GRADIENT - WITHOUT == set()
