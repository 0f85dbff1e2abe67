"""Heat maps by one of the CAM methods."""

from __future__ import annotations

import functools
import itertools
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from layertap._arguments import choice, count, flag, sizes
from layertap._engine.empty import is_empty_batch, with_samples
from layertap._engine.feeds import is_image
from layertap._engine.program import HasProgram, Program, outside, program_of
from layertap.errors import LayerNotFoundError, LayertapWarning, UsageError, suggest
from layertap.format.attention_rows import last_tokens
from layertap.format.layer import Axes, Layer
from layertap.format.select import LAST
from layertap.format.text import class_text, shape_text

from . import available, targets, upsampling
from .attended import attention_gatherer
from .axes import as_fed, channels_last
from .evidence import Evidence, Gatherer, Reshape
from .finished import check_options, computed_maps
from .masking import Options, not_for
from .methods import DEFAULT, Method, find_method
from .patches import folded
from .places import At
from .projections import principal
from .rollout import HEADS
from .scores import choose_output, labels_of
from .targets import Array, Target

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe
    from layertap.format.card import Finished

MASKS = ("layer", "input")
"""The values of `mask`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMaps:
    """The result for a batch of images."""

    maps: npt.NDArray[np.float32]
    """`(n, targets, h, w)`."""
    method: str
    layer: str
    classes: npt.NDArray[np.int64] | None
    """`(n, targets)`: the class of each map; `None` if weights of the classes were given."""
    scores: npt.NDArray[np.float32]
    """`(n, targets)`: the model's output for each target; its mean if it has several positions."""
    several: bool = True
    """Whether several targets were given, also as a list of one."""
    labels: Sequence[str] | None = None
    """The names of the classes; `None` if they have none."""

    @property
    def explains_class(self) -> bool:
        """Whether the maps depend on the targets; not for EigenCAM, KPCA-CAM, rollout."""
        return bool(find_method(self.method).takes)


def cam(model: HasProgram, inputs: Any, layer: Any, target: Target, **options: Any) -> Array:
    """See `Model.cam`."""
    found = heat_maps(model, inputs, layer, target, **options)
    one = _is_one_image(program_of(model), inputs) and not found.several
    return found.maps[0, 0] if one else found.maps


def heat_maps(
    model: HasProgram,
    inputs: Any,
    layer: str | int | Layer | None = None,
    target: Target = targets.TOP,
    *,
    method: str | None = None,
    normalize: bool = True,
    resize: bool | Sequence[int] = True,
    aug_smooth: bool = False,
    eigen_smooth: bool = False,
    mask: str = "layer",
    channels: int | None = None,
    window: Any = None,
    stride: Any = None,
    samples: int | None = None,
    cells: Any = None,
    keep: float | None = None,
    baseline: Any = None,
    seed: int = 0,
    batch_size: int = 32,
    output: str | None = None,
    reshape: Reshape | None = None,
    preprocess: Recipe | None = None,
    at: At | None = None,
    heads: str | None = None,
) -> HeatMaps:
    """Heat maps as in `Model.cam`, always with four axes, with their classes and scores.

    Args:
        model: a `layertap.Model`. See `Model.cam` for the other arguments and the errors.
    """
    choice("mask", mask, MASKS)
    batch_size = count("batch_size", batch_size)
    channels = None if channels is None else count("channels", channels)
    normalize, aug_smooth = flag("normalize", normalize), flag("aug_smooth", aug_smooth)
    eigen_smooth = flag("eigen_smooth", eigen_smooth)
    if reshape is not None and not callable(reshape):
        raise UsageError(f"reshape must be a function of an array, got {class_text(reshape)}.")
    program, chosen = program_of(model), find_method(DEFAULT if method is None else method)
    masked = Options(window, stride, samples, cells, keep, count("seed", seed, least=0))
    unused = masked.unused(chosen.name)
    if heads is not None:
        choice("heads", heads, tuple(HEADS))
        if chosen.name != "rollout":
            raise UsageError(f"heads is for the method rollout, got {chosen.name}.")
    if unused is None and baseline is not None and chosen.takes != "positions":
        unused = "baseline"
    if unused is not None:
        raise UsageError(not_for(unused, chosen.name))
    if program.finished is not None:
        options = {
            "normalize": not normalize, "aug_smooth": aug_smooth, "eigen_smooth": eigen_smooth,
            "mask": mask != "layer", "channels": channels is not None,
            "at": at is not None, "reshape": reshape is not None, "heads": heads is not None,
            "preprocess": preprocess is not None,
            "resize": resize is False, "output": output not in (None, program.finished.scores),
        }  # fmt: skip
        return _from_finished(
            program, program.finished, inputs, layer, target, method, resize, options
        )
    if not chosen.takes:
        _warn_of_target(chosen, target)
    if at is not None and not chosen.takes:
        raise UsageError(
            f"at is for methods that explain a class, not for {chosen.name}. Leave out at, or "
            "choose one of them, such as gradcam."
        )
    scores = choose_output(program, output, with_gradients=chosen.takes == "gradients")
    gather: Gatherer
    if chosen.of_attention:
        if reshape is not None:
            raise UsageError(
                f"reshape is for maps of a layer, not for {chosen.name}. Leave it out."
            )
        gather = attention_gatherer(
            program, layer, chosen, output=scores, at=at, heads=heads or "mean"
        )
    else:
        row = choose_layer(program, layer, chosen)
        gather = Gatherer(
            program=program,
            layer=row,
            method=chosen,
            output=scores,
            options=masked,
            baseline=0.0 if baseline is None else baseline,
            masks_input=mask == "input" and chosen.takes == "masked",
            channels=channels,
            batch_size=batch_size,
            reshape=reshape or folded(program, row),
            at=at,
        )
    feeds = gather.prepare(inputs, preprocess)
    kept = slice(None)
    if is_empty_batch(feeds):  # the maps of one sample have the right shape
        feeds, kept = with_samples(feeds, 1), slice(0)
    evidence = gather(feeds, target)
    rank = evidence.activations.ndim - 2
    size = _size(gather, feeds, rank, resize)

    def finished(evidence: Evidence) -> npt.NDArray[np.float32]:
        with np.errstate(all="ignore"):  # NaN and infinity come out as they are
            return _finished(chosen, _raw(chosen, evidence, eigen_smooth), size, normalize)

    maps = finished(evidence)
    if aug_smooth:
        if at is not None or evidence.targets.shape is not None:
            given = "at" if at is not None else "a target with weights of positions"
            raise UsageError(
                f"{given} cannot be combined with aug_smooth: the places would be others in the "
                "mirrored images. Leave out one of them."
            )
        image = gather.image(feeds, rank)
        parts = [maps]
        for changed, back in _augmented(program, image, feeds[image]):
            parts.append(back(finished(gather({**feeds, image: changed}, evidence.targets))))
        maps = np.stack(parts).mean(axis=0, dtype=np.float64).astype(np.float32)
    classes = evidence.targets.classes
    return HeatMaps(
        maps=maps[kept],
        method=chosen.name,
        layer=gather.label,
        classes=None if classes is None else classes[kept],
        scores=evidence.targets.scores(evidence.outputs)[kept],
        several=evidence.targets.several,
        labels=labels_of(program, gather.output),
    )


def _from_finished(
    program: Program,
    facts: Finished,
    inputs: Any,
    layer: Any,
    target: Target,
    method: str | None,
    resize: bool | Sequence[int],
    options: Mapping[str, bool],
) -> HeatMaps:
    """The heat maps that a finished file computes."""
    check_options(program, facts, layer, method, options)
    if facts.target is None:
        _warn_of_target(find_method(str(facts.method)), target)
    maps, found, outputs = computed_maps(program, facts, inputs, target, resize)
    return HeatMaps(
        maps=maps,
        method=str(facts.method),
        layer=str(facts.layer),
        classes=found.classes,
        scores=found.scores(outputs),
        several=found.several,
        labels=program.labels,
    )


def raw_maps(
    program: Program,
    inputs: Any,
    layer: Layer,
    target: Target,
    methods: Sequence[Method],
    *,
    preprocess: Recipe | None = None,
    output: str | None = None,
    batch_size: int = 32,
) -> dict[str, npt.NDArray[np.float64]]:
    """The results of the formulas of several methods, in the size of the layer, by method.

    Methods that take the same share the runs. `Model.cam` makes finished maps of these: negative
    values become 0, the map is resized, and divided by its maximum. From maps in which the least
    value means no evidence (`rise`, `reciprocam`), it is subtracted.

    Args:
        program: computes them.
        inputs: as `Model.cam` takes them.
        layer: a layer with feature maps.
        target: see `Model.cam`.
        methods: the methods.
        preprocess: a recipe for images instead of the card's.
        output: name of the output that contains the classes, for methods without gradients.
        batch_size: number of channels of `scorecam` and `ablationcam` that are run at once.

    Returns:
        `(n, targets, h, w)`; one target for methods that do not explain a class.
    """
    found: dict[str, npt.NDArray[np.float64]] = {}
    evidence: dict[str, Evidence] = {}
    for method in methods:
        key = method.name if method.takes == "positions" else method.takes
        if key not in evidence:
            gather = Gatherer(
                program=program,
                layer=layer,
                method=method,
                output=choose_output(program, output, with_gradients=method.takes == "gradients"),
                batch_size=batch_size,
                reshape=folded(program, layer),
            )
            evidence[key] = gather(gather.prepare(inputs, preprocess), target)
        with np.errstate(all="ignore"):
            maps = _from_least(method, _raw(method, evidence[key], eigen_smooth=False))
        found[method.name] = maps if method.takes else maps[:, :1]
    return found


def _warn_of_target(method: Method, target: Any) -> None:
    """Warn of a target that the maps of a method do not depend on."""
    if not _is_default(target):
        warnings.warn(
            f"target is for methods that explain a class; the map of {method.name} is the same for "
            "every class. Leave out target.",
            LayertapWarning,
            stacklevel=outside(),
        )


def _is_default(target: Any) -> bool:
    """Whether a target is the default, perhaps as a list."""
    if isinstance(target, (list, tuple)) and len(target) == 1:
        target = target[0]
    return isinstance(target, str) and target == targets.TOP


def layer_of(program: Program, layer: str | int | Layer | None, method: Method) -> str:
    """What `HeatMaps.layer` will be. The errors are those of `heat_maps`."""
    if method.of_attention:
        return attention_gatherer(program, layer, method, output="").label
    return choose_layer(program, layer, method).name


def choose_layer(program: Program, layer: str | int | Layer | None, method: Method) -> Layer:
    """Return the given layer, or the last one with gradients; for a method that masks an input,
    that input. `last-conv` is the last one that has feature maps, and gradients if the method needs
    them.

    Raises:
        LayerNotFoundError: unknown layer, or it has no gradient and the method needs one.
        UsageError: no layer is given, and the file has no gradients; or the method is of no layer.
    """
    if method.of_attention:
        raise UsageError(
            f"{method.name} joins the scores of all attention layers, which `layertap cam` and "
            "Model.cam do; here the methods are those of one layer."
        )
    gradients = (
        available.require(program) if method.takes == "gradients" else available.find(program)
    )
    known = gradients.tensors if gradients else {}
    if isinstance(layer, str) and all(row.name != layer for row in program.layers):
        if layer == LAST:
            return _last_maps(program, known if method.takes == "gradients" else None)
        if re.sub(r"[\s_-]", "", layer.lower()) == "lastconv":
            raise LayerNotFoundError(f"no layer is called {layer!r}.{suggest(layer, [LAST])}")
    if layer is None and method.masks_input:
        return _image_input(program)
    if layer is not None:
        row = program.layer(layer)
        if method.takes == "gradients" and row.name not in known:
            raise available.missing(program, known, row.name)
        return row
    inputs = program.graph.inputs
    rows = [row for row in program.layers if row.exposed and row.tensor not in inputs]
    rows = [row for row in rows if row.attention is None]
    rows_with = [row for row in rows if row.name in known]
    if not rows_with:
        maps = [repr(row.name) for row in rows if len(row.shape) == 4]
        last = f" The last one with feature maps is {maps[-1]}." if maps else ""
        raise UsageError(f"give a layer: {program.name} has no gradients to choose one by.{last}")
    return rows_with[-1]


def _image_input(program: Program) -> Layer:
    """The input that has positions: that of an image, or else of a sequence or a volume.

    Raises:
        UsageError: there is none.
    """
    found = []
    for info in program.inputs:
        axes = program.axes(info.name, len(info.shape))
        if "C" in axes and len(axes.strip("N")) > 1:
            found.append((len(axes) != 4, info))
    if not found:
        names = ", ".join(f"{info.name!r} {shape_text(info.shape)}" for info in program.inputs)
        raise UsageError(
            f"no input of {program.name} is an image or has other positions to mask: {names}. "
            "Model.attribute masks columns and tokens; or give a layer."
        )
    info = min(found, key=lambda one: one[0])[1]
    rows = (row for row in program.layers if row.tensor == info.name)
    return next(rows, None) or Layer(
        name=info.name,
        type="Input",
        index=0,
        shape=info.shape,
        dtype=info.dtype,
        parameters=0,
        inbound=(),
        tensor=info.name,
    )


def _last_maps(program: Program, known: Collection[str] | None) -> Layer:
    """The last layer with feature maps.

    Args:
        known: names of the layers with gradients; `None` if none are needed.
    """
    inputs = program.graph.inputs
    pooled = {
        tensor
        for node in program.graph.nodes
        if node.op_type.startswith("Global")
        for tensor in node.writes
    }
    of_patches = last_tokens(program.layers)
    rows = [
        row
        for row in program.layers
        if row.exposed
        and row.tensor not in inputs
        and row.tensor not in pooled
        and row.attention is None
        and (row.tokens is None or row is of_patches)
        and _has_maps(row, _axes(program, row))
    ]
    if of_patches is not None:  # other sequences, such as queries by head, are no maps
        rows = [row for row in rows if row.tokens or "H" in _axes(program, row)]
    found = [row for row in rows if known is None or row.name in known]
    if found:
        return found[-1]
    if rows and known is not None:
        raise available.missing(program, known, rows[-1].name)
    raise LayerNotFoundError(f"{program.name} has no layer with feature maps, so no {LAST!r}.")


def _axes(program: Program, layer: Layer) -> Axes:
    """What the axes of a layer mean; empty if not even their number is known."""
    tensor = str(layer.tensor)
    return program.axes(tensor, len(layer.shape)) if layer.dtype else program.known_axes(tensor)


def _has_maps(layer: Layer, axes: Axes) -> bool:
    """Whether a layer has feature maps, of more than one pixel as far as its size is known."""
    places = [
        size
        for size, axis in zip(layer.shape or (None,) * len(axes), axes, strict=True)
        if axis not in "NC"
    ]
    return "C" in axes and any(size != 1 for size in places)


def _size(
    gather: Gatherer, feeds: Mapping[str, Any], rank: int, asked: bool | Sequence[int]
) -> Sequence[int] | None:
    """The size of the maps; `None` for the layer's own."""
    if isinstance(asked, (bool, np.bool_)):
        return gather.image_size(feeds, rank) if asked else None
    size = sizes("resize", asked)
    if len(size) != rank:
        raise UsageError(
            f"resize must be True, False or "
            f"{'(height, width)' if rank == 2 else f'{rank} sizes'}, got {asked!r}."
        )
    return size


def _raw(method: Method, evidence: Evidence, eigen_smooth: bool) -> npt.NDArray[np.float64]:
    """Maps of the layer's size, `(n, targets, h, w)`."""
    combine = principal if eigen_smooth else _summed
    maps = []
    for sample, activations in enumerate(evidence.activations):
        more = evidence.extras(sample)
        if method.takes == "positions" or method.of_attention:
            heats = [heat for (heat,) in more]
        else:
            heats = [method.compute(activations, *one) for one in more]
        maps.append([heat if heat.ndim < activations.ndim else combine(heat) for heat in heats])
    return np.array(maps)


def _summed(weighted: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    total: npt.NDArray[np.float64] = weighted.sum(axis=-1)
    return total


def _finished(
    method: Method, maps: npt.NDArray[np.float64], size: Sequence[int] | None, normalize: bool
) -> npt.NDArray[np.float32]:
    """Set negative values to 0, resize, and divide by the maximum, in this order."""
    if normalize:
        maps = _from_least(method, maps)
        maps = np.maximum(maps, 0)
    done = np.stack([upsampling.resize(one, size or one.shape[1:]) for one in maps])
    if normalize:
        peaks = done.max(axis=tuple(range(2, done.ndim)), keepdims=True)
        np.divide(done, peaks, out=done, where=peaks > 0)
    return done


def _from_least(method: Method, maps: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Maps in which 0 means no evidence, `(n, targets, h, w)`."""
    if not method.from_least:
        return maps
    lowered: npt.NDArray[np.float64] = maps - maps.min(
        axis=tuple(range(2, maps.ndim)), keepdims=True
    )
    return lowered


def _augmented(
    program: Program, name: str, batch: Array
) -> Iterator[tuple[Array, Callable[[Array], Array]]]:
    """The batch made darker, brighter and mirrored, with functions that mirror the maps back."""
    for flip, factor in itertools.product((False, True), (0.9, 1.0, 1.1)):
        if flip or factor != 1.0:
            images = channels_last(program, name, (batch * factor).astype(batch.dtype))
            images = _flipped(images, -2) if flip else images
            back = functools.partial(_flipped, axis=-1) if flip else np.asarray
            yield as_fed(program, name, images), back


def _flipped(values: Array, axis: int) -> Array:
    return np.flip(values, axis)


def _is_one_image(program: Program, inputs: Any) -> bool:
    """Whether one image was given, not a list of images or a batch."""
    picture = program.picture_input
    if picture is not None:
        single = len(program.graph.inputs[picture].dims or ()) == 3
        return single or is_image(inputs.get(picture) if isinstance(inputs, Mapping) else inputs)
    several = len(program.graph.inputs) > 1
    if isinstance(inputs, Mapping):
        return any(map(is_image, inputs.values()))
    if several and isinstance(inputs, (list, tuple)) and len(inputs) == len(program.graph.inputs):
        return any(map(is_image, inputs))
    return is_image(inputs)
