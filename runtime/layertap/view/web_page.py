"""A page for the browser with what a model does with some samples."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from layertap._arguments import count, flag, items, number
from layertap._engine.feeds import as_recipe
from layertap.cam.finished import check_options, computed_maps
from layertap.cam.heat_maps import choose_layer, raw_maps
from layertap.cam.methods import METHODS, Method, find_method
from layertap.cam.scores import (
    choose_output,
    class_scores,
    ends_in_activation,
    labels_of,
    of_both_classes,
    resolve_target,
)
from layertap.cam.targets import is_binary
from layertap.errors import LayertapError, UsageError
from layertap.format.atomic import check_target, replacing
from layertap.format.select import LAST
from layertap.format.text import number_of

from . import values as packing
from .about import file_data, file_title, shown
from .engine import find_engine
from .html_page import Page, as_json, html_page
from .layer_choice import representative
from .layer_store import LayerStore
from .live import live_page
from .room import blocks
from .samples import Sample, as_uri, picture_of_input, samples_of

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe
    from layertap._engine.program import Program
    from layertap.format.card import Finished
    from layertap.format.layer import Layer

MAX_MB = 10.0
"""Default size of a page."""

MOST_LAYERS = 60
"""Layers that are in a page if none are named."""

LEAST_BYTES = 6_000
"""Of each layer and sample; with more samples there are fewer layers."""

MOST_ITEMS = 256
"""Numbers or texts of an input that is no picture, which are shown instead of one."""

BASE64, FIXED = 4 / 3 * 1.002, 120_000
"""What base64 makes of incompressible bytes; bytes of the page itself."""

MOST_WORDS = 64
"""Whole numbers of an input that are shown as words, because they may be tokens."""

STORED, HEAT, SCORES = 0.85, 0.1, 0.05
"""Shares of a page for the values of layers, for heat maps, and for scores."""

CLASSES = 6
"""Most classes that have heat maps if no target is given."""

GRADIENT_METHODS = ("gradcam", "layercam", "hirescam")
"""The methods in a page if none are given and the file has gradients; then `eigencam`."""


Maps: TypeAlias = "dict[str, list[NDArray[Any]]]"
"""Heat maps of each sample, `(targets, h, w)`, by method."""


class Asked(NamedTuple):
    """What a caller of `make_page` asks for, checked."""

    layers: Any = None
    methods: Sequence[str] | None = None
    target: Any = None
    top: int = 5
    channels: int | None = None
    cam_layer: Any = None
    max_mb: float = MAX_MB


def write_page(
    program: Program,
    inputs: Any,
    path: str | os.PathLike[str],
    *,
    preprocess: Recipe | None,
    live: bool,
    engine: str | os.PathLike[str] | None,
    **options: Any,
) -> tuple[str, ...]:
    """See `Model.view`."""
    asked = checked(**options)
    given = [program.source.path] if program.source.path else []
    check_target(path, ".html", given)
    if flag("live", live):
        found = find_engine(engine)
        recipe = as_recipe(preprocess) if preprocess is not None else program.preprocessing
        samples = samples_of(program, inputs, preprocess)
        page = live_page(program, samples, asked.top, asked.channels, recipe, found)
    else:
        if engine is not None:
            raise UsageError("engine is for pages with live=True.")
        page = make_page(program, samples_of(program, inputs, preprocess), asked)
    with replacing(path) as temporary:
        temporary.write_bytes(page.html)
    return page.left_out


def checked(
    *,
    layers: Any = None,
    methods: Any = None,
    target: Any = None,
    top: Any = 5,
    channels: Any = None,
    cam_layer: Any = None,
    max_mb: Any = MAX_MB,
) -> Asked:
    """The options of `Model.view`.

    Raises:
        UsageError: one of them is invalid.
    """
    if methods is not None:
        given = [methods] if isinstance(methods, str) else items("methods", methods)
        methods = [find_method(name).name for name in given]
        if not methods:
            raise UsageError(f"no methods are given; the methods are {', '.join(METHODS)}.")
    channels = None if channels is None else count("channels", channels)
    max_mb = number("max_mb", max_mb, 1.0)
    return Asked(layers, methods, target, count("top", top), channels, cam_layer, max_mb)


def make_page(program: Program, samples: Sequence[Sample], asked: Asked) -> Page:
    """Run the model on the samples, and make the page.

    Raises:
        LayerNotFoundError: a selector matches nothing.
        UsageError: an unknown class or method, or heat maps that the file cannot give.
        InputError: the samples do not fit the model.
    """
    maker = _Maker(program, samples, asked)
    return maker.page()


class _Maker:
    """Makes one page."""

    def __init__(self, program: Program, samples: Sequence[Sample], asked: Asked) -> None:
        self.program, self.samples, self.asked = program, samples, asked
        self.left_out: list[str] = []
        self.blocks: list[bytes] = []
        self._name = file_title(program)
        self.budget = int((asked.max_mb * 1e6 - FIXED) / BASE64)

    def page(self) -> Page:
        program, asked = self.program, self.asked
        data = {**file_data(program), "top": asked.top}
        rows = data["layers"]
        self.budget -= int(len(as_json(data)) / BASE64)
        layers = self._layers()
        kept = [layer for layer in layers if self._is_stored(layer, explicit=True)]
        if self.samples:
            self._run(kept, data)
        data["leftOut"] = [shown(text) for text in self.left_out]
        html = html_page(f"{data['model']} - layertap", data, self.blocks)
        shown_layers = sum("maps" in row for row in rows)
        return Page(html, tuple(self.left_out), self._contents(shown_layers))

    def _contents(self, stored: int) -> str:
        pictures = any(sample.picture for sample in self.samples)
        noun = "image" if pictures else "sample"
        total = number_of(len(self.program.layers), "layer")
        if not self.samples:
            return total
        return f"{number_of(len(self.samples), noun)}, {stored} of {total}"

    # --- The choice of layers ---------------------------------------------------------------------

    def _layers(self) -> list[Layer]:
        """The layers whose values are stored."""
        program, asked = self.program, self.asked.layers
        if not self.samples:
            if asked is not None:
                program.select(asked)
            return []
        if asked is not None:
            return program.select(asked)
        rows = [row for row in program.layers if self._is_stored(row)]
        share = self.budget // (max(1, len(self.samples)) * LEAST_BYTES)
        most = max(8, min(MOST_LAYERS, share))
        if len(rows) <= most:
            return rows
        chosen = representative(program, rows, most)
        total = len([row for row in program.layers if row.exposed and row.attention is None])
        self.left_out.append(
            f"the values of {total - len(chosen):,} of {number_of(total, 'layer')}; name the "
            "layers to choose others"
        )
        return chosen

    def _is_stored(self, row: Layer, *, explicit: bool = False) -> bool:
        if not row.exposed or (row.attention is not None and not explicit):
            return False
        if row.per_sample is False:
            if explicit:
                self.left_out.append(
                    f"{row.name!r}: its values do not have one row for each sample"
                )
            return False
        return True

    # --- Runs -------------------------------------------------------------------------------------

    def _run(self, layers: Sequence[Layer], data: dict[str, Any]) -> None:
        program = self.program
        scores = self._score_tensors()
        tensors = [str(layer.tensor) for layer in layers]
        wanted = list(dict.fromkeys([*tensors, *scores]))
        if not wanted:
            raise UsageError(f"{program.name} has neither layers nor outputs to show.")
        fetch = program.fetch(wanted)
        fed = [self._feeds(sample, list(fetch.plan.needs)) for sample in self.samples]
        data["samples"] = [
            self._described(sample, feeds) for sample, feeds in zip(self.samples, fed, strict=True)
        ]
        store = LayerStore(
            program, self.asked.channels, layers, len(fed), int(self.budget * STORED)
        )
        found: list[dict[str, NDArray[Any]]] = []
        for feeds in fed:
            values = fetch(feeds)
            found.append({name: values[name] for name in scores})
            store.add({name: values[name] for name in tensors})
        scores = [name for name in scores if all(_is_table(one[name]) for one in found)]
        data["scores"] = self._scores(scores, found)
        data["heat"] = self._heat_maps(fed, scores, found)
        self.left_out += store.finish(data["layers"], self._block)

    def _feeds(self, sample: Sample, needed: Sequence[str]) -> dict[str, Any]:
        """The inputs for one sample; it is repeated if the model's batch has a fixed size."""
        program = self.program
        inputs = sample.inputs
        dims = [kind.dims for kind in program.graph.inputs.values()]
        size = dims[0][0] if len(dims) == 1 and dims[0] and not program.finished else None
        if isinstance(size, int) and size > 1:
            if isinstance(inputs, dict):
                inputs = {
                    name: np.repeat(value, size, 0) if len(value) == 1 else value
                    for name, value in inputs.items()
                }
            elif len(inputs) == 1:
                repeated = isinstance(inputs, np.ndarray)
                inputs = np.repeat(inputs, size, 0) if repeated else [*inputs] * size
        return program.prepare_arrays(needed, inputs, sample.recipe)

    def _described(self, sample: Sample, feeds: dict[str, Any]) -> dict[str, Any]:
        """A sample as JSON: its name, and a picture."""
        described: dict[str, Any] = {"name": shown(sample.name)}
        picture, origin = sample.picture, "image"
        for name, value in feeds.items():
            if picture is not None or "items" in described:
                break
            one = packing.layer_values(self.program, name, np.asarray(value))
            if one is None:
                continue
            if one.maps.ndim == 2:  # a sequence, which the page draws from its values
                break
            picture, origin = picture_of_input(one.maps), "input"
            if one.maps.ndim == 1 and len(one.maps) <= MOST_ITEMS:
                described["items"] = _items(one.maps)
        if picture is not None:
            described["picture"] = as_uri(picture)
            described["origin"] = origin
            described["width"], described["height"] = picture.size
            self.budget -= int(len(described["picture"]) / BASE64)
        return described

    # --- Scores -----------------------------------------------------------------------------------

    def _score_tensors(self) -> list[str]:
        """The outputs that may be scores of classes, the one with gradients first."""
        program = self.program
        if program.finished is not None:  # it has heat maps among its outputs
            return [program.finished.scores] if program.finished.scores else []
        names = [info.name for info in program.outputs if len(info.shape) == 2]
        if not names:
            return []
        first = choose_output(program, None)
        return sorted(names, key=lambda name: name != first)

    def _scores(
        self, names: Sequence[str], found: Sequence[dict[str, NDArray[Any]]]
    ) -> list[dict[str, Any]]:
        """The scores of each output, with a block of float32 `(samples, classes)`."""
        scores = []
        for at, name in enumerate(names):
            table = np.concatenate([values[name][:1] for values in found]).astype("<f4")
            labels = list(self.program.labels or ())
            if at == 0 and is_binary(table.shape[1], labels):
                table = of_both_classes(self.program, name, table)
            if table.size * 4 > int(self.budget * SCORES) // len(names):
                self.left_out.append(f"the scores in {name!r}: there are {table.shape[1]:,}")
                continue
            own = at == 0 and len(labels) == table.shape[1]
            scores.append(
                {
                    "output": shown(name),
                    "labels": own,
                    "classes": table.shape[1],
                    "probability": ends_in_activation(self.program, name),
                    "block": self._block(table.astype("<f4").tobytes()),
                }
            )
        return scores

    def _block(self, data: bytes) -> int:
        self.blocks.append(data)
        return len(self.blocks) - 1

    # --- Heat maps --------------------------------------------------------------------------------

    def _heat_maps(
        self,
        fed: Sequence[dict[str, Any]],
        names: Sequence[str],
        found: Sequence[dict[str, NDArray[Any]]],
    ) -> dict[str, Any] | None:
        """Heat maps by method and class; `None` if the file cannot give any."""
        asked = self.asked
        explicit = not (asked.methods is None and asked.target is None and asked.cam_layer is None)
        try:
            return self._drawn(fed, names, found)
        except LayertapError as exc:
            if explicit:
                raise
            reason = str(exc).replace(self.program.name, self._name).rstrip(".")
            self.left_out.append(f"heat maps: {reason}")
            return None

    def _drawn(
        self,
        fed: Sequence[dict[str, Any]],
        names: Sequence[str],
        found: Sequence[dict[str, NDArray[Any]]],
    ) -> dict[str, Any] | None:
        classes, labels = self._classes(names, found)
        finished = self.program.finished
        maps, layer = (
            self._computed(finished, fed, classes) if finished else self._made(fed, classes)
        )
        if next(iter(maps.values()))[0].ndim > 3:
            self.left_out.append("heat maps: those of volumes are not drawn")
            return None
        return {
            "layer": shown(layer),
            "classes": classes,
            "labels": labels,
            "methods": [self._method(METHODS[name], maps[name], len(maps)) for name in maps],
        }

    def _made(self, fed: Sequence[dict[str, Any]], classes: list[int]) -> tuple[Maps, str]:
        """The maps by method, and the name of the layer."""
        program, given = self.program, self.asked.cam_layer
        gradients = program.card.gradients if program.card else None
        methods = self._methods(bool(gradients and gradients.tensors))
        if given is None and not (gradients and gradients.tensors):
            given = LAST
        layer = choose_layer(program, given, methods[0])
        for method in methods[1:]:
            choose_layer(program, layer, method)
        maps: Maps = {method.name: [] for method in methods}
        for sample, feeds in zip(self.samples, fed, strict=True):
            found = raw_maps(
                program, feeds, layer, classes or "top", methods, preprocess=sample.recipe
            )
            for name, one in found.items():
                maps[name].append(one[0])
        return maps, layer.name

    def _computed(
        self, finished: Finished, fed: Sequence[dict[str, Any]], classes: list[int]
    ) -> tuple[Maps, str]:
        """The same for a finished file, which computes its heat map itself."""
        program, asked = self.program, self.asked
        for method in asked.methods or [str(finished.method)]:
            check_options(program, finished, asked.cam_layer, method, {})
        maps = [
            computed_maps(program, finished, feeds, classes or "top", True)[0][0] for feeds in fed
        ]
        return {str(finished.method): maps}, str(finished.layer)

    def _method(
        self, method: Method, maps: Sequence[NDArray[np.float64]], methods: int
    ) -> dict[str, Any]:
        """One method's maps, as a block of float32 `(samples, targets, h, w)`; if they are large,
        of the means of blocks."""
        largest = max(maps, key=lambda one: one.size)
        room = int(self.budget * HEAT) // (4 * len(maps) * methods)
        side = 1
        while math.prod(blocks(largest.shape[1:], side)) * len(largest) > room:
            if side >= max(largest.shape[1:]):
                break
            side += 1
        reduced = [packing.block_means(one, side) for one in maps]
        return {
            "name": method.name,
            "byClass": bool(method.takes),
            "step": side,
            "sizes": [list(one.shape[1:]) for one in reduced],
            "targets": len(largest),
            "block": self._block(b"".join(one.astype("<f4").tobytes() for one in reduced)),
        }

    def _methods(self, gradients: bool) -> list[Method]:
        if self.asked.methods is not None:
            return [find_method(name) for name in dict.fromkeys(self.asked.methods)]
        names = (*GRADIENT_METHODS, "eigencam") if gradients else ("eigencam",)
        return [find_method(name) for name in names]

    def _classes(
        self, names: Sequence[str], found: Sequence[dict[str, NDArray[Any]]]
    ) -> tuple[list[int], bool]:
        """The classes that have heat maps, and whether the labels are theirs."""
        program, target = self.program, self.asked.target
        output = choose_output(program, None)
        if output not in names:
            if target is None:
                return [], False
            raise UsageError(f"the output {output!r} has no scores of classes to choose from.")
        scores = np.stack(
            [class_scores(program, output, values[output][:1])[0] for values in found]
        )
        labels = labels_of(program, output)
        binary = is_binary(scores.shape[1], labels)
        classes = 2 if binary else scores.shape[1]
        own = len(labels or ()) == classes
        if target is not None:
            chosen = resolve_target(program, output, target, scores).classes
            if chosen is None:
                raise UsageError("a page shows classes: give labels or indices, not weights.")
            return [int(x) for x in dict.fromkeys(chosen.T.reshape(-1).tolist())], own
        if binary:
            return [1, 0], own
        with np.errstate(all="ignore"):
            order = np.argsort(-scores, axis=1, kind="stable")
        votes = Counter(int(one) for one in order[:, 0])
        best = [one for one, _ in sorted(votes.items(), key=lambda item: (-item[1], item[0]))]
        more = (int(one) for column in order.T for one in column)
        return list(dict.fromkeys([*best, *more]))[: min(CLASSES, max(3, len(best)))], own


def _is_table(value: Any) -> bool:
    """Whether a value may be scores, `(n, classes)`."""
    return isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "fiu"


def _items(values: NDArray[Any]) -> list[Any]:
    """The values of a vector: texts, or the numbers of tokens, as words; others as numbers."""
    if values.dtype.kind not in "fb":
        return [shown(str(item)[: packing.LONGEST]) for item in values]
    whole = (
        values.dtype.kind == "f"
        and len(values) <= MOST_WORDS
        and (np.floor(values) == values).all()
    )
    return [f"{item:.0f}" if whole else packing.number(item) for item in values]
