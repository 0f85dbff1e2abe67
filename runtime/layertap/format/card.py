"""The card: a description of the model, stored as JSON in `metadata_props["layertap"]`.

The exporter writes the card with these classes, and the runtime reads it with them. Keys that this
version does not know are kept in `extra` and written back. A card with a newer major format
version is rejected; a card with a newer minor version is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from math import isfinite
from typing import Any, TypeAlias, TypeVar

from layertap._record import Record
from layertap.errors import CardVersionError, ModelFileError, UsageError, suggest

from .graph import MAX_RANK
from .layer import AXIS_LETTERS, Attention, Axes, Layer, Shape, Tokens

T = TypeVar("T", bound=Record)
Finite: TypeAlias = float
"""A number that is neither NaN nor infinite."""
Reader: TypeAlias = Callable[[Any], Any]
Kind: TypeAlias = tuple[str, tuple[type, ...], Callable[[Any], bool] | None]

KEY = "layertap"
"""The key of the card in `metadata_props`."""

MAJOR, MINOR = 1, 4
"""The format version that this layertap writes; it reads every minor version of the same major."""

MAX_NESTING = 32
"""Most levels of what this version does not know."""


CLASS_INPUTS = ("optional", "required")
"""The forms of the input with the weights of the scores."""


def check_class_input(given: Any) -> None:
    """Check that an argument is one of `CLASS_INPUTS`, or `None`.

    Raises:
        UsageError: it is not.
    """
    if given is not None and (not isinstance(given, str) or given not in CLASS_INPUTS):
        near = suggest(given, CLASS_INPUTS) if isinstance(given, str) else ""
        raise UsageError(f"class_input must be 'optional' or 'required', got {given!r}.{near}")


class TensorInfo(Record):
    """A model input or output."""

    name: str
    shape: Shape
    dtype: str
    axes: Axes | None = None
    """What each axis of `shape` means, as for layers; `None` if it is not known."""
    extra: Mapping[str, Any] = {}


class Source(Record):
    """The model that the file was exported from."""

    framework: str
    """`keras` or `tf_keras`; `tensorflow` for a signature of a SavedModel; `onnx` for an ONNX file
    that layertap did not export."""
    version: str
    """Version of that framework."""
    model: str
    """The model's name; for a SavedModel, the name of its folder."""
    type: str
    """The model's class, for example `Functional`; for a SavedModel, the signature's name."""
    weights_sha256: str
    """SHA-256 of the bytes of all weights, in Keras's order."""
    extra: Mapping[str, Any] = {}

    @property
    def signature(self) -> str | None:
        """The signature that the file was exported from; `None` for a Keras model.

        A file that was exported from a signature has no layers.
        """
        return self.type if self.framework == "tensorflow" else None


class LayerCheck(Record):
    """The differences between one layer's activations and Keras's."""

    max_abs: float
    """Largest absolute difference over all batches."""
    scaled: float
    """The scaled error: the largest absolute difference in a batch, divided by the layer's scale in
    that batch; the maximum over all batches. The scale is the largest absolute value, and at least
    0.01 for a sigmoid."""
    reference: Finite | None = None
    """How far Keras is from itself in this layer, scaled: from Keras in float64, or after a change
    of the input by a millionth. Only where `scaled` is over the tolerance, which Keras cannot hold
    there either. Since format 1.3."""
    extra: Mapping[str, Any] = {}


class TableRows(Record):
    """How much of a table the comparison has read: of weights that an input is an index of, or of
    the keys of a vocabulary."""

    read: int
    """Rows that at least one batch has read."""
    rows: int
    """Rows that the table has."""
    extra: Mapping[str, Any] = {}


class Verification(Record):
    """The comparison with Keras at the export."""

    tolerance: Finite
    """Largest scaled error that was allowed."""
    batches: tuple[str, ...]
    """A description of each batch, for example `2 x 320 x 320 x 3, seeded`."""
    onnxruntime: str
    """Version of onnxruntime that ran the file."""
    layers: Mapping[str, LayerCheck]
    """The differences, by name of the layer."""
    tables: Mapping[str, TableRows] | None = None
    """The tables that the inputs select rows of, by name of the layer. Since format 1.3."""
    extra: Mapping[str, Any] = {}

    @property
    def worst(self) -> str:
        """Name of the layer with the largest scaled error, if possible within the tolerance."""
        checks = self.layers
        return max(checks, key=lambda name: (checks[name].reference is None, checks[name].scaled))


class GoldenInput(Record):
    """One input of the golden sample: numbers in [low, high), uniform random ones or steps.

    `layertap.comparing.golden` generates them.
    """

    name: str
    shape: tuple[int, ...]
    low: Finite
    high: Finite
    choices: tuple[Any, ...] | None = None
    """Strings or integers; each number, rounded down, is an index into them."""
    step: Finite | None = None
    """If given, the numbers are not random, but element `i` is
    `low + floor(i * step) mod (high - low)`. Since format 1.3."""
    extra: Mapping[str, Any] = {}


class GoldenLayer(Record):
    """A summary of Keras's activations of one layer for the golden sample."""

    shape: tuple[int, ...]
    norm: Finite
    """Euclidean norm of the activations."""
    scale: Finite
    """Largest absolute value; at least 0.01 for a sigmoid."""
    values: tuple[Finite, ...]
    """Values at evenly spaced positions in the flattened (C order) activations."""
    sums: tuple[Finite, ...] | None = None
    """Sums of all activations, each with other seeded weights; see `compare.golden.weighted_sums`.
    Since format 1.3."""
    extra: Mapping[str, Any] = {}


class Golden(Record):
    """The golden sample: a seeded input, and Keras's activations for it.

    `layertap check` compares the results of the current machine with it.
    """

    seed: int
    inputs: tuple[GoldenInput, ...]
    layers: Mapping[str, GoldenLayer]
    extra: Mapping[str, Any] = {}


class Gradients(Record):
    """The gradients in the file: of a weighted sum of the model's scores."""

    output: str
    """The graph output that the scores are taken from: an output of the model, the tensor of a
    layer, or one that holds a single channel of these."""
    score: str
    """`logits`: the input of the output's final sigmoid or softmax; `output`: the output itself."""
    weights: str
    """The graph's input with the weights of the scores; its shape broadcasts to theirs."""
    tensors: Mapping[str, str]
    """The graph output that holds the gradient, by name of the layer or input it is taken with
    respect to."""
    broadcasts: bool
    """Whether one sample can be combined with several rows of weights, which gives one gradient
    per row."""
    class_input: str | None = None
    """Whether a client has to feed the weights: `optional`, where the graph has ones to fall back
    on, or `required`. `None`, in older files, is `optional`."""
    of: str | None = None
    """The layer that is differentiated, or the model's output if it is one channel of that. `None`
    if it is `output`, an output of the model. Since format 1.4."""
    channel: int | None = None
    """The only channel of `of` that is differentiated; `None` for all. Since format 1.4."""
    extra: Mapping[str, Any] = {}

    @property
    def scored(self) -> str:
        """What is differentiated, as `layertap gradients --score` takes it: `dense`, `conv:3`."""
        return (self.of or self.output) + ("" if self.channel is None else f":{self.channel}")

    @property
    def added(self) -> set[str]:
        """The graph outputs that are there for the gradients only."""
        return {*self.tensors.values(), *([] if self.channel is None else [self.output])}


class Digest(Record):
    """Of the graph and the weights that were verified; see `layertap.format.digest`."""

    nodes: str
    """CRC-32 of the bytes of the nodes. Another program may store the same nodes in other bytes."""
    graph: str
    """SHA-256 of the graph's contents, without the values of its weights."""
    weights: str
    """SHA-256 of the values of all weights."""
    card: str | None = None
    """SHA-256 of what the card says about inputs and results: labels, recipe, axes."""
    extra: Mapping[str, Any] = {}


class MadeFrom(Record):
    """The file that this one was made from, by `layertap cut`, `gradients`, `finish` or
    `quantize`."""

    step: str
    """`cut`, `gradients`, `finish` or `quantize`."""
    graph: str
    """The digest of its graph."""
    weights: str
    """The digest of its weights."""
    file: str | None = None
    """The name of the file, without its folder; `None` for a model that was in memory."""
    extra: Mapping[str, Any] = {}


class Finished(Record):
    """What a finished file takes and gives beside the model's own inputs and outputs: the names of
    inputs and outputs of the graph, or `None` for what it does not have. Since format 1.3."""

    scores: str | None = None
    """The model's output with the scores of the classes."""
    image: str | None = None
    """The input for a picture: uint8, `(height, width, channels)` with 1, 3 or 4 channels, or with
    an axis of samples before them."""
    preprocessing: Mapping[str, Any] | None = None
    """The recipe that the graph itself applies to the picture."""
    target: str | None = None
    """The input for the class that the heat map explains, int64; -1 is the class with the highest
    score."""
    heat_map: str | None = None
    """The output with the heat map, float32, from 0 to 1: `(height, width)` as the picture has, or
    with an axis of samples before them."""
    layer: str | None = None
    """The layer that the heat map is made of."""
    method: str | None = None
    """The method of the heat map."""
    top_scores: str | None = None
    """The output with the highest scores, in order, `(samples, k)`."""
    top_classes: str | None = None
    """The output with the classes of these scores, int64."""
    extra: Mapping[str, Any] = {}


class Quantized(Record):
    """How a file was quantised, and how far it is from the file that it was made from. All errors
    are scaled: divided by the largest value. Since format 1.3."""

    to: str
    """`float16` or `int8`."""
    layers: Mapping[str, str]
    """How each layer that can be quantised is computed, by name: in `float16` or `int8`; in
    `float32` from weights in the other dtype, which is `stored`; or in `float32` altogether."""
    outputs: Mapping[str, Finite]
    """The error of each of the model's outputs, by name, on samples that were not used for the
    calibration."""
    samples: int
    """How many samples that were."""
    golden: Mapping[str, Finite]
    """The deviation from the golden values, by name of the tensor, as `layertap check` measures
    it."""
    onnxruntime: str
    """Version of onnxruntime that quantised and ran the file."""
    calibrated: int | None = None
    """How many samples the ranges of int8 were measured on."""
    budget: Finite | None = None
    """The largest error of an output that was allowed."""
    extra: Mapping[str, Any] = {}


class Card(Record):
    """The description of a model that a layertap file contains in addition to the graph."""

    source: Source
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    """The model's own outputs, in the model's order."""
    layers: tuple[Layer, ...]
    """Every layer of the model, in the order of `model.layers`."""
    preprocessing: Mapping[str, Any] | None = None
    """The recipe, in the form that `layertap.Preprocessing.from_dict` accepts."""
    images: Mapping[str, str] | None = None
    """Versions of the libraries that read images at the export, by their names; `None` without a
    recipe. Since format 1.3."""
    labels: tuple[str, ...] | None = None
    """Names of the classes, in the order of the output's last axis."""
    verification: Verification | None = None
    golden: Golden | None = None
    gradients: Gradients | None = None
    notes: tuple[str, ...] | None = None
    """Sentences that describe how the file differs from the model, such as another dtype."""
    digest: Digest | None = None
    """What the file contained when it was verified."""
    made_from: MadeFrom | None = None
    """The file that this one was made from; `None` for an export."""
    finished: Finished | None = None
    """What a finished file takes and gives; `None` for any other."""
    stripped: bool | None = None
    """Whether what no client needs was left out. Since format 1.3."""
    quantized: Quantized | None = None
    """How the file was quantised; `None` for any other."""
    format: str = f"{MAJOR}.{MINOR}"
    extra: Mapping[str, Any] = {}

    @property
    def channels_last(self) -> bool:
        """Whether the layers' shapes are in Keras's axis order.

        In an ONNX file that layertap did not export, they are in ONNX's axis order.
        """
        return self.source.framework != "onnx"

    def to_json(self) -> str:
        """The card as compact JSON with sorted keys; equal cards give equal bytes."""
        return json.dumps(_plain(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: str = "the file") -> Card:
        """Read a card.

        Args:
            text: the JSON text in `metadata_props["layertap"]`.
            where: the file's name, for error messages.

        Raises:
            CardVersionError: the format has a newer major version.
            ModelFileError: the text is not a valid card.
        """
        try:
            data = _parsed(text)
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
            "Upgrade layertap."
        )


def _parsed(text: str) -> Any:
    """The JSON data of a card.

    Raises:
        ValueError: it is not JSON, or has a number that does not fit into 64 bits, or half of a
            character, which cannot be written again.
    """
    if not _SUSPICIOUS.search(text):
        return json.loads(text)
    data = json.loads(text, parse_int=_integer)
    json.dumps(data, ensure_ascii=False).encode()
    return data


_SUSPICIOUS = re.compile(r"[0-9]{19}|\\u[dD][89a-fA-F]")
"""What may be a large number or a lone surrogate: the test is faster than looking at each."""


def _integer(digits: str) -> int:
    value = int(digits) if len(digits) < 21 else 1 << 63
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"the number {_short(digits)} is too large")
    return value


def _plain(value: Any) -> Any:
    """Convert records to dicts, with `extra` merged in, and tuples to lists."""
    if isinstance(value, Record):
        known = {
            name: _plain(getattr(value, name))
            for name in value._names
            if name != "extra" and getattr(value, name) is not None
        }
        # `null` states that a layer is not exposed; other fields that are None are omitted.
        if isinstance(value, Layer) and value.tensor is None:
            known["tensor"] = None
        return {**_plain(vars(value)["extra"]), **known}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _major(data: object) -> tuple[int, str]:
    """The major version of the format, and the full version."""
    version = str(data.get("format")) if isinstance(data, dict) else ""
    major = version.partition(".")[0]
    if not major.isdecimal():
        raise ValueError(f"{_short(data)} does not state a format version")
    return int(major), version


def _read(cls: type[T], data: object, **nested: Reader) -> T:
    """Create a `cls` from a JSON object; `nested` has a reader for each field with objects."""
    if not isinstance(data, dict):
        raise ValueError(f"{cls.__name__} is {_short(data)}, not an object")
    values: dict[str, Any] = {}
    absent = 0
    for name, (description, types, is_valid) in _kinds(cls).items():  # type: ignore[arg-type]
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
            if value.__class__ not in types or not (is_valid is None or is_valid(value)):
                raise ValueError(
                    f"{cls.__name__} has {_short(data[name])} as {name!r}, not {description}"
                )
            values[name] = value
    known = len(values) - absent
    extra = {k: v for k, v in data.items() if k not in values} if len(data) > known else {}
    if extra and not _is_shallow(extra):
        raise ValueError(f"the unknown keys of {cls.__name__} are nested too deeply")
    values["extra"] = extra
    # Without a dtype, the file does not state how many axes there are.
    states_axes = values.get("axes") is not None and values["dtype"]
    if states_axes and len(values["axes"]) != len(values["shape"]):
        raise ValueError(
            f"{cls.__name__} {_short(values['name'])} has {len(values['shape'])} axes, but "
            f"{_short(values['axes'])} as 'axes'"
        )
    return cls.trusted(values)


@cache
def _kinds(cls: type[Record]) -> dict[str, Kind]:
    """The valid values of each field, except `extra`."""
    annotations = {name: text for name, text in cls.__annotations__.items() if name != "extra"}
    return {name: _KINDS.get(text, _NESTED) for name, text in annotations.items()}


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
    card = _read(
        Card,
        data,
        source=lambda source: _read(Source, source),
        inputs=_many(TensorInfo),
        outputs=_many(TensorInfo),
        layers=_many(Layer, attention=_optional(Attention), tokens=_optional(Tokens)),
        verification=_optional(
            Verification, layers=_by_name(LayerCheck), tables=_by_name(TableRows)
        ),
        golden=_optional(Golden, inputs=_many(GoldenInput), layers=_by_name(GoldenLayer)),
        gradients=_optional(Gradients),
        digest=_optional(Digest),
        made_from=_optional(MadeFrom),
        finished=_optional(Finished),
        quantized=_optional(Quantized),
    )
    _check_parents({layer.name: layer.parent for layer in card.layers if layer.parent is not None})
    for layer in card.layers:
        if layer.attention is not None:
            _check_attention(layer, layer.attention)
        if layer.tokens is not None:
            if len(layer.shape) != 3:
                shape = _short(list(layer.shape))
                raise ValueError(f"{_short(layer.name)} has tokens in {shape}")
            _check_grid(layer, layer.tokens, 1)
    return card


def _check_attention(layer: Layer, attention: Attention) -> None:
    """Check that attention scores have the axes that the card states."""
    heads, shape = attention.heads, layer.shape
    if not shape and layer.tensor is None:  # not computed: nothing is known of it
        return
    axes = 4 if heads else 3
    if len(shape) < axes or (heads and shape[1] not in (None, heads)):
        raise ValueError(f"{_short(layer.name)} has {heads} heads in {_short(list(shape))}")
    if attention.grid is not None:
        if len(shape) != axes:
            raise ValueError(f"{_short(layer.name)} has a grid in {_short(list(shape))}")
        _check_grid(layer, attention, axes - 2)
        _check_grid(layer, attention, axes - 1)


def _check_grid(layer: Layer, tokens: Attention | Tokens, axis: int) -> None:
    """Check that an axis of a layer has as many tokens as the card states."""
    rows, columns = tokens.grid or (0, 0)
    size = layer.shape[axis]
    if size is not None and tokens.first + rows * columns > size:
        raise ValueError(
            f"{_short(layer.name)} has {tokens.first} tokens and a grid of {rows} x {columns} in "
            f"{_short(list(layer.shape))}"
        )


def _check_parents(parents: Mapping[str, str]) -> None:
    """Check that no layer is inside itself."""
    known: set[str] = set()
    for layer in parents:
        path: set[str] = set()
        name = layer
        while name in parents and name not in known:
            if name in path:
                raise ValueError(f"the layer {_short(name)} is inside itself")
            path.add(name)
            name = parents[name]
        known |= path


def _all(*types: type) -> Callable[[Any], bool]:
    """A test that accepts a tuple with values of these types, and `None`."""
    allowed = frozenset(types)
    return lambda value: value is None or allowed.issuperset(map(type, value))


_are_integers = _all(int, type(None))
_are_numbers = _all(int, float)


def _are_sizes(value: Any) -> bool:
    return (
        len(value) <= MAX_RANK and _are_integers(value) and min(filter(None, value), default=0) >= 0
    )


def _is_grid(value: Any) -> bool:
    return len(value) == 2 and all(type(size) is int and size > 0 for size in value)


def _are_finite(value: Any) -> bool:
    return _are_numbers(value) and all(map(isfinite, value))


def _is_shallow(value: Any) -> bool:
    """Whether JSON data are nested at most `MAX_NESTING` deep."""
    level = [value]
    for _ in range(MAX_NESTING):
        level = [
            inner
            for one in level
            if isinstance(one, (dict, list))
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return True
    return False


def _are_axes(value: Any) -> bool:
    known = [letter for letter in value or "" if letter != "?"]
    return len(set(known)) == len(known) and set(AXIS_LETTERS).issuperset(known)


def _are_strings(value: Any) -> bool:
    return all(item.__class__ is str for item in value.values())


def _are_finite_by_name(value: Any) -> bool:
    return _are_finite(value.values())


_KINDS: Mapping[str, Kind] = {
    "str": ("a string", (str,), None),
    "str | None": ("a string or null", (str, type(None)), None),
    "Axes | None": (
        f"a letter of {AXIS_LETTERS}? for each axis, or null",
        (str, type(None)),
        _are_axes,
    ),
    "bool": ("true or false", (bool,), None),
    "bool | None": ("true, false or null", (bool, type(None)), None),
    "int": ("an integer of at least 0", (int,), lambda value: value >= 0),
    "int | None": (
        "an integer of at least 0, or null",
        (int, type(None)),
        lambda value: value is None or value >= 0,
    ),
    "float": ("a number", (int, float), None),
    "Finite": ("a finite number", (int, float), isfinite),
    "Finite | None": (
        "a finite number or null",
        (int, float, type(None)),
        lambda value: value is None or isfinite(value),
    ),
    "Shape": ("a list of sizes", (tuple,), _are_sizes),
    "Grid": ("a list of two sizes", (tuple,), _is_grid),
    "Grid | None": (
        "a list of two sizes or null",
        (tuple, type(None)),
        lambda value: value is None or _is_grid(value),
    ),
    "tuple[int, ...]": (
        "a list of sizes without null",
        (tuple,),
        lambda value: _are_sizes(value) and None not in value,
    ),
    "tuple[Finite, ...]": ("a list of finite numbers", (tuple,), _are_finite),
    "tuple[Finite, ...] | None": (
        "a list of finite numbers or null",
        (tuple, type(None)),
        lambda value: value is None or _are_finite(value),
    ),
    "tuple[str, ...]": ("a list of strings", (tuple,), _all(str)),
    "tuple[str, ...] | None": ("a list of strings or null", (tuple, type(None)), _all(str)),
    "tuple[Any, ...] | None": (
        "a list of strings or numbers, or null",
        (tuple, type(None)),
        _all(str, int, float),
    ),
    "Mapping[str, str]": ("an object of strings", (dict,), _are_strings),
    "Mapping[str, str] | None": (
        "an object of strings or null",
        (dict, type(None)),
        lambda value: value is None or _are_strings(value),
    ),
    "Mapping[str, Finite]": ("an object of finite numbers", (dict,), _are_finite_by_name),
    "Mapping[str, Any] | None": (
        "an object or null",
        (dict, type(None)),
        _is_shallow,
    ),
}
"""The valid values of a field, by its annotation: a description, the types, and a test of the
contents."""

_NESTED: Kind = ("an object", (), None)
"""For fields that contain objects, which have their own readers."""


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
