"""Pictures of explanations: a heat map or an attribution over the image that it is about."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from layertap._arguments import choice, count, flag, number
from layertap._engine.feeds import as_recipe, is_image
from layertap._engine.program import HasProgram, Program, program_of
from layertap.cam import attributions
from layertap.cam.axes import channels_last
from layertap.cam.heat_maps import HeatMaps, heat_maps
from layertap.cam.methods import METHODS, find_method
from layertap.cam.scores import choose_output, classes_last, labels_of, resolve_target
from layertap.cam.targets import Target, Targets
from layertap.errors import InputError, UsageError, suggest
from layertap.format.text import class_text
from layertap.images.load import ImageSource
from layertap.images.region import Region, seen_region
from layertap.images.shown import shown

from .colormaps import DIVERGING, colored, shades
from .lettering import FontFile, Lettering
from .overlays import DEFAULT_ALPHA, OPACITIES, overlay
from .panels import FRAME, MOST_PIXELS, Bar, Tile, arranged, enlarged, fitting_tile

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe
    from layertap.format.layer import Layer
    from layertap.images.preprocessing import Preprocessing

SHOWS = ("figure", "overlay", "map")
"""The values of `show`."""

UNSIGNED = ("saliency",)
"""Attributions without a sign; the largest over the channels is drawn, of others their sum."""

OF_POSITIONS = ("occlusion", "rise")
"""Attributions that are the same for all channels of a position."""

PERCENTILE = 99.0
"""Of the absolute values of an attribution, the one that gets the last colour."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a picture is drawn; `Model.picture` describes the fields."""

    show: str = "figure"
    colormap: str | None = None
    alpha: float | None = None
    opacity: str = "fixed"
    contours: int = 0
    original: bool = True
    bar: bool = True
    caption: str | None = None
    percentile: float = PERCENTILE
    columns: int = 6
    width: int | None = None
    font: FontFile | None = None

    def __post_init__(self) -> None:
        choice("show", self.show, SHOWS)
        choice("opacity", self.opacity, OPACITIES)
        if self.colormap is not None:
            shades(self.colormap)
        if self.caption is not None and not isinstance(self.caption, str):
            raise UsageError(f"caption must be a text, got {class_text(self.caption)}.")
        Lettering(self.font)
        checked: dict[str, Any] = {
            "contours": count("contours", self.contours, least=0, most=20),
            "columns": count("columns", self.columns),
            "percentile": number("percentile", self.percentile),
            "original": flag("original", self.original),
            "bar": flag("bar", self.bar),
        }
        if self.alpha is not None:
            checked["alpha"] = number("alpha", self.alpha)
            if checked["alpha"] > 1:
                raise UsageError(f"alpha must be between 0 and 1, got {checked['alpha']:g}.")
        if not 0 < checked["percentile"] <= 100:
            raise UsageError(
                f"percentile must be above 0 and at most 100, got {checked['percentile']:g}."
            )
        if self.width is not None:
            checked["width"] = count("width", self.width, most=MOST_PIXELS)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def drawn_with(self, signed: bool) -> tuple[str, float]:
        """Colormap and opacity."""
        colormap = self.colormap or (DIVERGING[0] if signed else "jet")
        return colormap, DEFAULT_ALPHA[self.opacity] if self.alpha is None else self.alpha


@dataclass(frozen=True)
class Described:
    """A target for people."""

    label: str
    index: int | None
    score: float

    @property
    def title(self) -> str:
        """Class and score."""
        return f"{self.label} {self.score:.3f}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON data; a score that is no number is `None`."""
        score = self.score if math.isfinite(self.score) else None
        return {"label": self.label, "index": self.index, "score": score}


class Explanation(NamedTuple):
    """Maps of one sample, one for each target."""

    maps: npt.NDArray[np.float32]
    """`(targets, h, w)`."""
    signed: bool
    """Whether the values have a sign."""
    relative: bool
    """Whether the values are shares of the maximum, 0 to 1; otherwise they have a unit."""
    method: str
    targets: tuple[Described, ...]
    """What each map explains; nothing, if it explains no class."""
    about: str
    """Method and layer; also the class, if there is one."""

    @property
    def titles(self) -> list[str]:
        """Class and score of each map."""
        return [target.title for target in self.targets] or [self.method]


class Attributed(NamedTuple):
    """Attributions to one input."""

    values: npt.NDArray[np.float32]
    """`(n, targets, h, w, c)`, or other axes than these of an image."""
    samples: list[Explanation]
    """The maps of each; those of an image are over its channels."""


def picture(
    model: HasProgram,
    inputs: Any,
    layer: str | int | Layer | None,
    target: Target,
    *,
    method: str,
    image: ImageSource | None,
    preprocess: Recipe | None,
    style: Style,
    options: Mapping[str, Any],
) -> Image.Image:
    """See `Model.picture`."""
    program = program_of(model)
    given = image_of(program, inputs) if image is None else image
    source = None if given is None else shown(given)
    if _is_attribution(method) and not (method in METHODS and layer is not None):
        if layer is not None:
            raise UsageError(f"{method} is an attribution to the input. Leave out the layer.")
        found = attributed(
            program, inputs, method, target, preprocess=preprocess, options=options
        ).samples
    else:
        maps = heat_maps(
            model, inputs, layer, target, method=method, preprocess=preprocess, **options
        )
        found = of_heat_maps(maps, signed=not options.get("normalize", True))
    if len(found) != 1:
        raise InputError(
            f"a picture shows one sample, got {len(found)}. Call picture for each of them."
        )
    recipe = program.preprocessing if preprocess is None else as_recipe(preprocess)
    return drawn(found[0], source, seen_by(program, source, recipe), style)


def _is_attribution(method: Any) -> bool:
    """Whether a method is an attribution; otherwise it makes heat maps.

    Raises:
        UsageError: it is unknown.
    """
    if isinstance(method, str) and method in attributions.METHODS:
        return True
    try:
        find_method(method)
    except UsageError:
        known = [*METHODS, *attributions.METHODS]
        raise UsageError(
            f"unknown method {method!r}; the methods are {', '.join(known)}."
            + suggest(str(method), known)
        ) from None
    return False


def image_of(program: Program, inputs: Any) -> Any:
    """The image among the inputs of one sample; `None` if they are arrays that are ready."""
    if is_image(inputs):
        return inputs
    if isinstance(inputs, Mapping):
        return next((value for value in inputs.values() if is_image(value)), None)
    if isinstance(inputs, (list, tuple)):
        several = len(inputs) > 1 and len(inputs) != len(program.graph.inputs)
        return None if several else next((value for value in inputs if is_image(value)), None)
    return None


def seen_by(
    program: Program, source: Image.Image | None, recipe: Preprocessing | None
) -> Region | None:
    """The part of an image that the model sees; `None` for all of it."""
    # Finished files give maps of the whole image.
    if source is None or recipe is None or program.picture_input is not None:
        return None
    return seen_region(
        source.height,
        source.width,
        recipe.size,
        keep_aspect_ratio=recipe.keep_aspect_ratio,
        shorter_side=recipe.shorter_side,
    )


def described(
    labels: Sequence[str] | None, classes: npt.NDArray[Any] | None, scores: npt.NDArray[Any]
) -> tuple[Described, ...]:
    """The targets of one sample.

    Args:
        labels: the names of the classes.
        classes: their indices; `None` for weights of classes.
        scores: the model's output for each.
    """
    if classes is None:
        return tuple(Described("given weights", None, float(score)) for score in scores)
    known = labels or ()
    return tuple(
        Described(known[at] if at < len(known) else f"class {at}", int(at), float(score))
        for at, score in zip(classes, scores, strict=True)
    )


def of_heat_maps(maps: HeatMaps, signed: bool = False) -> list[Explanation]:
    """The heat maps of each sample."""
    found = []
    for row, values in enumerate(maps.maps):
        about = f"{maps.method} at {maps.layer}"
        texts: tuple[Described, ...] = ()
        if maps.explains_class:
            classes = None if maps.classes is None else maps.classes[row]
            texts = described(maps.labels, classes, maps.scores[row])
            about += _class_text(texts)
        else:
            about += ": the same for every class"
            values = values[:1]
        found.append(Explanation(values, signed, not signed, maps.method, texts, about))
    return found


def _class_text(texts: Sequence[Described]) -> str:
    return f": {texts[0].label}, score {texts[0].score:.3f}" if len(texts) == 1 else ""


def attributed(
    program: Program,
    inputs: Any,
    method: str,
    target: Target,
    *,
    preprocess: Recipe | None = None,
    options: Mapping[str, Any],
    name: str | None = None,
) -> Attributed:
    """The attributions of each sample to one input.

    Args:
        program: a file, with gradients with respect to its inputs if the method needs them.
        inputs: see `Model.attribute`, as are the other arguments.
        name: the input; by default the first that is an image, or the first.

    Raises:
        UsageError: there is no such input.
    """
    if name is not None and method in attributions.MASKING_INPUT:
        options = {**options, "input_name": name}  # no other one is masked
    values = attributions.attribute(
        program, inputs, method, target, preprocess=preprocess, **options
    )
    only = options.get("input_name") or program.inputs[0].name
    by_input = values if isinstance(values, dict) else {only: values}
    resolved, scores, labels = _targets_of(program, inputs, target, preprocess, options)
    if not resolved.several:
        by_input = {key: value[:, None] for key, value in by_input.items()}
    if name is None:
        images = [key for key, value in by_input.items() if value.ndim == 5]
        name = images[0] if images else next(iter(by_input))
    if name not in by_input:
        raise UsageError(
            f"there are no attributions to {name!r}; there are to "
            f"{', '.join(map(repr, by_input))}.{suggest(name, list(by_input))}"
        )
    classes = resolved.classes
    unsigned = method in UNSIGNED
    found = []
    for row, sample in enumerate(by_input[name]):
        maps = sample
        if sample.ndim == 4:
            last = channels_last(program, name, sample)
            over_channels = last.max(axis=-1) if unsigned else last.sum(axis=-1)
            maps = last[..., 0] if method in OF_POSITIONS else over_channels
        texts = described(labels, None if classes is None else classes[row], scores[row])
        about = f"{method} at {name}{_class_text(texts)}"
        found.append(Explanation(maps, not unsigned, False, method, texts, about))
    return Attributed(by_input[name], found)


def _targets_of(
    program: Program,
    inputs: Any,
    target: Target,
    preprocess: Recipe | None,
    options: Mapping[str, Any],
) -> tuple[Targets, npt.NDArray[Any], Sequence[str] | None]:
    """What a target means, the model's output `(n, targets)` for it, and the names of classes."""
    output = choose_output(program, options.get("output"))
    feeds = program.prepare_arrays(program.plan([output]).needs, inputs, preprocess)
    outputs = classes_last(program, output, program.fetch([output])(feeds)[output])
    resolved = resolve_target(program, output, target, outputs, options.get("at"))
    return resolved, resolved.scores(resolved.read(outputs)), labels_of(program, output)


def drawn(
    found: Explanation, source: Image.Image | None, region: Region | None, style: Style
) -> Image.Image:
    """The picture of one sample.

    Args:
        found: its maps.
        source: the image, see `layertap.images.shown`; without it, the colours of the maps are
            drawn alone.
        region: the part of the image that the maps lie on; `None` for all of it.
        style: how it is drawn.

    Raises:
        UsageError: the maps are not of an image, or a bare overlay or map is to show several.
    """
    if found.maps.ndim != 3:
        raise UsageError(
            f"a picture shows maps with two axes, height and width; these have "
            f"{found.maps.ndim - 1}. model.cam returns the values."
        )
    colormap, alpha = style.drawn_with(found.signed)
    limit, units = _units(found, style.percentile)
    if style.show != "figure" and len(units) > 1:
        raise UsageError(
            f'show="{style.show}" draws one map, got {len(units)} targets. Give one target, or '
            'show="figure".'
        )
    if style.show == "overlay" and source is None:
        raise UsageError(
            'show="overlay" needs the image: an input that is ready is none. Give it as image=.'
        )

    def over(base: Image.Image, unit: npt.NDArray[np.float32], where: Region | None) -> Image.Image:
        return overlay(
            base, unit, colormap=colormap, alpha=alpha, opacity=style.opacity,
            signed=found.signed, contours=style.contours, region=where,
        )  # fmt: skip

    def colors(unit: npt.NDArray[np.float32]) -> Image.Image:
        return Image.fromarray(colored((unit + 1) / 2 if found.signed else unit, colormap))

    if style.show == "overlay" and source is not None:
        base, where = _resized(source, region, style.width)
        return over(base, units[0], where)
    if style.show == "map":
        return _resized(colors(units[0]), None, style.width)[0]
    bar = _bar(colormap, found, limit) if style.bar else None
    letters = Lettering(style.font)
    caption = found.about if style.caption is None else style.caption
    number_of_tiles = len(units) + (source is not None and style.original)
    base = colors(units[0]) if source is None else source
    size = enlarged(base).size
    if style.width is not None:
        size = fitting_tile(
            base.size, style.width, number_of_tiles, style.columns, bar=bar, letters=letters
        )
    tiles = []
    if source is None:
        tiles = [
            Tile(title, _scaled(colors(unit), size))
            for title, unit in zip(found.titles, units, strict=True)
        ]
    else:
        base, where = _scaled(source, size), _moved(region, source.size, size)
        if style.original:
            tiles.append(Tile("Original", base.convert("RGB")))
        for title, unit in zip(found.titles, units, strict=True):
            tiles.append(Tile(title, _outlined(over(base, unit, where), where)))
    return arranged(
        tiles, columns=style.columns, letters=letters, bar=bar, caption=caption, width=style.width
    )


def _units(found: Explanation, percentile: float) -> tuple[float, list[npt.NDArray[np.float32]]]:
    """The value that gets the last colour, and the maps divided by it."""
    if found.relative:
        return 1.0, list(found.maps)
    sizes = np.abs(found.maps[np.isfinite(found.maps)])
    limit = float(np.percentile(sizes, percentile)) if sizes.size else 0.0
    limit = limit or (float(sizes.max()) if sizes.size else 0.0)
    scaled = found.maps / np.float32(limit or 1)
    return limit, list(np.clip(np.nan_to_num(scaled), -1, 1))


def _bar(colormap: str, found: Explanation, limit: float) -> Bar:
    if found.relative:
        return Bar(colormap, ("0", "0.5", "1"), "share of the maximum")
    end = f"{limit:.2g}"
    ticks = (f"-{end}", "0", end) if found.signed else ("0", f"{limit / 2:.2g}", end)
    return Bar(colormap, ticks, "attribution")


def _scaled(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture in another size: smooth if it gets smaller, with its pixels visible if larger."""
    if size == picture.size:
        return picture
    larger = size[0] > picture.width
    return picture.resize(size, Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS)


def _resized(
    picture: Image.Image, region: Region | None, width: int | None
) -> tuple[Image.Image, Region | None]:
    if width is None:
        return picture, region
    size = width, max(1, round(picture.height * width / picture.width))
    return _scaled(picture, size), _moved(region, picture.size, size)


def _moved(region: Region | None, old: tuple[int, int], new: tuple[int, int]) -> Region | None:
    """A region of a picture, after the picture was resized."""
    if region is None:
        return None
    across, down = new[0] / old[0], new[1] / old[1]
    left, top, right, bottom = region
    return Region(left * across, top * down, right * across, bottom * down)


def _outlined(picture: Image.Image, region: Region | None) -> Image.Image:
    """A picture with a line around the part that the model saw, if that is not all of it."""
    if region is None:
        return picture
    left, top = math.floor(region.left), math.floor(region.top)
    right, bottom = math.ceil(region.right) - 1, math.ceil(region.bottom) - 1
    if left > 0 or top > 0 or right < picture.width - 1 or bottom < picture.height - 1:
        line = max(1, max(picture.size) // 400)
        ImageDraw.Draw(picture).rectangle((left, top, right, bottom), outline=FRAME, width=line)
    return picture
