"""What the methods compute heat maps from: activations, and gradients or scores."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from layertap._engine.program import outside
from layertap.errors import LayertapWarning, ModelFileError, UsageError
from layertap.format.layer import Layer

from . import available, upsampling
from .axes import channels_last, laid_out, space
from .baselines import baselines
from .gradients import differentiate
from .gradients import prepare as prepare_feeds
from .masked import Masked
from .masking import DEFAULTS, Options
from .methods import Method
from .perturbing import Change, IndependentScoresError, Perturbation
from .places import At
from .scores import classes_last, find_scores, resolve_target, scores_of
from .targets import Array, Target, Targets

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe
    from layertap._engine.program import Program

Reshape = Callable[[Array], Array]
"""From a layer's values `(n, ...)` to feature maps `(n, h, w, c)`."""


class Evidence(NamedTuple):
    """The data that the heat maps of a batch are computed from."""

    activations: npt.NDArray[np.float64]
    """`(n, h, w, c)`."""
    outputs: Array
    """The scores in the model's output that the targets weigh, `(n, k)`."""
    targets: Targets
    extras: Callable[[int], Sequence[tuple[Any, ...]]]
    """For each target of an image, the method's arguments after the activations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gatherer:
    """Gathers the evidence for one method at one layer."""

    program: Program
    layer: Layer
    method: Method
    output: str
    """The output that contains the classes."""
    masks_input: bool = False
    """Whether Score-CAM masks the input instead of the layer."""
    channels: int | None = None
    """Number of channels to try, the strongest ones; `None` for all."""
    batch_size: int = 32
    """Number of channels, or of masks, per run."""
    options: Options = DEFAULTS
    """What is masked, for methods that mask positions."""
    baseline: Any = 0.0
    """What replaces masked positions, see `baselines`."""
    reshape: Reshape | None = None
    """Given, or `folded` for a layer whose tokens are patches."""
    at: At | None = None
    """The places of the scores."""

    @property
    def label(self) -> str:
        """What the maps are of, for people."""
        return self.layer.name

    def prepare(self, inputs: Any, preprocess: Recipe | None) -> dict[str, Any]:
        """Arrays by input name."""
        wanted = [*self._tensors, self.output]
        if self.method.takes == "gradients":
            gradients, slopes = available.require(self.program), self._slopes.values()
            return prepare_feeds(self.program, gradients, slopes, wanted, inputs, preprocess)
        return self.program.prepare_arrays(self.program.plan(wanted).needs, inputs, preprocess)

    def __call__(self, feeds: Mapping[str, Any], target: Target | Targets) -> Evidence:
        """Gather the evidence for a batch, in as few runs as the file allows."""
        evidence = self._evidence(feeds, target)
        rows = len(evidence.activations), len(evidence.outputs), len(evidence.targets.weights)
        if len(set(rows)) > 1:
            shape = evidence.activations.shape
            raise self._damaged("the scores have", evidence.outputs.shape, shape)
        return evidence

    def _evidence(self, feeds: Mapping[str, Any], target: Target | Targets) -> Evidence:
        if self.method.takes == "gradients":
            return self._differentiated(feeds, target)
        if not self.method.takes:
            return self._activated(feeds, target)
        changed = self._masked if self.method.takes == "positions" else self._perturbed
        try:
            return changed(feeds, target)
        except IndependentScoresError:
            return self._unmoved(feeds, target)

    def _damaged(self, what: str, shape: tuple[int, ...], layer: tuple[int, ...]) -> ModelFileError:
        """The error for a card that names tensors that do not belong together."""
        return ModelFileError(
            f"{self.program.name} is damaged: {what} the shape {shape}, but {self.layer.name!r} "
            f"has {layer}. Export it again."
        )

    def image(self, feeds: Mapping[str, Any], rank: int) -> str:
        """Return the input that has an axis for each of the `rank` axes of the maps.

        Raises:
            UsageError: no input has.
        """
        for name, value in feeds.items():
            if len(space(self.program, name, value)) == rank:
                return name
        shapes = ", ".join(f"{name!r} {np.shape(value)}" for name, value in feeds.items())
        raise UsageError(
            f"{self.layer.name!r} gives maps with {rank} axes, but no input has that many between "
            f"batch and channels: {shapes}. Give a function reshape= that makes maps (n, h, w, c), "
            "or resize=False."
        )

    def image_size(self, feeds: Mapping[str, Any], rank: int) -> tuple[int, ...]:
        """The size of the image that maps with `rank` axes cover.

        One map of height and width covers all frames of a video, `(n, t, h, w, c)`.

        Raises:
            UsageError: no input has such a size.
        """
        sizes = [space(self.program, name, value) for name, value in feeds.items()]
        frames = [size[1:] for size in sizes if len(size) == rank + 1 >= 3]
        if frames and all(len(size) != rank for size in sizes):
            return frames[0]
        name = self.image(feeds, rank)
        return space(self.program, name, feeds[name])

    @property
    def _tensor(self) -> str:
        return str(self.layer.tensor)

    @property
    def _tensors(self) -> list[str]:
        """The tensors that the method reads, without the output."""
        return [self._tensor]

    @property
    def _slopes(self) -> dict[str, str]:
        """The tensors of the gradients that the method takes, by layer."""
        gradients = available.require(self.program)
        return {self.layer.name: gradients.tensors[self.layer.name]}

    def _differentiated(self, feeds: Mapping[str, Any], target: Target | Targets) -> Evidence:
        gradients = available.require(self.program)
        also = [self._tensor, self.output]
        found = differentiate(self.program, gradients, feeds, self._slopes, also, target, self.at)
        count = found.gradients[self.layer.name].shape[1]
        maps = [self._maps(found.of(self.layer.name, at)) for at in range(count)]
        activations = self._maps(found.values[self._tensor])
        for one in maps:
            if one.shape != activations.shape:
                raise self._damaged("the gradient has", one.shape, activations.shape)
        return Evidence(
            activations,
            found.targets.read(self._values(found.values)),
            found.targets,
            lambda sample: [(one[sample],) for one in maps],
        )

    def _activated(self, feeds: Mapping[str, Any], target: Target | Targets) -> Evidence:
        values = self.program.fetch([*dict.fromkeys([self._tensor, self.output])])(feeds)
        found, outputs = self._resolved(target, values)
        maps = self._maps(values[self._tensor])
        return Evidence(maps, outputs, found, lambda _: [()] * found.weights.shape[1])

    def _perturbed(self, feeds: Mapping[str, Any], target: Target | Targets) -> Evidence:
        tensor, name = self._tensor, self.layer.name
        if self.masks_input:
            known = self.layer.shape and not self.reshape
            tensor = name = self.image(feeds, len(self.layer.shape) - 2 if known else 2)
        scores = find_scores(self.program, self.output)
        also = [self._tensor, self.output]
        tries = Perturbation(self.program, {tensor: name}, scores, feeds, also)
        self._require_floats(tries, tensor, name)
        found, outputs = self._resolved(target, tries.values)
        maps = self._maps(tries.values[self._tensor])

        def attempts(sample: int) -> list[tuple[Any, ...]]:
            change = self._change(tensor, maps[sample])
            strength = np.abs(maps[sample]).mean(axis=tuple(range(maps.ndim - 2)))
            channels = np.argsort(-strength, kind="stable")[: self.channels]
            weights = found.weights[sample].astype(np.float64)
            by_channel = np.full((len(strength), len(weights)), np.nan)
            by_channel[channels] = tries.scores(
                sample, list(channels), change, self.batch_size, found
            )
            if self.method.takes == "masked":
                return [(one,) for one in by_channel.T]
            whole = weights @ found.read(tries.whole[[sample]])[0]
            return list(zip(by_channel.T, whole, strict=True))

        return Evidence(maps, outputs, found, attempts)

    def _masked(self, feeds: Mapping[str, Any], target: Target | Targets) -> Evidence:
        """The maps of a method that masks positions of the layer, one by one for each image."""
        tensor, name = self._tensor, self.layer.name
        of_output = self.method.of_output
        scores = (scores_of if of_output else find_scores)(self.program, self.output)
        tries = Perturbation(self.program, {tensor: name}, scores, feeds, [tensor, self.output])
        self._require_floats(tries, tensor, name)
        found, outputs = self._resolved(target, tries.values)
        values = tries.values[tensor]
        maps = self._maps(values)
        filling = baselines(self.program, self.baseline, {tensor: values}, {tensor: name})[tensor]
        filling = laid_out(self.program, tensor, filling)
        method = self.method.compute({tensor: maps.shape[1:-1]}, self.options)
        masked = Masked(
            tries,
            method,
            {tensor: lambda sample: filling[[sample]]},
            found if of_output else replace(found, offsets=np.zeros_like(found.offsets)),
            self.batch_size,
            self._places(values) if self.reshape else None,
        )
        return Evidence(
            maps, outputs, found, lambda sample: [(one,) for one in masked.maps(sample)[tensor]]
        )

    def _unmoved(self, feeds: Mapping[str, Any], target: Target | Targets) -> Evidence:
        """Maps of 0, as of a gradient of 0: no change of the layer moves the scores."""
        warnings.warn(
            f"the scores do not depend on {self.layer.name!r}: its heat maps are 0.",
            LayertapWarning,
            stacklevel=outside(),
        )
        found = self._activated(feeds, target)
        maps = np.zeros_like(found.activations)
        given: tuple[Any, ...] = (np.zeros(maps.shape[1:-1]),)
        if self.method.takes != "positions":  # the same score, whichever channel is changed
            given = (np.ones(maps.shape[-1]), 1.0)[: 2 if self.method.takes == "ablated" else 1]
        count = found.targets.weights.shape[1]
        return found._replace(activations=maps, extras=lambda _: [given] * count)

    def _values(self, values: Mapping[str, Any]) -> Array:
        """The model's output, `(n, ..., classes)`."""
        return classes_last(self.program, self.output, values[self.output])

    def _resolved(
        self, target: Target | Targets, values: Mapping[str, Any]
    ) -> tuple[Targets, Array]:
        """The targets, and the scores that they weigh, `(n, k)`."""
        outputs = self._values(values)
        found = resolve_target(self.program, self.output, target, outputs, self.at)
        return found, found.read(outputs)

    def _places(self, values: Array) -> npt.NDArray[np.intp]:
        """Where `reshape` takes the elements of a feature map `(h, w, c)` from: their places in the
        flat values of a sample, channels last.

        Raises:
            UsageError: it does more than move values.
        """
        shape = (1, *values.shape[1:])
        numbers = np.arange(math.prod(shape), dtype=np.float64).reshape(shape)
        moved = self._maps(numbers)
        places = moved.astype(np.intp)
        if (
            not np.array_equal(places, moved)
            or len(np.unique(places)) != places.size
            or places.min(initial=0) < 0
            or places.max(initial=0) >= numbers.size
        ):
            raise UsageError(
                f"{self.method.name} masks the positions of feature maps, and reshape= must not "
                "compute, only move the values of the layer to feature maps (n, h, w, c)."
            )
        # From places in the layer's own order to those with the channels last.
        order = laid_out(self.program, self._tensor, numbers).ravel().astype(np.intp)
        found: npt.NDArray[np.intp] = np.argsort(order)[places[0]]
        return found

    def _require_floats(self, tries: Perturbation, tensor: str, name: str) -> None:
        dtype = tries.seen(tensor).dtype
        if dtype.kind != "f":
            raise UsageError(
                f"{name!r} must be of a float dtype for {self.method.name} to change it, got "
                f"{dtype}."
            )

    def _change(self, tensor: str, maps: Array) -> Change:
        """How the tensor is changed for each channel of an image's maps, `(h, w, c)`."""

        def change(wholes: Mapping[str, Array], channel: int) -> dict[str, Array] | None:
            whole = wholes[tensor]
            if self.method.takes == "ablated":
                value = _without(whole, channel)
            elif not self.masks_input:
                value = _masked(whole, whole[..., channel])
            else:
                mask = upsampling.resize(maps[..., channel], whole.shape[:-1])
                value = _masked(whole, mask)
            return None if value is None else {tensor: value}

        return change

    def _maps(self, values: Array) -> npt.NDArray[np.float64]:
        """A layer's values as feature maps `(n, h, w, c)`."""
        if self.reshape:
            maps = self.reshape(values)
        else:
            maps = channels_last(self.program, self._tensor, values)
        if np.ndim(maps) < 3:
            raise UsageError(
                "a heat map needs a layer with feature maps, (n, h, w, c), but "
                f"{self.layer.name!r} gives {np.shape(maps)}."
            )
        return np.asarray(maps, np.float64)


def _masked(whole: Array, mask: Array) -> Array | None:
    """`whole`, `(h, w, c)`, times the mask `(h, w)` scaled to 0..1; `None` for a constant mask."""
    low, high = mask.min(), mask.max()
    if not high > low:
        return None
    masked: Array = whole * ((mask - low) / (high - low))[..., None]
    return masked


def _without(whole: Array, channel: int) -> Array | None:
    """`whole`, `(h, w, c)`, with a channel set to 0; `None` if it is 0 already."""
    if not whole[..., channel].any():
        return None
    left: Array = whole.copy()
    left[..., channel] = 0
    return left
