"""Statistics of layers beside the runs alone.

    python -m benchmarks layer_statistics
    python -m benchmarks.layer_statistics --images 1000     # --help lists the options

"The runs alone" read and prepare the same images and compute the same layers, in the same threads,
and throw the values away.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import layertap
from layertap.measuring import collecting
from layertap.measuring.sums import sums_of

from . import machine, models
from .pictures import pictures
from .timing import Row, alternate, table, timed

LAYERS: dict[str, list[str] | None] = {
    "5 layers": ["conv1_relu", "pool2_relu", "pool3_relu", "pool4_relu", "relu"],
    "all layers": None,
}
MOST = 1.1
"""The target: the time of the runs alone, times this."""


@contextmanager
def _runs_alone() -> Iterator[None]:
    """Throw the values away, once each layer was measured for one image."""
    first: dict[tuple[object, ...], object] = {}

    def nothing(values: object, axis: int | None, bounds: object) -> object:
        shape = getattr(values, "shape", ())
        key = (shape, axis, bounds)
        if key not in first:
            first[key] = sums_of(values, axis, bounds)  # type: ignore[arg-type]
        return first[key]

    with patch.object(collecting, "sums_of", nothing):
        yield


def measured(file: Path, images: Sequence[str], which: Sequence[str], rounds: int) -> list[Row]:
    """A row for each choice of layers."""
    model = layertap.open(file)
    rows = []
    for name in which:
        ours = partial(model.layer_statistics, images, LAYERS[name], preprocess=models.RECIPE)

        def alone(run: Callable[[], object] = ours) -> object:
            with _runs_alone():
                return run()

        taken = alternate({"ours": timed(ours), "alone": timed(alone)}, rounds)
        rows.append(
            Row(
                what=f"statistics of {name}, {len(images)} images",
                peer="the runs alone",
                unit="s",
                ours=taken["ours"],
                theirs=taken["alone"],
                most=MOST,
            )
        )
    return rows


def measure() -> list[Row]:
    """The rows of `python -m benchmarks`."""
    return measured(models.files().onnx, pictures("png", 48), list(LAYERS), 3)


def main() -> None:
    """Measure as the options say, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, help="the model; by default that of the benchmarks")
    parser.add_argument("--folder", type=Path, help="images, of which the first are repeated")
    parser.add_argument("--images", type=int, default=48, help="number of images")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of measurements")
    parser.add_argument("--only", choices=list(LAYERS), help="one choice of layers")
    args = parser.parse_args()
    if args.folder:
        found = sorted(map(str, args.folder.iterdir()))
        images = [found[number % len(found)] for number in range(args.images)]
    else:
        images = pictures("png", args.images)
    which = [args.only] if args.only else list(LAYERS)
    print(table(measured(args.file or models.files().onnx, images, which, args.rounds)))
    print(machine.description())


if __name__ == "__main__":
    main()
