"""The card: what a layertap file knows about itself, as JSON in `metadata_props["layertap"]`.

Both sides use these classes: the exporter writes the card through them, the runtime reads it.
Keys that this version does not know are kept in `extra` and written back. A file whose format
has a newer major number is refused, one with a newer minor number is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from ._layer import Layer, Shape
from .errors import CardVersionError, ModelFileError

KEY = "layertap"
"""The key of `metadata_props` under which the card stands."""

MAJOR, MINOR = 1, 0
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
    """`keras` or `tf_keras`."""
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
    format: str = f"{MAJOR}.{MINOR}"
    extra: Mapping[str, Any] = field(default_factory=dict)

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
            version = str(data["format"])
            major = int(version.split(".")[0])
        except (ValueError, TypeError, KeyError) as exc:
            raise ModelFileError(
                f"{where} has a damaged layertap card ({_reason(exc)}). Export the model again."
            ) from exc
        if major > MAJOR:
            raise CardVersionError(
                f"{where} has a layertap card of format {version}; this layertap reads format "
                f"{MAJOR}. Upgrade with `pip install -U layertap`."
            )
        try:
            return _read_card(data)
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise ModelFileError(
                f"{where} has a damaged layertap card ({_reason(exc)}). Export the model again."
            ) from exc


def _reason(exc: Exception) -> str:
    return f"no key {exc.args[0]!r}" if isinstance(exc, KeyError) else str(exc)


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
        return {**_plain(getattr(value, "extra", {})), **known}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


T = TypeVar("T")


def _read(cls: type[T], data: Mapping[str, Any], **parsed: Any) -> T:
    """Make `cls` from a JSON object: `parsed` fields as given, lists as tuples, the rest as is."""
    names = {item.name for item in fields(cls)} - {"extra"}  # type: ignore[arg-type]
    values = {key: _frozen(item) for key, item in data.items() if key in names}
    extra = {key: item for key, item in data.items() if key not in names}
    if cls is not Layer:
        values["extra"] = extra
    return cls(**{**values, **parsed})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _read_card(data: Mapping[str, Any]) -> Card:
    verification, golden = data.get("verification"), data.get("golden")
    return _read(
        Card,
        data,
        source=_read(Source, data["source"]),
        inputs=tuple(_read(TensorInfo, item) for item in data["inputs"]),
        outputs=tuple(_read(TensorInfo, item) for item in data["outputs"]),
        layers=tuple(_read(Layer, item) for item in data["layers"]),
        verification=verification
        and _read(
            Verification,
            verification,
            layers={k: _read(LayerCheck, v) for k, v in verification["layers"].items()},
        ),
        golden=golden
        and _read(
            Golden,
            golden,
            inputs=tuple(_read(GoldenInput, item) for item in golden["inputs"]),
            layers={k: _read(GoldenLayer, v) for k, v in golden["layers"].items()},
        ),
    )
