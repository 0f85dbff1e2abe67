"""From a file in float32 to a smaller one in float16 or int8."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

import layertap
from layertap._arguments import number
from layertap._engine.library import import_onnxruntime
from layertap._engine.program import program_of
from layertap._engine.stopping import time_limit
from layertap._public import public
from layertap.comparing.check import check
from layertap.comparing.golden import feeds
from layertap.errors import InputError, ModelFileError, UsageError, suggest
from layertap.format.atomic import check_target
from layertap.format.card import Golden, Quantized
from layertap.format.data_file import replacing_model
from layertap.format.digest import digest_of, inherited
from layertap.format.external import find_weights
from layertap.format.limits import PROTOBUF_BYTES
from layertap.format.narrow import narrow_tensors
from layertap.format.select import Selector
from layertap.format.source import FileSource
from layertap_export.errors import VerificationError
from layertap_export.gradients.reading import card_of, read
from layertap_export.graph.constant_folding import constant_of
from layertap_export.graph.operators import OPERATORS
from layertap_export.graph.shapes.shapes import Shapes
from layertap_export.graph.weights import Initializers, is_stub
from layertap_export.progress import logged
from layertap_export.quantizing.half import Half
from layertap_export.quantizing.integers import Integers
from layertap_export.quantizing.levels import Level, Levels, Ownership, float_layers
from layertap_export.quantizing.ranges import Ranges, ranges
from layertap_export.quantizing.search import Found, Measured, search
from layertap_export.verification.golden_values import digits, golden_layer
from layertap_export.verification.quantized_files import (
    MOST_ALONE,
    MOST_LAYERED,
    Outputs,
    Sample,
    joined,
    layer_errors,
    samples,
)
from layertap_export.verification.samples import sample
from layertap_export.verification.user_samples import user_batches
from layertap_export.verification.written_file import WrittenFile
from layertap_export.writing import Writer, append_card

from .arguments import check_source, sample_paths
from .final_check import Verified, check_finished
from .quantize_report import QuantizeReport

Converter: TypeAlias = Half | Integers

CONVERTERS: Mapping[str, type[Half] | type[Integers]] = {"float16": Half, "int8": Integers}
"""What a file is quantised to."""


@public
def quantize(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    to: str,
    calibrate: Any = (),
    budget: float | None = None,
    keep: Selector | Iterable[Selector] = (),
    timeout: float | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> QuantizeReport:
    """Write a smaller copy of a file, whose weights and operators are in float16 or int8.

    All names, free sizes, labels and the recipe stay, and every layer that the file gives is still
    an output in float32. Gradients stay, too: what they pass through computes in float32, from
    weights in the smaller dtype. So do softmax, normalisations and, in float16, whatever would
    leave its range. Before the file is renamed into place, it is opened, run and compared with the
    original, and its golden sample is checked. TensorFlow is not needed.

    Args:
        source: an `.onnx` file in float32, from layertap or from elsewhere.
        path: the file to write; it must not be `source`.
        to: `float16`; or `int8`, where convolutions and products with weights compute in 8 bits,
            with a scale for each channel of a weight and one for each tensor.
        calibrate: images, arrays, dicts of arrays by input name, or paths, as `samples` of
            `export`. Images are prepared with the recipe in the file. Every other one gives the
            ranges for int8; the errors are measured on those that do not. 32 to 128 are usually
            enough. For float16, which needs no ranges, all are used to measure; without any, it is
            the golden sample.
        budget: the largest error of an output, as a share of its largest value. The layers that
            do most damage are found, and kept more exact, until the outputs keep to it on samples
            that were not used for the calibration.
        keep: layers that stay as they are: names, globs, `re:` patterns, indices or slices.
        timeout: time in seconds for all of it, after which a run of the model is stopped.
        progress: called with the name of each stage.

    Returns:
        The report, with the error of each output and each layer.

    Raises:
        VerificationError: the budget cannot be kept; carries the report of the best that was found.
        UsageError: the file is finished or quantised already, or nothing in it can be quantised.
        InputError: samples do not fit the inputs of the model, or there are too few.
        ImageError: an image cannot be read.
        LayerNotFoundError: `keep` matches nothing.
        ModelFileError: `source` is not an ONNX model, or it is larger than 2 GB.
        OutputError: `path` is `source`, or cannot be written.
    """
    if not isinstance(to, str) or to not in CONVERTERS:
        near = suggest(to, list(CONVERTERS)) if isinstance(to, str) else ""
        raise UsageError(f"to must be 'float16' or 'int8', got {to!r}.{near}")
    if budget is not None:
        budget = number("budget", budget)
    check_source(source)
    with time_limit(timeout):
        started = time.perf_counter()
        job = _Job(source, path, to, calibrate, keep, logged(progress))
        return job.run(budget, started)


class _Job:
    """One file that is quantised."""

    def __init__(
        self,
        source: str | os.PathLike[str],
        path: str | os.PathLike[str],
        to: str,
        calibrate: Any,
        keep: Any,
        progress: Callable[[str], None],
    ) -> None:
        self._path, self._to, self._progress = path, to, progress
        self._source = source
        self._opened = layertap.open(source, device="cpu")
        program = program_of(self._opened)
        _check_float(self._opened)
        weights = find_weights(program.source, program.graph.locations)
        check_target(path, ".onnx", [source, *weights.paths, *sample_paths(calibrate)])
        self._size = Path(source).stat().st_size + sum(x.stat().st_size for x in weights.paths)
        if self._size > PROTOBUF_BYTES:
            raise ModelFileError(
                f"{program.name} and its weights are larger than 2 GB, more than onnxruntime's "
                "quantiser reads."
            )
        chosen = [] if _is_empty(keep) else [layer.name for layer in program.select(keep)]
        recipe = program.fitted(program.preprocessing) if program.preprocessing else None
        given = samples(user_batches(calibrate, self._opened.inputs, recipe), self._opened.inputs)
        if to == "int8" and len(given) < 2:
            raise InputError(
                "int8 needs samples to measure the ranges of the tensors on: give at least 2, "
                f"better 32 or more, with calibrate= (--calibrate IMAGES), got {len(given)}. "
                "float16 needs none."
            )
        self._model = _loaded(Path(source), self._opened)
        self._original = card_of(self._opened, self._model, Initializers())
        self._card = inherited(self._original, "quantize", FileSource(source))
        self._start: dict[str, Level] = float_layers(self._original, chosen)
        self._golden = self._golden_sample()
        self._calibrating: Sequence[Sample] = given[0::2] if to == "int8" else ()
        self._held: Sequence[Sample] = given[1::2] if to == "int8" else given
        if not self._held:
            self._held = [feeds(self._golden, self._original.inputs)]

    def _golden_sample(self) -> Golden:
        """The golden sample of the file, or one that is made of it."""
        card = self._original
        old = card.golden.layers if card.golden is not None else {}
        if not old.keys().isdisjoint(self._tensors):
            assert card.golden is not None
            return card.golden
        golden, fed = sample(WrittenFile(Path(self._source)).session(card.gradients), card)
        values = program_of(self._opened).fetch(self._tensors)(fed)
        layers = {name: golden_layer(np.asarray(values[name])) for name in self._tensors}
        return replace(golden, layers={**old, **layers})

    def run(self, budget: float | None, started: float) -> QuantizeReport:
        batches = list(joined(self._held, self._original.inputs))
        self._progress("measuring ranges")
        shapes = Shapes(self._model)
        measured = list(joined(self._calibrating or self._held, self._original.inputs))
        self._check_sizes([*batches, *measured])
        seen = ranges(self._model, self._tensors, shapes, measured)
        owned = Ownership(self._model, self._original)
        converter = CONVERTERS[self._to](self._model, self._original, owned, shapes, seen)
        names = [info.name for info in self._original.outputs]
        if all(level is Level.FLOAT for level in converter.reached(self._start).values()):
            raise UsageError(
                f"nothing in {program_of(self._opened).name} can be quantised to {self._to}"
                f"{' but layers that are kept' if self._start else ''}.{_endless(seen)}"
            )
        outputs = Outputs(self._model, names, batches)
        self._progress(f"quantising to {self._to}")

        def measure(levels: Levels, by: Outputs = outputs) -> Measured:
            if all(level is Level.FLOAT for level in converter.reached(levels).values()):
                return Measured(float("inf"), 0)
            made = converter.at(levels)
            errors = by.errors(made)
            seen = (error / by.reserve(name) for name, error in errors.items())
            return Measured(max(map(_worse, seen), default=0.0), made.ByteSize())

        found = Found(self._start, 0, True)
        if budget is not None:
            roughly = None
            if len(self._held) > MOST_ALONE:
                few = list(joined(self._held[:MOST_ALONE], self._original.inputs))
                roughly = partial(measure, by=Outputs(self._model, names, few))
            found = search(
                converter.layers, self._start, budget, measure, self._progress, roughly=roughly
            )
        levels = {**self._start, **found.levels}
        reached = converter.reached(levels)
        self._progress("comparing")
        return self._written(converter.at(levels), outputs, reached, found, budget, started)

    def _check_sizes(self, batches: Sequence[Sample]) -> None:
        """Check that the model can be run on the samples, once for each size.

        Raises:
            InputError: it cannot.
        """
        fetch = program_of(self._opened).fetch([info.name for info in self._original.outputs])
        checked: set[tuple[tuple[int, ...], ...]] = set()
        for batch in batches:
            shapes = tuple(value.shape for value in batch.values())
            if shapes not in checked:
                checked.add(shapes)
                fetch({name: batch[name] for name in fetch.plan.needs})

    def _written(
        self,
        made: onnx.ModelProto,
        outputs: Outputs,
        reached: Mapping[str, Level],
        found: Found,
        budget: float | None,
        started: float,
    ) -> QuantizeReport:
        """Write the model, compare it, and rename it into place."""
        opened = self._opened
        del made.metadata_props[:]
        for key, value in opened.metadata.items():
            made.metadata_props.add(key=key, value=value)
        words = {Level.NARROW: self._to, Level.STORED: "stored", Level.FLOAT: "float32"}
        levels = {layer: words[level] for layer, level in reached.items()}
        card = replace(self._card, verification=None, golden=self._golden)
        with replacing_model(self._path) as (temporary, data):
            Writer(made, Initializers(), data).write(temporary)
            with tempfile.TemporaryDirectory() as folder:
                trial = Path(folder) / "trial.onnx"
                shutil.copyfile(temporary, trial)
                append_card(trial, card)
                file = layertap.open(trial, device="cpu")
                rows, single = outputs.run(made), outputs.of_layers(file)
                fused, apart = outputs.apart(rows), outputs.apart(rows, single)
                errors = {k: max(fused[k], x, key=_worse) for k, x in outputs.apart(single).items()}
                layers = self._layer_errors(file)
                golden = {one.name: one.scaled for one in check(file, 0.0).layers}
                del file
            report = QuantizeReport(
                path=Path(self._path),
                card=card,
                to=self._to,
                outputs=errors,
                fused=apart,
                layers=layers,
                levels=levels,
                budget=budget,
                calibrated=len(self._calibrating),
                samples=len(self._held),
                trials=found.trials,
                size_bytes=0,
                source_bytes=self._size,
                seconds=0,
            )
            if not report or not found.holds:
                raise VerificationError(str(report), report)
            card = replace(
                card,
                quantized=Quantized(
                    to=self._to,
                    layers=levels,
                    outputs={name: digits(error, 3) for name, error in errors.items()},
                    samples=len(self._held),
                    golden={name: digits(x, 3) for name, x in golden.items()},
                    onnxruntime=import_onnxruntime().__version__,
                    calibrated=len(self._calibrating) or None,
                    budget=budget,
                ),
            )
            card = replace(card, digest=digest_of(FileSource(temporary), card))
            verified = Verified.of(temporary)
            append_card(temporary, card)
            check_finished(temporary, Path(self._path), verified, card, report)
            size = temporary.stat().st_size + data.size
        seconds = time.perf_counter() - started
        return replace(report, card=card, size_bytes=size, seconds=seconds)

    def _layer_errors(self, file: layertap.Model) -> dict[str, float]:
        """By layer, its error on some of the samples, the largest first."""
        names = {
            layer.name: str(layer.tensor)
            for layer in self._original.layers
            if layer.exposed and str(layer.tensor) in self._tensors
        }
        found = layer_errors(
            self._opened, file, list(dict.fromkeys(names.values())), self._held[:MOST_LAYERED]
        )
        ordered = sorted(names, key=lambda layer: -_worse(found[names[layer]]))
        return {layer: found[names[layer]] for layer in ordered}

    @cached_property
    def _tensors(self) -> list[str]:
        """The outputs of the graph with numbers with a point, without gradients."""
        gradients = self._original.gradients
        left_out = gradients.added if gradients else set[str]()
        return [
            value.name
            for value in self._model.graph.output
            if value.type.tensor_type.elem_type in (TensorProto.FLOAT, TensorProto.DOUBLE)
            and value.name not in left_out
        ]


def _check_float(opened: layertap.Model) -> None:
    """Raise UsageError for a file that is finished or quantised, or computes in 16 bits."""
    program = program_of(opened)
    if program.finished is not None:
        raise UsageError(
            f"{program.name} is a finished file. Quantise the file that it was made from, and "
            "finish that."
        )
    card = opened.card
    made = f" to {card.quantized.to}" if card is not None and card.quantized is not None else ""
    quantised = any(
        node.op_type in OPERATORS and OPERATORS[node.op_type].kind == "quantised"
        for node in program.graph.nodes
    )
    if made or quantised:
        raise UsageError(
            f"{program.name} is quantised already{made}. Quantise the file that it was made from."
        )
    narrow = narrow_tensors(program.source, program.graph)
    if narrow:
        dtype = next(iter(narrow.values())).dtype
        raise UsageError(
            f"{program.name} computes in {dtype} already. Quantise a file that computes in float32."
        )


def _endless(seen: Ranges) -> str:
    """A sentence if values are not finite on the samples; otherwise empty."""
    for name, ends in seen.items():
        if not np.isfinite(ends).all():
            return f" The values of {name!r} are NaN or infinite on the samples. Give others."
    return ""


def _is_empty(keep: Any) -> bool:
    return keep is None or (isinstance(keep, (list, tuple)) and not keep)


def _worse(error: float) -> float:
    """An error for comparing; NaN is the worst."""
    return error if error == error else float("inf")


def _loaded(source: Path, opened: layertap.Model) -> onnx.ModelProto:
    """The model with all weights inside, each of them an initializer."""
    initializers = Initializers()
    model = read(source, opened, initializers)
    for item in model.graph.initializer:
        if is_stub(item):
            item.CopyFrom(numpy_helper.from_array(initializers.value(item), item.name))
    nodes = []
    for node in model.graph.node:
        value = constant_of(node)
        if value is None:
            nodes.append(node)
        else:
            model.graph.initializer.add().CopyFrom(value)
            model.graph.initializer[-1].name = node.output[0]
    if len(nodes) < len(model.graph.node):
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    return model
