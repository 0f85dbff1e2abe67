"""Writes docs/conformance.md: the measurements by family of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .families import Family
from .measuring import Measured

Results = Mapping[str, Measured]
"""The measurements by member of a family."""

HEAD = (
    "family",
    "models",
    "layers",
    "worst scaled error",
    "in",
    "file / Keras against float64",
    "inner Transposes",
    "export",
)

INTRODUCTION = """\
# Conformance

`make conformance` wrote this page. It exports every model below with all of its layers, with seeded
random weights (batch normalisations multiply by a half) and a free batch size, and compares each
layer with Keras on two batches. The scaled error is the largest difference in a layer divided by
the layer's largest absolute value. The export fails if it is over 1e-4. `layertap check` passes for
every file; the largest scaled error that it finds is {checked:.1e}.

- *layers*: the number of layers in the file, including inner layers and the operations of
  Functional models. For several models: the smallest and the largest number. All layers are
  exposed.
- *file / Keras against float64*: the largest scaled errors of the file, and of Keras in float32,
  compared with the same model in float64, for the first model of the family.
- *inner Transposes*: the number of Transpose nodes on the way to the model's outputs, without the
  one at the input. ConvNeXt runs channels last, as its matrix products do, and turns around each
  convolution on purpose: this is faster.
- *export*: the time in seconds, with verification, in total for the family.

The models' own outputs with all layers as outputs and without them agree within {alone:.0e} of
their scale.
"""


def page(sections: Mapping[str, Sequence[tuple[Family, Results]]], versions: str) -> str:
    """The text of the page.

    Args:
        sections: the families and their measurements, by title.
        versions: the versions of all packages involved, as text.
    """
    measured = [x for rows in sections.values() for _, results in rows for x in results.values()]
    parts = [
        INTRODUCTION.format(
            alone=max(x.alone for x in measured), checked=max(x.checked for x in measured)
        )
    ]
    for title, rows in sections.items():
        parts.append(
            f"## {title}\n\n{_table([_row(family, results) for family, results in rows])}\n"
        )
    models = len(measured)
    layers = sum(x.layers for x in measured)
    parts.append(f"{layers:,} layers of {models} models. {versions}.\n")
    return "\n".join(parts)


def _row(family: Family, results: Results) -> tuple[str, ...]:
    measured = list(results.values())
    worst = max(results, key=lambda name: results[name].scaled)
    counts = sorted(x.layers for x in measured)
    layer = f"`{results[worst].where}`" + (f" of {worst}" if len(measured) > 1 else "")
    first = measured[0]
    errors = ""
    if first.from_float64 is not None:
        errors = f"{first.from_float64:.1e} / {first.keras_from_float64:.1e}"
    return (
        family.name,
        str(len(measured)),
        "-".join(str(count) for count in dict.fromkeys((counts[0], counts[-1]))),
        f"{results[worst].scaled:.1e}",
        layer,
        errors,
        str(max(x.transposes for x in measured)),
        f"{sum(x.seconds for x in measured):.0f} s",
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [HEAD, tuple("---" for _ in HEAD), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
