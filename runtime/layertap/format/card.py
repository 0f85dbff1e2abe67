"""The card: what a layertap file knows about itself, as JSON in `metadata_props["layertap"]`.

Both sides use these classes: the exporter writes the card through them, the runtime reads it.
Keys that this version does not know are kept in `extra` and written back. A file whose format
has a newer major number is refused, one with a newer minor number is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache

from layertap._record import Record
from layertap.errors import CardVersionError, ModelFileError

from .layer import Layer, Shape

TYPE_CHECKING = False  # see _record.py: the table of layers is to be quick
if TYPE_CHECKING:
    from typing import Any, TypeAlias, TypeVar

    T = TypeVar("T", bound=Record)
    U = TypeVar("U")
    Reader: TypeAlias = Callable[[Any], Any]
    Kind: TypeAlias = tuple[str, tuple[type, ...], Callable[[Any], bool] | None]

KEY = "layertap"
"""The key of `metadata_props` under which the card stands."""

MAJOR, MINOR = 1, 2
"""The format that this layertap writes; it reads every minor of the same major."""


class TensorInfo(Record):
    """A model input or output."""

    name: str
    shape: Shape
    dtype: str
    extra: Mapping[str, Any] = {}


class Source(Record):
    """The model that the file was made from."""

    framework: str
    """`keras` or `tf_keras`; `tensorflow` for a signature of a SavedModel; `onnx` for a file from
    elsewhere."""
    version: str
    """Version of that framework."""
    model: str
    """The model's name; of a SavedModel the folder's."""
    type: str
    """The model's class, for example `Functional`; the name of the signature."""
    weights_sha256: str
    """Over the bytes of all weights, in Keras's order."""
    extra: Mapping[str, Any] = {}

    @property
    def signature(self) -> str | None:
        """The signature that the file was made from, which has no layers; `None` for a model."""
        return self.type if self.framework == "tensorflow" else None


class LayerCheck(Record):
    """How far one layer's activations are from Keras's."""

    max_abs: float
    """Largest absolute difference over all batches."""
    scaled: float
    """Largest, over the batches, of `max_abs` divided by the layer's scale: its largest absolute
    value, or 0.01 for a sigmoid whose values are all less."""
    extra: Mapping[str, Any] = {}


class Verification(Record):
    """What was measured against Keras when the file was made."""

    tolerance: float
    """Largest scaled error that was allowed."""
    batches: tuple[str, ...]
    """What was fed, in words: `2 x 320 x 320 x 3, seeded`."""
    onnxruntime: str
    """The version that ran the file."""
    layers: Mapping[str, LayerCheck]
    extra: Mapping[str, Any] = {}

    @property
    def worst(self) -> str:
        """Name of the layer with the largest scaled error."""
        return max(self.layers, key=lambda name: self.layers[name].scaled)


class GoldenInput(Record):
    """One input of the golden sample: uniform numbers in [low, high), see `compare.golden`."""

    name: str
    shape: tuple[int, ...]
    low: float
    high: float
    choices: tuple[Any, ...] | None = None
    """Strings or whole numbers among which the numbers, rounded down, are places."""
    extra: Mapping[str, Any] = {}


class GoldenLayer(Record):
    """What Keras gave for one layer on the golden sample."""

    shape: tuple[int, ...]
    norm: float
    """Euclidean norm of the activations."""
    scale: float
    """Largest absolute value; at least 0.01 for a sigmoid."""
    values: tuple[float, ...]
    """Values at evenly spaced places of the flattened (C order) activations."""
    extra: Mapping[str, Any] = {}


class Golden(Record):
    """A seeded input and what Keras made of it, by which any machine can check itself."""

    seed: int
    inputs: tuple[GoldenInput, ...]
    layers: Mapping[str, GoldenLayer]
    extra: Mapping[str, Any] = {}


class Gradients(Record):
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
    extra: Mapping[str, Any] = {}


class Card(Record):
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
    notes: tuple[str, ...] | None = None
    """Sentences on where the file is not what the model is, such as another number type."""
    format: str = f"{MAJOR}.{MINOR}"
    extra: Mapping[str, Any] = {}

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
        return _reading(text, where, _read_card)


def read_layers(text: str, where: str = "the file") -> tuple[Layer, ...]:
    """The layers of a card; the rest of it is not looked at.

    Raises:
        CardVersionError: a newer major format.
        ModelFileError: not a card.
    """
    return _reading(text, where, _read_layers)


def _reading(text: str, where: str, read: Callable[[Any], U]) -> U:
    try:
        data = json.loads(text)
        major, version = _major(data)
        if major <= MAJOR:
            return read(data)
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
    """Records to dicts, with `extra` spread out again; tuples to lists."""
    if isinstance(value, Record):
        known = {
            name: _plain(getattr(value, name))
            for name in value._names
            if name != "extra" and getattr(value, name) is not None
        }
        # A layer that is not exposed says so; other empty fields are left out.
        if isinstance(value, Layer) and value.tensor is None:
            known["tensor"] = None
        return {**_plain(vars(value)["extra"]), **known}
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


def _read(cls: type[T], data: object, **nested: Reader) -> T:
    """Make `cls` from a JSON object; `nested` reads the fields that hold further objects."""
    if not isinstance(data, dict):
        raise ValueError(f"{cls.__name__} is {_short(data)}, not an object")
    values: dict[str, Any] = {}
    absent = 0
    for name, (kind, types, fits) in _kinds(cls).items():  # type: ignore[arg-type]
        if name not in data:
            if not hasattr(cls, name):
                raise ValueError(f"{cls.__name__} has no {name!r}")
            values[name] = getattr(cls, name)
            absent += 1
        elif name in nested:
            values[name] = nested[name](data[name])
        else:
            value = data[name]
            if value.__class__ is list:
                value = tuple(value)
            if value.__class__ not in types or not (fits is None or fits(value)):
                raise ValueError(f"{cls.__name__} has {_short(data[name])} as {name!r}, not {kind}")
            values[name] = value
    known = len(values) - absent
    extra = {k: v for k, v in data.items() if k not in values} if len(data) > known else {}
    values["extra"] = extra
    return cls.trusted(values)


@cache
def _kinds(cls: type[Record]) -> dict[str, Kind]:
    """What goes into each field but `extra`."""
    kinds = {name: kind for name, kind in cls.__annotations__.items() if name != "extra"}
    return {name: _KINDS.get(kind, _NESTED) for name, kind in kinds.items()}


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


def _read_layers(data: Mapping[str, Any]) -> tuple[Layer, ...]:
    if "layers" not in data:
        raise ValueError("Card has no 'layers'")
    layers: tuple[Layer, ...] = _many(Layer)(data["layers"])
    return layers


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


def _all(*types: type) -> Callable[[Any], bool]:
    """A test for a tuple whose values are of these types; for `None`, too."""
    allowed = frozenset(types)
    return lambda value: value is None or allowed.issuperset(map(type, value))


_are_whole = _all(int, type(None))


def _are_sizes(value: Any) -> bool:
    return _are_whole(value) and min(filter(None, value), default=0) >= 0


def _are_texts(value: Any) -> bool:
    return all(item.__class__ is str for item in value.values())


_KINDS: Mapping[str, Kind] = {
    "str": ("a string", (str,), None),
    "str | None": ("a string or null", (str, type(None)), None),
    "bool": ("true or false", (bool,), None),
    "bool | None": ("true, false or null", (bool, type(None)), None),
    "int": ("a whole number", (int,), None),
    "float": ("a number", (int, float), None),
    "Shape": ("a list of sizes", (tuple,), _are_sizes),
    "tuple[int, ...]": ("a list of whole numbers", (tuple,), _all(int)),
    "tuple[float, ...]": ("a list of numbers", (tuple,), _all(int, float)),
    "tuple[str, ...]": ("a list of strings", (tuple,), _all(str)),
    "tuple[str, ...] | None": ("a list of strings or null", (tuple, type(None)), _all(str)),
    "tuple[Any, ...] | None": (
        "a list of strings or numbers, or null",
        (tuple, type(None)),
        _all(str, int, float),
    ),
    "Mapping[str, str]": ("an object of strings", (dict,), _are_texts),
    "Mapping[str, Any] | None": ("an object or null", (dict, type(None)), None),
}
"""What a field of this annotation takes: in words, as types, and as a test of what is inside."""

_NESTED: Kind = ("an object", (), None)
"""Of fields that hold further objects, which have readers of their own."""


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
