"""The card: what a layertap file knows about itself, as JSON in `metadata_props["layertap"]`.

Both sides use these classes: the exporter writes the card through them, the runtime reads it.
Keys that this version does not know are kept in `extra` and written back. A file whose format
has a newer major number is refused, one with a newer minor number is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeAlias, TypeVar

from ._layer import Layer, Shape
from .errors import CardVersionError, ModelFileError

KEY = "layertap"
"""The key of `metadata_props` under which the card stands."""

MAJOR, MINOR = 1, 1
"""The format that this layertap writes; it reads every minor of the same major."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """A model input or output."""

    name: str
    shape: Shape
    dtype: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The Keras model that the file was made from."""

    framework: str
    """`keras` or `tf_keras`; `onnx` for a file from elsewhere."""
    version: str
    """Version of that framework."""
    model: str
    """The model's name."""
    type: str
    """The model's class, for example `Functional`."""
    weights_sha256: str
    """Over the bytes of all weights, in Keras's order."""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCheck:
    """How far one layer's activations are from Keras's."""

    max_abs: float
    """Largest absolute difference over all batches."""
    scaled: float
    """Largest, over the batches, of `max_abs` divided by the layer's largest absolute value."""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was measured against Keras when the file was made."""

    tolerance: float
    """Largest scaled error that was allowed."""
    batches: tuple[str, ...]
    """What was fed, in words: `2 x 320 x 320 x 3, seeded`."""
    onnxruntime: str
    """The version that ran the file."""
    layers: Mapping[str, LayerCheck]
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def worst(self) -> str:
        """Name of the layer with the largest scaled error."""
        return max(self.layers, key=lambda name: self.layers[name].scaled)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenInput:
    """One input of the golden sample: uniform numbers in [low, high), see `layertap.golden`."""

    name: str
    shape: tuple[int, ...]
    low: float
    high: float
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenLayer:
    """What Keras gave for one layer on the golden sample."""

    shape: tuple[int, ...]
    norm: float
    """Euclidean norm of the activations."""
    scale: float
    """Largest absolute value."""
    values: tuple[float, ...]
    """Values at evenly spaced places of the flattened (C order) activations."""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """A seeded input and what Keras made of it, by which any machine can check itself."""

    seed: int
    inputs: tuple[GoldenInput, ...]
    layers: Mapping[str, GoldenLayer]
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """The gradients that the file gives beside the activations: of a weighted sum of scores."""

    output: str
    """The model's output that the scores are taken from."""
    score: str
    """`logits`: what goes into the output's final sigmoid or softmax; `output`: the output."""
    weights: str
    """The graph's optional input that weighs the scores; its shape broadcasts to theirs."""
    tensors: Mapping[str, str]
    """By name of a layer or input, the graph output that is the gradient with respect to it."""
    broadcasts: bool
    """Whether one sample goes with many rows of weights, and then gives as many gradients."""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Everything a layertap file knows about itself beside the graph."""

    source: Source
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    """The model's own outputs, in its order."""
    layers: tuple[Layer, ...]
    """Every layer of the model, in the order of `model.layers`."""
    preprocessing: Mapping[str, Any] | None = None
    """The recipe as `layertap.Preprocessing.from_dict` takes it."""
    labels: tuple[str, ...] | None = None
    """Names of the classes, in the order of the output's last axis."""
    verification: Verification | None = None
    golden: Golden | None = None
    gradients: Gradients | None = None
    format: str = f"{MAJOR}.{MINOR}"
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def channels_last(self) -> bool:
        """Whether the layers' shapes are Keras's; in a file from elsewhere they are ONNX's."""
        return self.source.framework != "onnx"

    def to_json(self) -> str:
        """The card as compact JSON with sorted keys, so that equal cards are equal bytes."""
        return json.dumps(_plain(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: str = "the file") -> Card:
        """Read a card.

        Args:
            text: what stands under `metadata_props["layertap"]`.
            where: the file's name, for messages.

        Raises:
            CardVersionError: a newer major format.
            ModelFileError: not a card.
        """
        try:
            data = json.loads(text)
            major, version = _major(data)
            if major <= MAJOR:
                return _read_card(data)
        except (ValueError, RecursionError) as exc:
            reason = "it is nested too deeply" if isinstance(exc, RecursionError) else str(exc)
            raise ModelFileError(
                f"{where} has a damaged layertap card ({reason}). Export the model again."
            ) from exc
        raise CardVersionError(
            f"{where} has a layertap card of format {version}; this layertap reads format {MAJOR}. "
            "Upgrade with `pip install -U layertap`."
        )


def _plain(value: Any) -> Any:
    """Dataclasses to dicts, with `extra` spread out again; tuples to lists."""
    if hasattr(value, "__dataclass_fields__"):
        known = {
            item.name: _plain(getattr(value, item.name))
            for item in fields(value)
            if item.name != "extra" and getattr(value, item.name) is not None
        }
        # A layer that is not exposed says so; other empty fields are left out.
        if isinstance(value, Layer) and value.tensor is None:
            known["tensor"] = None
        return {**_plain(value.extra), **known}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _major(data: object) -> tuple[int, str]:
    """The major number of the format, and the whole of it."""
    version = str(data.get("format")) if isinstance(data, dict) else ""
    major = version.partition(".")[0]
    if not major.isdecimal():
        raise ValueError(f"it is {_short(data)}, and names no format")
    return int(major), version


T = TypeVar("T")
Reader: TypeAlias = Callable[[Any], Any]


def _read(cls: type[T], data: object, **nested: Reader) -> T:
    """Make `cls` from a JSON object; `nested` reads the fields that hold further objects."""
    what = cls.__name__
    if not isinstance(data, dict):
        raise ValueError(f"{what} is {_short(data)}, not an object")
    known = {item.name: item for item in fields(cls) if item.name != "extra"}  # type: ignore[arg-type]
    values: dict[str, Any] = {"extra": {k: v for k, v in data.items() if k not in known}}
    for name, item in known.items():
        if name not in data:
            if item.default is MISSING:
                raise ValueError(f"{what} has no {name!r}")
        elif name in nested:
            values[name] = nested[name](data[name])
        else:
            values[name] = _frozen(data[name])
            kind, fits = _KINDS[str(item.type)]
            if not fits(values[name]):
                raise ValueError(f"{what} has {_short(data[name])} as {name!r}, not {kind}")
    return cls(**values)


def _many(cls: type[T], **nested: Reader) -> Reader:
    def read(data: object) -> tuple[T, ...]:
        if not isinstance(data, list):
            raise ValueError(f"{cls.__name__}s are {_short(data)}, not a list")
        return tuple(_read(cls, item, **nested) for item in data)

    return read


def _by_name(cls: type[T]) -> Reader:
    def read(data: object) -> dict[str, T]:
        if not isinstance(data, dict):
            raise ValueError(f"{cls.__name__}s are {_short(data)}, not an object")
        return {name: _read(cls, item) for name, item in data.items()}

    return read


def _optional(cls: type[T], **nested: Reader) -> Reader:
    return lambda data: None if data is None else _read(cls, data, **nested)


def _read_card(data: object) -> Card:
    return _read(
        Card,
        data,
        source=lambda source: _read(Source, source),
        inputs=_many(TensorInfo),
        outputs=_many(TensorInfo),
        layers=_many(Layer),
        verification=_optional(Verification, layers=_by_name(LayerCheck)),
        golden=_optional(Golden, inputs=_many(GoldenInput), layers=_by_name(GoldenLayer)),
        gradients=_optional(Gradients),
    )


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return value is None or (_is_count(value) and value >= 0)


def _all(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple) and all(map(fits, value))


_KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "str": ("a string", _is_text),
    "str | None": ("a string or null", lambda value: value is None or _is_text(value)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "int": ("a whole number", _is_count),
    "float": ("a number", _is_number),
    "Shape": ("a list of sizes", _all(_is_size)),
    "tuple[int, ...]": ("a list of whole numbers", _all(_is_count)),
    "tuple[float, ...]": ("a list of numbers", _all(_is_number)),
    "tuple[str, ...]": ("a list of strings", _all(_is_text)),
    "tuple[str, ...] | None": (
        "a list of strings or null",
        lambda value: value is None or _all(_is_text)(value),
    ),
    "Mapping[str, str]": (
        "an object of strings",
        lambda value: isinstance(value, dict) and all(map(_is_text, value.values())),
    ),
    "Mapping[str, Any] | None": (
        "an object or null",
        lambda value: value is None or isinstance(value, dict),
    ),
}
"""What a field of this annotation takes, in words and as a test."""


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
