"""docs/conformance.md: what was measured, by family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .families import Family
from .measuring import Measured

Results = Mapping[str, Measured]
"""What was measured, by member of a family."""

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

`make conformance` wrote this page. It exports every model below with all its layers, with seeded
random weights (batch normalisations multiply by a half) and a free batch size, and compares each
layer with Keras on two batches. The scaled error is a layer's largest difference divided by its
largest absolute value; the export itself refuses anything over 1e-4. `layertap check` passes for
every file: the largest scaled error that it finds is {checked:.1e}.

- *layers*: how many the file gives, inner ones and the operations of Functional graphs among them;
  of several models the fewest and the most. Every layer of every model is exposed.
- *file / Keras against float64*: the largest scaled errors of the file and of Keras's own float32
  against the same model in float64, for the first model of the family.
- *inner Transposes*: those on the way to the model's outputs, but for the one of the input.
- *export*: seconds, with verification; the sum over the family.

With all layers as outputs and without, the models' own outputs agree within {alone:.0e} of their
scale.
"""


def page(sections: Mapping[str, Sequence[tuple[Family, Results]]], versions: str) -> str:
    """The whole page.

    Args:
        sections: by title, families with what was measured.
        versions: of everything that took part, in words.
    """
    every = [x for rows in sections.values() for _, results in rows for x in results.values()]
    parts = [
        INTRODUCTION.format(
            alone=max(x.alone for x in every), checked=max(x.checked for x in every)
        )
    ]
    for title, rows in sections.items():
        parts.append(f"## {title}\n\n{_table([_row(family, found) for family, found in rows])}\n")
    models = len(every)
    layers = sum(x.layers for x in every)
    parts.append(f"{layers:,} layers of {models} models. {versions}.\n")
    return "\n".join(parts)


def _row(family: Family, results: Results) -> tuple[str, ...]:
    found = list(results.values())
    worst = max(results, key=lambda name: results[name].scaled)
    counts = sorted(x.layers for x in found)
    place = f"`{results[worst].where}`" + (f" of {worst}" if len(found) > 1 else "")
    first = found[0]
    truth = ""
    if first.from_float64 is not None:
        truth = f"{first.from_float64:.1e} / {first.keras_from_float64:.1e}"
    return (
        family.name,
        str(len(found)),
        "-".join(str(count) for count in dict.fromkeys((counts[0], counts[-1]))),
        f"{results[worst].scaled:.1e}",
        place,
        truth,
        str(max(x.transposes for x in found)),
        f"{sum(x.seconds for x in found):.0f} s",
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [HEAD, tuple("---" for _ in HEAD), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
