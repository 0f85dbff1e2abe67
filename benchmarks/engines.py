"""Whole networks and their first halves: a tap compared with other engines.

    python -m benchmarks engines                          # everything, about half an hour
    python -m benchmarks.engines vit convnext --batch 1   # some networks, some sizes of the batch

The peers are OpenVINO on the file that `layertap cut` writes, `tf.function` of the Keras sub-model,
and plain onnxruntime on tf2onnx's conversion of the sub-model. tf2onnx cannot convert Keras's GELU.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import layertap
from layertap._cut.plan import plan_cut, view

from . import machine, models
from .cutting import cut, index
from .timing import PAUSE, Row, alternate, compare, timed

NAMES = (
    "vit",
    "convnext",
    "nasnet",
    "resnet50",
    "inceptionv3",
    "efficientnetv2",
    "mobilenetv3",
    "text",
    "mixer",
    "swin",
    "gru",
    "audio",
)
"""The networks, see `networks`."""
BATCHES = (1, 8)
DEPTHS = ("output", "middle")
ROUNDS = {1: 30, 8: 15}
"""The number of measurements, by size of the batch."""
SECONDS = 20
"""With slow peers, there are fewer measurements, so that a case takes about as long."""
LEAST = 5
"""The least number of measurements."""
TOLERANCE = 5e-5
"""Largest difference between the engines' values, relative to the largest value."""

OPENVINO = "OpenVINO on the same cut, float32"
FUNCTION = "tf.function over the Keras sub-model"
PLAIN = "plain onnxruntime, tf2onnx's file"
OLD = "layertap, another file"
PEERS = (OPENVINO, FUNCTION, PLAIN, OLD)

MEAN, WORST = 0.97, 1.10
"""Targets relative to OpenVINO: of the geometric mean, and of each case."""
OF_FUNCTION = {1: 0.72, 8: 0.82}
"""Targets for transformers and ConvNeXt relative to `tf.function`, by size of the batch."""


class Case(NamedTuple):
    """What is measured."""

    network: str
    depth: str
    batch: int

    def __str__(self) -> str:
        return f"{self.network}, {self.depth}, batch {self.batch}"


def measure() -> list[Row]:
    """Time repeated calls, with all models, functions and sessions prepared."""
    measured = _measure(NAMES, BATCHES, DEPTHS, None)
    print(grid(measured), flush=True)
    return [*_summary(measured), *(row for rows in measured.values() for row in rows)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure some cases, and print their table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NETWORK", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("--batch", type=int, nargs="+", choices=BATCHES, default=BATCHES)
    parser.add_argument("--depth", nargs="+", choices=DEPTHS, default=DEPTHS)
    parser.add_argument(
        "--old", type=Path, metavar="FOLDER", help="also measure the files NETWORK.onnx in it"
    )
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in NAMES:
            parser.error(f"no network is named {name!r}; the networks are {', '.join(NAMES)}")
    machine.settle()
    print(grid(_measure(options.names or NAMES, options.batch, options.depth, options.old)))
    return 0


class _Files(NamedTuple):
    """The files of a network."""

    ours: Path
    """The export with all layers."""
    plain: Mapping[str, Path]
    """tf2onnx's files, by depth."""


def files(name: str) -> _Files:
    """The files of a network. They are created if they do not exist or are out of date."""
    source = Path(__file__).with_name("networks.py")
    ours = models.CACHE / f"engines-{models.state(source)}" / f"{name}.onnx"
    folder = models.CACHE / f"converted-{models.state(source, exported=False)}"
    plain = [folder / f"{name}-{depth}.onnx" for depth in DEPTHS]
    models.create(f"the {name} network", [ours], ["benchmarks.networks", name, "ours"])
    models.create(
        f"tf2onnx's files of the {name} network", plain, ["benchmarks.networks", name, "plain"]
    )
    return _Files(ours, dict(zip(DEPTHS, plain, strict=True)))


def _measure(
    names: Iterable[str], batches: Iterable[int], depths: Iterable[str], old: Path | None
) -> dict[Case, list[Row]]:
    measured = {}
    for name in names:
        made = files(name)
        other = None if old is None else old / f"{name}.onnx"
        for depth in depths:
            for case, rows in _network(name, depth, batches, made, other):
                print(_line(case, rows), file=sys.stderr)
                measured[case] = rows
    return measured


def _network(
    name: str, depth: str, batches: Iterable[int], made: _Files, old: Path | None
) -> Iterable[tuple[Case, list[Row]]]:
    import keras
    import tensorflow as tf

    from . import networks

    model = networks.build(name)
    layer = networks.middle(model) if depth == "middle" else model.layers[-1].name
    tap = layertap.open(made.ours).tap(layer)
    function = models.compiled(keras.Model(model.input, model.get_layer(layer).output))
    plain = _plain(made.plain[depth])
    openvino = _openvino(made.ours, layer) if find_spec("openvino") else None
    other = None if old is None else layertap.open(old).tap(layer)
    for samples in batches:
        batch = networks.batch(model, samples)
        tensor = tf.constant(batch)

        cases: dict[str, Callable[[], Any]] = {"ours": lambda batch=batch: tap(batch)}
        if openvino is not None:
            cases[OPENVINO] = lambda batch=batch: openvino(batch)
        cases[FUNCTION] = lambda tensor=tensor: function(tensor).numpy()
        if plain is not None:
            cases[PLAIN] = lambda batch=batch: plain(batch)
        if other is not None:
            cases[OLD] = lambda batch=batch: other(batch)

        case = Case(name, depth, samples)
        for peer, call in cases.items():
            models.check_equal(f"{case}, {peer}", cases["ours"](), call(), TOLERANCE)
        measures = {key: timed(call, PAUSE) for key, call in cases.items()}
        once = sum(measure() for measure in measures.values())
        rounds = max(LEAST, min(ROUNDS[samples], int(SECONDS / once)))
        seconds = alternate(measures, rounds, 2)
        peers = {peer: (peer, None) for peer in PEERS if peer in cases}
        rows = compare(f"{case} ({layer})", seconds, peers)
        yield case, [row.changed(detail=True) for row in rows]


def _plain(file: Path) -> Callable[[Any], Any] | None:
    """onnxruntime with its defaults; `None` if tf2onnx's file cannot be run: it has operations that
    ONNX lacks, or asks for constants as inputs."""
    from onnxruntime.capi.onnxruntime_pybind11_state import InvalidGraph

    try:
        session = models.plain_session(file)
    except InvalidGraph as exc:
        print(f"{file.name} is left out: {exc}", file=sys.stderr)
        return None
    entry, *others = (info.name for info in session.get_inputs())
    if others:
        print(f"{file.name} is left out: it asks for {', '.join(others)} too", file=sys.stderr)
        return None
    return lambda batch: session.run(None, {entry: batch})[0]


def _openvino(file: Path, layer: str) -> Callable[[Any], Any]:
    """OpenVINO on the cut, with its latency settings; the result as a view in Keras's axes."""
    import openvino

    graph = index(file)
    leaf = plan_cut(graph, [layer]).leaves[layer]
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "cut.onnx")
        written.write_bytes(cut(file, graph, layer))
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": machine.cores(),
        }
        compiled = openvino.Core().compile_model(written, "CPU", settings)
    return lambda batch: view(compiled(batch)[0], leaf.perms)


def _summary(measured: Mapping[Case, Sequence[Row]]) -> list[Row]:
    rows = []
    ratios = _ratios(measured, OPENVINO)
    if ratios:
        worst = max(ratios, key=lambda case: ratios[case])
        rows.append(_ratio("geometric mean of all cases", OPENVINO, _mean(ratios.values()), MEAN))
        rows.append(_ratio(f"the slowest of them, {worst}", OPENVINO, ratios[worst], WORST))
    ratios = _ratios(measured, FUNCTION)
    for batch, most in OF_FUNCTION.items():
        for name in ("vit", "convnext"):
            worst_ratio = max(ratios[Case(name, depth, batch)] for depth in DEPTHS)
            rows.append(_ratio(f"{name}, batch {batch}", FUNCTION, worst_ratio, most))
    rows.append(_ratio("geometric mean of all cases", FUNCTION, _mean(ratios.values()), None))
    ratios = _ratios(measured, PLAIN)
    rows.append(
        _ratio(f"geometric mean of {len(ratios)} cases", PLAIN, _mean(ratios.values()), None)
    )
    return rows


def _ratios(measured: Mapping[Case, Sequence[Row]], peer: str) -> dict[Case, float]:
    return {case: row.ratio for case, rows in measured.items() for row in rows if row.peer == peer}


def _mean(ratios: Iterable[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, ratios)))


def _ratio(what: str, peer: str, ratio: float, most: float | None) -> Row:
    return Row(what=what, peer=peer, unit="x", ours=(ratio,), theirs=(1.0,), most=most)


def grid(measured: Mapping[Case, Sequence[Row]]) -> str:
    """A Markdown table for each peer: a line for each network, a column for each other choice."""
    columns = sorted({(case.batch, case.depth) for case in measured}, key=_order)
    networks = list(dict.fromkeys(case.network for case in measured))
    lines: list[str] = []
    for peer in PEERS:
        ratios = _ratios(measured, peer)
        if not ratios:
            continue
        lines += [
            f"Time as a part of: {peer}. Geometric mean: {_mean(ratios.values()):.3f}",
            "",
            f"| network | {' | '.join(f'batch {batch}, {depth}' for batch, depth in columns)} |",
            f"| ------- | {' | '.join('---' for _ in columns)} |",
        ]
        for name in networks:
            cells = (ratios.get(Case(name, depth, batch)) for batch, depth in columns)
            values = " | ".join("" if cell is None else f"{cell:.3f}" for cell in cells)
            lines.append(f"| {name} | {values} |")
        lines.append("")
    return "\n".join([*lines, *(_line(case, rows) for case, rows in measured.items())])


def _line(case: Case, rows: Sequence[Row]) -> str:
    """The medians of a case."""
    ours = statistics.median(rows[0].ours)
    theirs = [f"{row.peer} {statistics.median(row.theirs) * 1e3:.2f} ms" for row in rows]
    return f"{case}: ours {ours * 1e3:.2f} ms, {', '.join(theirs)}"


def _order(column: tuple[int, str]) -> tuple[int, int]:
    batch, depth = column
    return batch, DEPTHS.index(depth)


if __name__ == "__main__":
    sys.exit(main())
