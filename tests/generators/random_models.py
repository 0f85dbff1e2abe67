"""Random small Keras models: chains, branches, merges, models in models, layers used twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st

Make = Callable[[Any, int], Any]
"""From the module `keras` and a number of channels to a layer, or to a function of a tensor."""

ANY_RANK: Mapping[str, Make] = {
    "dense": lambda keras, n: keras.layers.Dense(n, activation="tanh"),
    "relu": lambda keras, n: keras.layers.ReLU(),
    "gelu": lambda keras, n: keras.layers.Activation("gelu"),
    "linear": lambda keras, n: keras.layers.Activation("linear"),
    "leaky": lambda keras, n: keras.layers.LeakyReLU(),
    "dropout": lambda keras, n: keras.layers.Dropout(0.5),
    "noise": lambda keras, n: keras.layers.GaussianNoise(0.5),
    "identity": lambda keras, n: keras.layers.Identity(),
    "batch norm": lambda keras, n: keras.layers.BatchNormalization(),
    "layer norm": lambda keras, n: keras.layers.LayerNormalization(),
    "rescaling": lambda keras, n: keras.layers.Rescaling(0.5, 0.1),
    "softmax": lambda keras, n: keras.layers.Softmax(),
    "tanh": lambda keras, n: keras.ops.tanh,
    "arithmetic": lambda keras, n: lambda x: 1 - x * 0.5,
    "sigmoid and product": lambda keras, n: lambda x: x * keras.ops.sigmoid(x),
    "part": lambda keras, n: lambda x: x[..., :1],
}

VECTORS: Mapping[str, Make] = {
    "repeat": lambda keras, n: keras.layers.RepeatVector(n),
    "reshape": lambda keras, n: keras.layers.Reshape((-1, 1)),
}


def _self_attention(keras: Any, n: int) -> Callable[[Any], Any]:
    heads = keras.layers.MultiHeadAttention(2, n)
    return _named(lambda x: heads(x, x, return_attention_scores=True), heads)


def _named(function: Any, layer: Any) -> Callable[[Any], Any]:
    """A function that says which layer it calls: Keras must know those inside a layer."""
    function.layer = layer
    return function


SEQUENCES: Mapping[str, Make] = {
    "conv": lambda keras, n: keras.layers.Conv1D(n, 2, padding="same"),
    "causal": lambda keras, n: keras.layers.Conv1D(n, 2, padding="causal", dilation_rate=2),
    "max": lambda keras, n: keras.layers.MaxPooling1D(2, padding="same"),
    "average": lambda keras, n: keras.layers.AveragePooling1D(2, strides=1, padding="same"),
    "mean": lambda keras, n: keras.layers.GlobalAveragePooling1D(),
    "maximum": lambda keras, n: keras.layers.GlobalMaxPooling1D(),
    "pad": lambda keras, n: keras.layers.ZeroPadding1D(1),
    "up": lambda keras, n: keras.layers.UpSampling1D(2),
    "lstm": lambda keras, n: keras.layers.LSTM(n, return_sequences=True, return_state=True),
    "gru": lambda keras, n: keras.layers.GRU(n, return_sequences=True),
    "simple rnn": lambda keras, n: keras.layers.SimpleRNN(n),
    "stacked": lambda keras, n: keras.layers.RNN(
        [keras.layers.LSTMCell(n), keras.layers.GRUCell(n)], return_sequences=True
    ),
    "both ways": lambda keras, n: keras.layers.Bidirectional(
        keras.layers.GRU(n, return_sequences=True)
    ),
    "each step": lambda keras, n: keras.layers.TimeDistributed(
        keras.Sequential([keras.layers.Dense(n), keras.layers.ReLU()])
    ),
    "heads": _self_attention,
    "masking": lambda keras, n: keras.layers.Masking(),
}

IMAGES: Mapping[str, Make] = {
    "conv": lambda keras, n: keras.layers.Conv2D(n, 3, padding="same", activation="relu"),
    "conv strides": lambda keras, n: keras.layers.Conv2D(n, 2, strides=2, padding="same"),
    "depthwise": lambda keras, n: keras.layers.DepthwiseConv2D(3, padding="same"),
    "separable": lambda keras, n: keras.layers.SeparableConv2D(n, 2, padding="same"),
    "transposed": lambda keras, n: keras.layers.Conv2DTranspose(n, 2, strides=2),
    "spectral": lambda keras, n: keras.layers.SpectralNormalization(
        keras.layers.Conv2D(n, 3, padding="same")
    ),
    "max": lambda keras, n: keras.layers.MaxPooling2D(2, padding="same"),
    "average": lambda keras, n: keras.layers.AveragePooling2D(2, strides=1, padding="same"),
    "mean": lambda keras, n: keras.layers.GlobalAveragePooling2D(),
    "mean kept": lambda keras, n: keras.layers.GlobalAveragePooling2D(keepdims=True),
    "pad": lambda keras, n: keras.layers.ZeroPadding2D(((1, 0), (0, 2))),
    "up": lambda keras, n: keras.layers.UpSampling2D(2),
    "transpose": lambda keras, n: keras.layers.Permute((2, 1, 3)),
}

FIXED: Mapping[str, Make] = {
    "flatten": lambda keras, n: keras.layers.Flatten(),
    "turned": lambda keras, n: keras.layers.Reshape((1, -1)),
}
"""For tensors of fixed sizes."""

BY_RANK = {2: VECTORS, 3: SEQUENCES, 4: IMAGES}

MERGES: Mapping[str, Callable[[Any, Any, Any], Any]] = {
    "add": lambda keras, x, y: keras.layers.Add()([x, y]),
    "maximum": lambda keras, x, y: keras.layers.Maximum()([x, y]),
    "concatenate": lambda keras, x, y: keras.layers.Concatenate()([x, y]),
    "plus": lambda keras, x, y: x + y,
    "where": lambda keras, x, y: keras.ops.where(x > 0, x, y),
}
"""Of two tensors of one shape, which is fixed."""

INPUTS: Mapping[str, tuple[tuple[int | None, ...], str]] = {
    "vector": ((4,), "float32"),
    "sequence": ((5, 3), "float32"),
    "sequence of any length": ((None, 3), "float32"),
    "image": ((5, 6, 2), "float32"),
    "image of any size": ((None, None, 2), "float32"),
    "words": ((4,), "int32"),
}

LARGEST = 1000
"""Values per sample above which a tensor does not grow on."""


def random_model(keras: Any, draw: st.DrawFn) -> Any:
    """A built model."""
    kind = draw(st.sampled_from(["graph", "graph", "graph", "chain", "subclassed"]))
    if kind == "graph":
        kinds = draw(st.lists(st.sampled_from(sorted(INPUTS)), min_size=1, max_size=2))
        return _graph(keras, draw, [INPUTS[kind] for kind in kinds], steps=6, depth=2)
    shape, dtype = INPUTS[draw(st.sampled_from(["vector", "sequence", "image"]))]
    if kind == "chain":
        return _chain(keras, draw, shape, depth=2)
    model = _subclassed(keras, draw, shape, depth=2)
    model(keras.Input(shape, dtype=dtype))
    return model


def _graph(
    keras: Any,
    draw: st.DrawFn,
    inputs: list[tuple[tuple[int | None, ...], str]],
    steps: int,
    depth: int,
) -> Any:
    """A Functional model of up to `steps` steps, with models in it up to `depth`."""
    entries = [keras.Input(shape, dtype=dtype) for shape, dtype in inputs]
    tensors = [
        keras.layers.Embedding(9, 3, mask_zero=draw(st.booleans()))(x) if x.dtype == "int32" else x
        for x in entries
    ]
    known: list[tuple[tuple[int | None, ...], Callable[[Any], Any]]] = []
    for _ in range(draw(st.integers(1, steps))):
        x = draw(st.sampled_from(tensors))
        step = draw(st.sampled_from(["layer"] * 4 + ["again", "again", "merge", "model", "split"]))
        alike = [y for y in tensors if y.shape == x.shape and None not in x.shape[1:]]
        again = [function for shape, function in known if shape == x.shape]
        if step == "merge" and len(alike) > 1:
            y = draw(st.sampled_from(alike))
            results = MERGES[draw(st.sampled_from(sorted(MERGES)))](keras, x, y)
        elif step == "again" and again:
            results = draw(st.sampled_from(again))(x)
        elif step == "split":
            results = _split(keras, draw)(x)
        else:
            inner = step == "model" and depth
            function = _inner(keras, draw, x, depth) if inner else _layer(keras, draw, x)
            known.append((x.shape, function))
            results = function(x)
        flat = keras.tree.flatten(results)
        tensors += [y for y in flat if 1 < len(y.shape) < 5 and y.shape[-1] is not None]
    chosen = draw(st.lists(st.sampled_from(tensors), max_size=2))
    return keras.Model(
        draw(st.sampled_from([entries, entries[0] if len(entries) == 1 else entries])),
        _structure(draw, [tensors[-1], *chosen]),
    )


def _structure(draw: st.DrawFn, tensors: list[Any]) -> Any:
    kind = draw(st.sampled_from(["one", "list", "dict", "nested"]))
    if kind == "one":
        return tensors[0]
    if kind == "dict":
        return dict(zip("zab", tensors, strict=False))
    return tensors if kind == "list" else [{"y": tensors[0]}, tuple(tensors[1:]), tensors[0]]


def _layer(keras: Any, draw: st.DrawFn, x: Any) -> Callable[[Any], Any]:
    table = {**ANY_RANK, **BY_RANK[len(x.shape)]}
    size = 1
    for axis in x.shape[1:]:
        size *= axis or 20
    if None not in x.shape[1:]:
        table |= FIXED
    if size > LARGEST:
        table = {key: make for key, make in table.items() if key not in ("up", "transposed", "pad")}
    if len(x.shape) == 3 and None in x.shape[1:]:
        table.pop("max")  # a sequence of no length
    return table[draw(st.sampled_from(sorted(table)))](keras, draw(st.integers(1, 4)))


def _split(keras: Any, draw: st.DrawFn) -> Callable[[Any], Any]:
    """A layer of several outputs."""
    kind = draw(st.sampled_from(["tuple", "dict", "nested"]))

    class Split(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            low, high = keras.ops.tanh(x), x * 0.5
            if kind == "tuple":
                return low, high, x
            return {"b": low, "a": high} if kind == "dict" else {"b": [low, {"c": high}], "a": x}

    return Split()


def _inner(keras: Any, draw: st.DrawFn, x: Any, depth: int) -> Callable[[Any], Any]:
    """A model to be called on `x`, and then perhaps again."""
    shape = tuple(x.shape[1:])
    kind = draw(st.sampled_from(["graph", "chain", "subclassed", "two inputs"]))
    if kind == "chain":
        return _chain(keras, draw, shape, depth - 1)
    if kind == "subclassed":
        return _subclassed(keras, draw, shape, depth - 1)
    count = 2 if kind == "two inputs" else 1
    inner = _graph(keras, draw, [(shape, "float32")] * count, steps=3, depth=depth - 1)
    return _named(lambda x: inner([x] * count if isinstance(inner.input, list) else x), inner)


def _chain(keras: Any, draw: st.DrawFn, shape: tuple[int | None, ...], depth: int) -> Any:
    x = keras.Input(shape)
    model = keras.Sequential([x])
    for _ in range(draw(st.integers(1, 3))):
        inner = depth and draw(st.integers(0, 3)) == 0
        layer = (
            _chain(keras, draw, tuple(x.shape[1:]), depth - 1) if inner else _layer(keras, draw, x)
        )
        if not isinstance(layer, keras.layers.Layer):  # an operation: not in a Sequential
            continue
        y = layer(x)
        if keras.tree.is_nested(y):
            continue
        model.add(layer)
        x = y
    if len(model.layers) == 0:
        model.add(keras.layers.ReLU())
    return model


def _subclassed(keras: Any, draw: st.DrawFn, shape: tuple[int | None, ...], depth: int) -> Any:
    """A model with a list of layers, the first of which it may call twice, and several outputs."""
    base = draw(st.sampled_from([keras.Model, keras.layers.Layer]))
    base = keras.Model if depth == 2 else base
    twice, kind = draw(st.booleans()), draw(st.sampled_from(["one", "tuple", "dict"]))
    x = keras.Input(shape)
    parts = [
        _inner(keras, draw, x, depth) if depth and draw(st.booleans()) else _layer(keras, draw, x)
        for _ in range(draw(st.integers(1, 3)))
    ]

    class Block(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.parts = parts
            self.called = [part.layer for part in parts if hasattr(part, "layer")]

        def call(self, x: Any) -> Any:
            first = keras.tree.flatten(self.parts[0](x))[0]
            if twice:
                first = first + keras.tree.flatten(self.parts[0](x * 0.5))[0]
            others = [keras.tree.flatten(part(x))[-1] for part in self.parts[1:]]
            if kind == "tuple":
                return first, *others
            return {"y": first, "x": others[0]} if kind == "dict" and others else first

    return Block()
