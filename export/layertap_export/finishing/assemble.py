"""From a model to a finished one: what is added before and after its nodes."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from layertap._cut.plan import peel
from layertap._cut.reductions import append
from layertap._engine.program import Program
from layertap.cam.available import missing, require
from layertap.cam.heat_maps import choose_layer
from layertap.cam.methods import find_method
from layertap.cam.scores import choose_output, class_axis, ends_in_activation
from layertap.cam.targets import is_binary
from layertap.errors import UsageError
from layertap.format.card import MAJOR, MINOR, Card, Finished, TensorInfo, Verification
from layertap.format.layer import Layer
from layertap.format.stripping import only
from layertap.format.text import number_of, shape_text
from layertap.images.preprocessing import Preprocessing
from layertap_export.gradients.builder import Builder, Value
from layertap_export.graph.graph import in_order, prune, rename_reads
from layertap_export.graph.shapes.shapes import Shapes
from layertap_export.graph.unique_names import UniqueNames

from . import methods
from .classes import Classes
from .heat_map import finished as finished_map
from .picture_input import PictureInput, prepare
from .regions import Axis
from .tensors import as_double, part, reshaped


def samples_of(info: TensorInfo) -> int | None:
    """How many samples an input takes at once; `None` for any number."""
    return info.shape[0]


PREFIX = "finish/"
"""The prefix of the names of what is added."""

PUBLIC = ("image", "target", "heat_map", "top_scores", "top_classes")
"""The names of what a finished file takes and gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a finished file should take and give."""

    recipe: Preprocessing | None
    """Of the picture; `None` leaves the model's inputs as they are."""
    batch: bool
    """Whether it takes several pictures of one size, instead of one."""
    heat_map: str | int | Layer | bool
    """The layer of the heat map; `True` for the last one with a gradient, `False` for no map."""
    method: str
    output: str | None
    """The output with the classes; `None` for that of the gradients, or the first."""
    top: int
    """The number of best classes, 0 for none."""
    layers: Sequence[tuple[Layer, str | None]]
    """Layers that become outputs, each with a reduction or `None`."""


class Reduced(NamedTuple):
    """An output that is a reduction of a layer."""

    layer: Layer
    how: str
    at: int
    """Its index among the outputs of the reduction: `top5` has values, then channels."""


class Assembled(NamedTuple):
    """What `assemble` returns."""

    card: Card
    """The card of the finished model, without what is measured."""
    reductions: Mapping[str, Reduced]
    """The outputs that are reductions of layers, by name."""
    prepared: str | None
    """The tensor with what the recipe makes of the picture; `None` if there is no picture."""


def assemble(model: onnx.ModelProto, program: Program, card: Card, wanted: Wanted) -> Assembled:
    """Turn a model into a finished one, in place.

    Args:
        model: the model, with gradients if the heat map needs some.
        program: the same model, opened.
        card: its card.

    Raises:
        UsageError: the model has no scores of classes or no image input, or the recipe or the
            method cannot be computed by a graph.
        LayerNotFoundError: there is no such layer, or no gradient for it.
    """
    if wanted.recipe is None and wanted.heat_map is False and not wanted.top and not wanted.layers:
        raise UsageError(
            "there is nothing to add: ask for a picture as the input, a heat map, the best classes "
            "or layers."
        )
    assembly = _Assembly(model, program, card, wanted)
    return Assembled(assembly.finish(), assembly.reductions, assembly.prepared)


class _Assembly:
    """The steps of `assemble`."""

    def __init__(
        self, model: onnx.ModelProto, program: Program, card: Card, wanted: Wanted
    ) -> None:
        self._model, self._program, self._card, self._wanted = model, program, card, wanted
        self._inputs = [info for info in card.inputs if info.name in program.graph.inputs]
        self.prepared: str | None = None
        self._new: dict[str, str] = {}
        if wanted.recipe is not None:
            self.prepared = self._free_prepared()
        self._build = Builder(model, Shapes(model), prefix=PREFIX, names_nodes=False)
        self._entries = {value.name: value for value in model.graph.input}
        self._outputs: list[onnx.ValueInfoProto] = []
        self.reductions: dict[str, Reduced] = {}
        self._rows: list[TensorInfo] = []
        self._named = UniqueNames(self._taken(), "_", 1)

    def _free_prepared(self) -> str:
        """The tensor that the picture becomes. If the model's input is called `image`, as that of
        the finished file is, it gets another name."""
        info = self._image_input()
        if info.name not in PUBLIC:
            return info.name
        name = UniqueNames(self._taken(), "_", 1).free(f"prepared/{info.name}")
        self._new[info.name] = name
        graph = self._model.graph
        rename_reads(graph.node, self._new)
        for value in (*graph.input, *graph.output):
            value.name = self._new.get(value.name, value.name)
        rows = (
            replace(row, tensor=name) if row.tensor == info.name else row
            for row in self._card.layers
        )
        self._card = replace(self._card, layers=tuple(rows))
        return name

    def _taken(self) -> set[str]:
        graph = self._model.graph
        stated = (*graph.input, *graph.output, *graph.initializer)
        made = {name for node in graph.node for name in node.output}
        return made | {value.name for value in stated}

    def finish(self) -> Card:
        wanted, facts = self._wanted, Finished()
        kept = {value.name: value for value in self._model.graph.output}
        own = [kept[info.name] for info in self._card.outputs]
        layers = [layer for layer, how in wanted.layers if how is None]
        for tensor in dict.fromkeys(map(self._tensor, layers)):
            stated = (kept | self._entries)[tensor]
            if stated not in own:
                own.append(stated)
        self._outputs = own
        if wanted.recipe is not None:
            facts, axes = self._picture_in(facts, wanted.recipe)
        elif wanted.heat_map is not False:
            axes = self._axes_of_input()
        if wanted.heat_map is not False or wanted.top:
            output = self._class_output()
            facts = replace(facts, scores=output)
        if wanted.top:
            facts = self._best_out(facts, self._classes(output))
        if wanted.heat_map is not False:
            facts = self._map_out(facts, output, axes)
        for layer, how in wanted.layers:
            if how is not None:
                self._reduced_out(layer, how)
        self._close()
        rows = only(self._card.layers, {value.name for value in own})
        return replace(
            self._card,
            inputs=tuple(self._inputs),
            outputs=(*self._card.outputs, *self._rows),
            layers=rows,
            preprocessing=None,
            images=None,
            gradients=None,
            golden=None,
            digest=None,
            stripped=None,
            finished=facts,
            format=f"{MAJOR}.{MINOR}",
            verification=self._left_checks({layer.name for layer in rows}),
        )

    def _left_checks(self, names: Container[str]) -> Verification | None:
        """The measured errors of the layers that are left."""
        found = self._card.verification
        if found is None:
            return None
        own = {info.name for info in self._card.outputs}
        left = {name: x for name, x in found.layers.items() if name in names or name in own}
        return replace(found, layers=left)

    def _tensor(self, layer: Layer) -> str:
        """The tensor of a layer, by the name that it has now."""
        return self._new.get(str(layer.tensor), str(layer.tensor))

    # --- Inputs ---------------------------------------------------------------------------------

    def _picture_in(
        self, facts: Finished, recipe: Preprocessing
    ) -> tuple[Finished, tuple[Axis, Axis]]:
        """Replace the input for images by one for a picture."""
        info = self._image_input()
        name = self._named.free("image")
        batch = self._wanted.batch
        sizes: list[str | int] = ["height", "width", "channels"]
        samples = samples_of(info)
        if batch:
            sizes.insert(0, samples or "batch")
        elif samples not in (None, 1):
            raise UsageError(
                f"{self._program.name} takes exactly {samples} samples at once. With batch=True "
                "(--batch), the finished file takes as many pictures."
            )
        picture = Value(self._build, name, TensorProto.UINT8)
        made: PictureInput = prepare(self._build, picture, recipe, batch=batch)
        own = str(self.prepared)
        dtype = self._entries[own].type.tensor_type.elem_type
        self._build.output(made.prepared.cast(dtype), own)
        stated = helper.make_tensor_value_info(name, TensorProto.UINT8, sizes)
        self._entries = {
            name if key == own else key: stated if key == own else value
            for key, value in self._entries.items()
        }
        shape = tuple(size if isinstance(size, int) else None for size in sizes)
        axes = "NHWC" if batch else "HWC"
        row = TensorInfo(name=name, shape=shape, dtype="uint8", axes=axes)
        self._inputs = [row if one is info else one for one in self._inputs]
        return replace(facts, image=name, preprocessing=recipe.to_dict()), made.axes

    def _image_input(self) -> TensorInfo:
        """The input that takes images."""
        found = self._images()
        if len(found) == 1:
            return found[0]
        many = f"{len(found)} inputs that could be images" if found else "no input for an image"
        raise UsageError(
            f"{self._program.name} has {many}: {self._shown()}. A finished file takes one picture; "
            "with image_input=False (--no-image-input) it keeps the model's own inputs."
        )

    def _images(self) -> list[TensorInfo]:
        return [info for info in self._inputs if len(info.shape) == 4]

    def _shown(self) -> str:
        inputs = ", ".join(f"{x.name!r} {shape_text(x.shape)}" for x in self._inputs)
        return f"its inputs are {inputs}"

    def _axes_of_input(self) -> tuple[Axis, Axis]:
        """Height and width of the input, for a file that takes what is prepared already; of several
        the first, as in `layertap.cam`."""
        build, none = self._build, self._build.int64([0])
        info = next(iter(self._images()), None)
        if info is None:
            raise UsageError(
                f"{self._program.name} has no input for an image, so a heat map has no size: "
                f"{self._shown()}."
            )
        letters = self._program.axes(info.name, len(info.shape))
        spatial = [at for at, letter in enumerate(letters) if letter not in "NC"]
        shape = build.tensor(info.name).shape()
        sizes = [part(build, shape, 0, at, at + 1) for at in spatial]
        high, wide = (Axis(size, none, size, size, none, size) for size in sizes)
        return high, wide

    # --- Outputs --------------------------------------------------------------------------------

    def _class_output(self) -> str:
        method = find_method(self._wanted.method)
        with_gradients = self._wanted.heat_map is not False and method.takes == "gradients"
        program = self._program
        output = choose_output(program, self._wanted.output, with_gradients=with_gradients)
        names = [info.name for info in self._card.outputs]
        if output in names:
            return output
        if not with_gradients and self._wanted.output is None and names:
            return names[0]
        raise UsageError(
            f"{program.name} has the gradients of {output!r}, which is not an output of the model. "
            "A finished file explains the classes of an output: write their gradients into a file "
            "first, `layertap gradients FILE --layers LAYER --score OUTPUT -o NEW.onnx`."
        )

    def _classes(self, output: str) -> Classes:
        build = self._build
        scores = build.tensor(output)
        rank = build.rank(scores)
        if rank < 2:
            raise UsageError(
                f"the output {output!r} has no axis of classes: its shape is "
                f"{shape_text(self._info(output).shape)}."
            )
        axis = class_axis(self._program, output, rank)
        if rank > 2:
            if axis != rank - 1:
                order = [at for at in range(rank) if at != axis]
                scores = scores.op("Transpose", perm=[*order, axis])
            shape = scores.shape()
            classes = part(build, shape, 0, rank - 1, rank)
            rows = reshaped(build, scores, part(build, shape, 0, 0, 1), -1, classes)
            count = part(build, rows.shape(), 0, 1, 2).cast(scores.dtype)
            scores = rows.op("ReduceSum", build.int64([1]), keepdims=0) / count
        return Classes(
            scores,
            binary=is_binary(self._info(output).shape[axis], self._program.labels),
            axis=axis,
            probability=ends_in_activation(self._program, output),
        )

    def _info(self, output: str) -> TensorInfo:
        return next(info for info in self._card.outputs if info.name == output)

    def _best_out(self, facts: Finished, classes: Classes) -> Finished:
        """Add the best classes."""
        count = self._wanted.top
        known = self._info(str(facts.scores)).shape[classes.axis]
        known = 2 if classes.binary else known
        if known is not None and count > known:
            has = number_of(known, "class", "classes")
            raise UsageError(f"top is {count}, but {facts.scores!r} has only {has}.")
        scores, indices = classes.best(self._build, count)
        names = self._named.free("top_scores"), self._named.free("top_classes")
        for name, value, dtype in zip(names, (scores, indices), ("float32", "int64"), strict=True):
            self._add(name, value, (None, count), dtype, "NC")
        return replace(facts, top_scores=names[0], top_classes=names[1])

    def _map_out(self, facts: Finished, output: str, axes: tuple[Axis, Axis]) -> Finished:
        """Add the heat map and, if it explains a class, the input for the class."""
        build, program = self._build, self._program
        method = methods.chosen(self._wanted.method)
        asked = self._wanted.heat_map
        layer = choose_layer(program, None if isinstance(asked, bool) else asked, method)
        activations = self._feature_maps(build.tensor(self._tensor(layer)), layer)
        facts = replace(facts, layer=layer.name, method=method.name)
        if method.name in methods.WITHOUT_GRADIENT:
            maps = methods.WITHOUT_GRADIENT[method.name](build, activations)
        else:
            gradients = require(program)
            if layer.name not in gradients.tensors:
                raise missing(program, gradients.tensors, layer.name)
            target = self._named.free("target")
            self._seed(gradients.weights, self._classes(output), target)
            facts = replace(facts, target=target)
            slope = build.tensor(gradients.tensors[layer.name])
            slopes = self._feature_maps(slope, layer)
            maps = methods.WITH_GRADIENT[method.name](build, activations, slopes)
        done = finished_map(build, maps, axes)
        name = self._named.free("heat_map")
        shape: tuple[int | None, ...] = (None, None, None)
        letters = "NHW"
        if self._wanted.recipe is not None and not self._wanted.batch:
            done = done.op("Squeeze", build.int64([0]))
            shape, letters = (None, None), "HW"
        self._add(name, done, shape, "float32", letters)
        return replace(facts, heat_map=name)

    def _feature_maps(self, value: Value, layer: Layer) -> Value:
        """Activations of a layer, or their gradient, as `(n, h, w, c)` in float64."""
        rank = self._build.rank(self._build.tensor(self._tensor(layer)))
        letters = self._program.axes(str(layer.tensor), rank)
        tokens = layer.tokens
        if (rank != 4 and tokens is None) or "C" not in letters:
            raise UsageError(
                f"a heat map needs a layer with feature maps, (n, h, w, c), but {layer.name!r} has "
                f"the shape {shape_text(layer.shape)}."
            )
        samples, channels = max(letters.find("N"), 0), letters.find("C")
        others = [axis for axis in range(rank) if axis not in (samples, channels)]
        order = [samples, *others, channels]
        if order != sorted(order):
            value = value.op("Transpose", perm=order)
        if tokens is not None:
            (rows, columns), first = tokens.grid, tokens.first
            kept = part(self._build, value, 1, first, first + rows * columns)
            batch, width = (part(self._build, kept.shape(), 0, at, at + 1) for at in (0, 2))
            value = reshaped(self._build, kept, batch, rows, columns, width)
        return as_double(value)

    def _seed(self, weights: str, classes: Classes, target: str) -> None:
        """Compute the weights of the scores from the input for the class."""
        graph = self._model.graph
        value = self._build.tensor(weights)
        rank = self._build.rank(value)
        dtype = self._build.shapes.dtype(weights)
        chosen = classes.weights(self._build, Value(self._build, target, TensorProto.INT64))
        count = part(self._build, chosen.shape(), 0, 1, 2)
        sizes: list[Any] = [-1, *[1] * (rank - 1)]
        sizes[classes.axis] = count
        made = reshaped(self._build, chosen, *sizes)
        kept = [item for item in graph.initializer if item.name != weights]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        del self._entries[weights]
        self._build.output(made.cast(dtype), weights)
        stated = helper.make_tensor_value_info(target, TensorProto.INT64, [None])
        self._entries[target] = stated
        several = self._wanted.batch or self._wanted.recipe is None
        shape = (None,) if several else (1,)
        self._inputs.append(TensorInfo(name=target, shape=shape, dtype="int64", axes="N"))

    def _reduced_out(self, layer: Layer, how: str) -> None:
        """Add a reduction of a layer."""
        tensor = str(layer.tensor)
        leaf = peel(self._program.graph, [tensor])[tensor]
        opset = self._program.graph.opsets.get("", 0)
        meanings = self._program.axes(tensor, len(layer.shape))
        added = append(layer, leaf, how, None, opset, meanings)
        assert added is not None
        graph = onnx.GraphProto.FromString(added.nodes)
        rename_reads(graph.node, self._new)
        self._model.graph.node.extend(graph.node)
        for at, (made, (kind, _)) in enumerate(added.writes.items()):
            name = self._named.free(f"{layer.name}/{how}" + ("/channels" if at else ""))
            self.reductions[name] = Reduced(layer, how, at)
            dtype = helper.np_dtype_to_tensor_dtype(np.dtype(kind.dtype))
            self._model.graph.node.append(helper.make_node("Identity", [made], [name], name=name))
            self._outputs.append(helper.make_tensor_value_info(name, dtype, [None, None]))
            self._rows.append(
                TensorInfo(name=name, shape=(None, None), dtype=kind.dtype, axes="NC")
            )

    def _add(
        self, name: str, value: Value, shape: tuple[int | None, ...], dtype: str, axes: str
    ) -> None:
        """Add an output."""
        self._build.output(value, name)
        number = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}[dtype]
        self._outputs.append(helper.make_tensor_value_info(name, number, shape))
        self._rows.append(TensorInfo(name=name, shape=shape, dtype=dtype, axes=axes))

    def _close(self) -> None:
        """Put everything into the graph, in order, and take out what nothing needs."""
        graph = self._model.graph
        self._build.finish()
        nodes = in_order(graph.node)
        del graph.node[:]
        graph.node.extend(nodes)
        del graph.output[:], graph.input[:]
        graph.output.extend(self._outputs)
        prune(self._model, [value.name for value in self._outputs])
        read = {name for node in graph.node for name in node.input}
        graph.input.extend(value for name, value in self._entries.items() if name in read)
        self._inputs = [info for info in self._inputs if info.name in read]
