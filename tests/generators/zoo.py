"""Small Keras models of every shape, by name: `zoo.make(keras, "nested")`.

Each takes the module `keras` and returns a built model. Layers that a test must be able to name
have names; the rest are called as Keras calls them after `clear_session`.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

Make = Callable[[Any], Any]
"""From the module `keras` to a model."""


def make(keras: Any, name: str) -> Any:
    """The model of this name, with seeded weights none of which are 0 or 1."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    return randomised(ZOO[name](keras))


def randomised(model: Any) -> Any:
    """Neither biases nor statistics shall be the identity; scales of numbers in 8 bits stay."""
    generator = np.random.default_rng(0)
    for weight in model.weights:
        if "float" in weight.dtype and not weight.path.endswith("_scale"):
            value = weight.numpy()
            noise = generator.uniform(0.1, 0.5, value.shape)
            weight.assign(value + (noise if "variance" in weight.path else noise - 0.3))
    return model


def batch(inputs: Sequence[Any], size: int = 3, seed: int = 1) -> dict[str, np.ndarray]:
    """Seeded arrays for a model's inputs, by name; free sizes are 5, whole numbers below 9."""
    generator = np.random.default_rng(seed)
    arrays = {}
    for info in inputs:
        first = size if info.shape[0] is None else info.shape[0]
        shape = (first, *(5 if axis is None else axis for axis in info.shape[1:]))
        whole = np.dtype(info.dtype).kind in "iu"
        values = generator.integers(0, 9, shape) if whole else generator.normal(size=shape)
        arrays[info.name] = values.astype(info.dtype)
    return arrays


def numbered(keras: Any, structure: Any) -> list[int]:
    """Keras's flat places of the values in a structure, in the order of the structure itself."""
    places = keras.tree.pack_sequence_as(structure, range(len(keras.tree.flatten(structure))))

    def walk(value: Any) -> Iterator[int]:
        if isinstance(value, (dict, list, tuple)):
            for item in value.values() if isinstance(value, dict) else value:
                yield from walk(item)
        else:
            yield value

    return list(walk(places))


# --- Models in models ----------------------------------------------------------------------------


def block(keras: Any, name: str, filters: int) -> Any:
    """A Functional model of two layers and a residual."""
    layers = keras.layers
    entry = keras.Input((None, None, filters), name=f"{name}_input")
    x = layers.Conv2D(filters, 3, padding="same", name="conv")(entry)
    x = layers.BatchNormalization(name="bn")(x)
    return keras.Model(entry, layers.Add(name="add")([entry, x]), name=name)


def nested(keras: Any) -> Any:
    """Functional, Sequential and Functional again: `backbone/stage/block1/conv`."""
    layers = keras.layers
    stage = keras.Sequential(
        [keras.Input((None, None, 4)), block(keras, "block1", 4), block(keras, "block2", 4)],
        name="stage",
    )
    inside = keras.Input((6, 8, 3), name="inside")
    x = layers.Conv2D(4, 1, name="stem")(inside)
    backbone = keras.Model(inside, layers.ReLU(name="out")(stage(x)), name="backbone")
    image = keras.Input((6, 8, 3), name="image")
    x = layers.GlobalAveragePooling2D(name="gap")(backbone(image))
    return keras.Model(image, layers.Dense(2, name="head")(x), name="classifier")


def sequential_of_functional(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 8, 4)),
            block(keras, "backbone", 4),
            layers.Flatten(name="flat"),
            keras.Sequential([layers.Dense(3, name="dense"), layers.ReLU(name="relu")], name="top"),
        ],
        name="stack",
    )


def mixed(keras: Any) -> Any:
    """A subclassed model inside a Functional one, with a Sequential and a layer of layers in it."""
    layers = keras.layers

    class Scale(keras.layers.Layer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.dense, self.norm = layers.Dense(4, name="dense"), layers.LayerNormalization()

        def build(self, shape: Any) -> None:
            self.dense.build(shape)
            self.norm.build((*shape[:-1], 4))

        def call(self, x: Any) -> Any:
            return self.norm(self.dense(x)) * 2

    class Body(keras.Model):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.first = keras.Sequential([layers.Dense(4, name="a"), layers.Dense(4, name="b")])
            self.scale = Scale(name="scale")

        def call(self, x: Any) -> Any:
            return self.scale(self.first(x)) + x

    entry = keras.Input((4,), name="entry")
    x = Body(name="body")(entry)
    return keras.Model(entry, layers.Dense(2, name="head")(x), name="mixed")


def shared_models(keras: Any) -> Any:
    """A model called twice, which calls a layer of its own twice."""
    layers = keras.layers
    inside, dense = keras.Input((4,), name="inside"), layers.Dense(4, name="dense")
    encoder = keras.Model(inside, layers.Add(name="sum")([dense(inside), dense(dense(inside))]))
    encoder.name = "encoder"
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    both = layers.Concatenate(name="both")([encoder(left), encoder(right)])
    return keras.Model([left, right], layers.Dense(1, name="score")(both), name="siamese")


def one_layer_in_two_models(keras: Any) -> Any:
    layers = keras.layers
    shared = layers.Dense(4, name="shared")
    towers = []
    for name in ("left", "right"):
        inside = keras.Input((4,), name=f"{name}_inside")
        towers.append(keras.Model(inside, layers.ReLU(name="relu")(shared(inside)), name=name))
    entry = keras.Input((4,), name="entry")
    return keras.Model(entry, layers.Add(name="add")([tower(entry) for tower in towers]))


def branches_inside(keras: Any) -> Any:
    """A model of two inputs and two outputs inside another, called with a list."""
    layers = keras.layers
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    x = layers.Concatenate(name="cat")([b, a])
    inner = keras.Model([a, b], [layers.Dense(2, name="p")(x), layers.ReLU(name="q")(x)])
    inner.name = "inner"
    first, second = keras.Input((3,), name="first"), keras.Input((2,), name="second")
    p, q = inner([first, second])
    return keras.Model([first, second], [layers.Softmax(name="soft")(q), p])


# --- Subclassed models ---------------------------------------------------------------------------


def subclassed(keras: Any) -> Any:
    """Built by one call on data; a list and a dict of layers; two layers of one name."""
    layers = keras.layers

    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="net")
            self.blocks = [layers.Dense(4, name=f"block{i}") for i in range(2)]
            self.heads = {"b": layers.Dense(2, name="head"), "a": layers.Dense(3, name="head")}

        def call(self, x: Any, training: bool = False) -> Any:
            for one in self.blocks:
                x = keras.ops.relu(one(x))
            return {key: head(x) for key, head in self.heads.items()}

    net = Net()
    net(np.ones((2, 4), np.float32))
    return net


def unused_layers(keras: Any) -> Any:
    """What `aside` puts out nobody reads, and `idle` is never called."""
    layers = keras.layers

    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="net")
            self.dense, self.aside = layers.Dense(3, name="dense"), layers.Dense(2, name="aside")
            self.idle = layers.Dense(2, name="idle")

        def call(self, x: Any) -> Any:
            self.aside(x)
            return self.dense(x)

    net = Net()
    net(np.ones((2, 4), np.float32))
    return net


def several_arguments(keras: Any) -> Any:
    """Called on symbolic inputs: two positional ones and one by its name."""
    layers = keras.layers

    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="net")
            self.a, self.b = layers.Dense(3, name="a"), layers.Dense(3, name="b")

        def call(self, left: Any, right: Any, weight: Any = None, training: Any = None) -> Any:
            return self.a(left) + self.b(right) * weight

    net = Net()
    net(keras.Input((4,)), keras.Input((2,)), weight=keras.Input((1,)))
    return net


def nested_argument(keras: Any) -> Any:
    """A dict of a tensor and a list, and a nested structure of outputs."""
    layers = keras.layers

    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="net")
            self.dense = layers.Dense(3, name="dense")

        def call(self, inputs: Any) -> Any:
            x, y = inputs["pair"]
            return {"z": self.dense(inputs["one"]), "a": [x + 1, {"c": y * 2, "b": x}]}

    net = Net()
    data = {"pair": [np.ones((2, 2)), np.ones((2, 3))], "one": np.ones((2, 4))}
    net(keras.tree.map_structure(lambda x: x.astype(np.float32), data))
    return net


def token_classifier(keras: Any) -> Any:
    """Whole numbers go in, which Keras does not remember of a call on data."""
    layers = keras.layers

    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="net")
            self.embed = layers.Embedding(20, 4, mask_zero=True, name="embed")
            self.attend = layers.MultiHeadAttention(2, 2, name="mha")
            self.pool = layers.GlobalAveragePooling1D(name="pool")
            self.head = layers.Dense(2, name="head")

        def call(self, tokens: Any) -> Any:
            x = self.embed(tokens)
            return self.head(self.pool(self.attend(x, x)))

    net = Net()
    net(np.ones((2, 6), np.int32))
    return net


def own_build(keras: Any) -> Any:
    """A model with a `build` of its own, by the shapes of its two arguments."""
    layers = keras.layers

    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="net")
            self.a, self.b = layers.Dense(3, name="a"), layers.Dense(3, name="b")

        def build(self, left_shape: Any, right_shape: Any) -> None:
            self.a.build(left_shape)
            self.b.build(right_shape)

        def call(self, left: Any, right: Any) -> Any:
            return self.a(left), self.b(right)

    net = Net()
    net(np.ones((2, 4), np.float32), np.ones((2, 5), np.float32))
    return net


def functional_with_a_call(keras: Any) -> Any:
    """A subclass that makes a Functional graph, and does more in `call`."""

    class Twice(keras.Model):
        def __init__(self) -> None:
            entry = keras.Input((4,), name="entry")
            hidden = keras.layers.Dense(4, name="hidden")(entry)
            super().__init__(entry, keras.layers.Dense(3, name="dense")(hidden), name="twice")

        def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
            return 2 * super().call(inputs, training=training, mask=mask)

    return Twice()


def masks_and_arguments(keras: Any) -> Any:
    """Masks that layers pass on and require, and keyword arguments."""
    layers = keras.layers

    class Masked(keras.layers.Layer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.supports_masking = True

        def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
            return mask

        def call(self, x: Any, scale: float = 1.0, mask: Any = None, training: Any = None) -> Any:
            if mask is not None:
                x = x * keras.ops.cast(mask, x.dtype)[..., None]
            return x + 1 if training else x * scale

    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="net")
            self.masking = layers.Masking(name="masking")
            self.masked = Masked(name="masked")
            self.drop = layers.Dropout(0.5, name="drop")
            self.lstm = layers.LSTM(3, name="lstm")

        def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
            return None

        def call(self, x: Any, training: Any = None, mask: Any = None) -> Any:
            x = self.masked(self.masking(x), scale=3.0)
            return self.lstm(self.drop(x, training=training))

    net = Net()
    net(keras.Input((5, 2)))
    return net


# --- Outputs and inputs --------------------------------------------------------------------------


def tuples_and_dicts(keras: Any) -> Any:
    """Layers that return tuples, named tuples, lists in lists and dicts in dicts."""
    pair = namedtuple("pair", ["low", "high"])

    class Split(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return {"right": x[:, 2:], "left": (x[:, :2], {"z": x + 1, "y": x - 1})}

    class Named(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return pair(x - 2, x + 2)

        def compute_output_spec(self, x: Any) -> Any:
            return pair(keras.KerasTensor(x.shape), keras.KerasTensor(x.shape))

    class Lists(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return [[x, 2 * x], [3 * x]]

    entry = keras.Input((4,), name="entry")
    parts = Split(name="parts")(entry)
    low, high = Named(name="named")(entry)
    (a, b), (c,) = Lists(name="lists")(entry)
    both = keras.layers.Concatenate(name="both")([parts["left"][1]["y"], high, b])
    return keras.Model(entry, [both, parts["right"], low, a, c])


def dicts(keras: Any) -> Any:
    """Dicts whose keys are not sorted, one of them called like a layer that it is not."""
    layers = keras.layers
    left, right = keras.Input((4,), name="left"), keras.Input((3,), name="right")
    both = layers.Concatenate(name="both")([left, right])
    outputs = {"z": layers.Dense(2, name="a")(both), "a": layers.Dense(1, name="m")(both)}
    return keras.Model({"right": right, "left": left}, outputs, name="dicts")


def nested_structures(keras: Any) -> Any:
    """A dict of lists and dicts as the input and as the output of a Functional model."""
    layers = keras.layers
    x, y, z = (keras.Input((2,), name=name) for name in "xyz")
    both = layers.Concatenate(name="both")([x, y, z])
    outputs = {"q": [both, {"n": layers.ReLU(name="relu")(both)}], "p": layers.Dense(1)(both)}
    return keras.Model({"u": [x, y], "t": {"s": z}}, outputs)


def outputs_that_are_inputs(keras: Any) -> Any:
    layers = keras.layers
    entry = keras.Input((4,), name="entry")
    hidden = layers.Dense(3, name="hidden")(entry)
    return keras.Model(entry, [entry, hidden, layers.Dense(2, name="last")(hidden)])


def outputs_called_like_inputs(keras: Any) -> Any:
    layers = keras.layers
    x, y = keras.Input((4,), name="x"), keras.Input((3,), name="y")
    both = layers.Concatenate(name="both")([x, y])
    return keras.Model({"x": x, "y": y}, {"y": layers.Dense(3, name="d")(both), "x": both})


def one_output_twice(keras: Any) -> Any:
    layers = keras.layers
    entry = keras.Input((4,), name="entry")
    hidden = layers.Dense(3, name="hidden")(entry)
    return keras.Model(entry, [hidden, layers.ReLU(name="relu")(hidden), hidden])


def output_of_an_inner_layer(keras: Any) -> Any:
    """The last layer of a model inside is an output of its own: one tensor, three names."""
    layers = keras.layers
    inside = keras.Input((4,), name="inside")
    inner = keras.Model(inside, layers.Dense(3, name="dense")(inside), name="inner")
    entry = keras.Input((4,), name="entry")
    return keras.Model(entry, layers.Dropout(0.5, name="drop")(inner(entry)))


def identities(keras: Any) -> Any:
    """Layers that return what went in, in a row and in branches."""
    layers = keras.layers
    entry = keras.Input((4, 4, 2), name="entry")
    x = layers.Dropout(0.5, name="first")(entry)
    x = layers.Activation("linear", name="linear")(x)
    y = layers.SpatialDropout2D(0.5, name="spatial")(x)
    z = layers.Add(name="add")([layers.Identity(name="same")(x), y])
    return keras.Model(entry, [layers.GaussianNoise(1.0, name="noise")(z), x])


def constants(keras: Any) -> Any:
    """Layers whose output does not depend on the input: a constant, a weight, a number."""
    layers = keras.layers

    class Constant(keras.layers.Layer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.table = np.arange(4, dtype=np.float32)

        def call(self, x: Any) -> Any:
            return keras.ops.convert_to_tensor(self.table) * 2

    class Query(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.weight = self.add_weight(shape=(1, 4), name="weight")

        def call(self, x: Any) -> Any:
            return self.weight

    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="net")
            self.constant, self.query = Constant(name="constant"), Query(name="query")
            self.dense = layers.Dense(4, name="dense")

        def call(self, x: Any) -> Any:
            return self.dense(x) + self.constant(x) + self.dense(self.query(x))

    net = Net()
    net(np.ones((2, 4), np.float32))
    return net


def odd_returns(keras: Any) -> Any:
    """Layers that return nothing, numbers, arrays, ragged and sparse tensors."""
    layers = keras.layers

    class Returns(keras.layers.Layer):
        def __init__(self, what: Any, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.what = what

        def call(self, x: Any) -> Any:
            return self.what(x)

    def ragged(x: Any) -> Any:
        import tensorflow as tf

        return tf.RaggedTensor.from_tensor(x)

    def sparse(x: Any) -> Any:
        import tensorflow as tf

        return tf.sparse.from_dense(x)

    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="net")
            self.odd = [
                Returns(lambda x: None, name="nothing"),
                Returns(lambda x: 3, name="number"),
                Returns(lambda x: (x, "words", [None, 2.5]), name="some"),
                Returns(lambda x: np.ones(3), name="array"),
                Returns(ragged, name="ragged"),
                Returns(sparse, name="sparse"),
            ]
            self.dense = layers.Dense(2, name="dense")

        def call(self, x: Any) -> Any:
            for one in self.odd:
                one(x)
            return self.dense(x)

    net = Net()
    net(np.ones((2, 4), np.float32))
    return net


# --- Operations ----------------------------------------------------------------------------------


def operations(keras: Any) -> Any:
    """`keras.ops` and arithmetic, also inside an inner model; one operation of several outputs."""
    ops, layers = keras.ops, keras.layers
    inside = keras.Input((4,), name="inside")
    inner = keras.Model(inside, ops.sigmoid(inside * 3) - 1, name="inner")
    entry = keras.Input((4,), name="entry")
    x = layers.Dense(4, name="dense")(entry)
    x = ops.tanh(x) + inner(entry) / 2
    first, second = ops.split(x, 2, axis=1)
    mean, variance = ops.moments(x, axes=[1], keepdims=True)
    x = ops.concatenate([ops.maximum(first, second), mean, variance, x[:, 1:3]], axis=-1)
    return keras.Model(entry, ops.softmax(x), name="operations")


# --- Layers of layers ----------------------------------------------------------------------------


def composites(keras: Any) -> Any:
    layers = keras.layers
    entry = keras.Input((5, 6), name="entry")
    heads = layers.MultiHeadAttention(2, 3, name="mha")(entry, entry)
    grouped = layers.GroupQueryAttention(3, 4, 2, name="gqa")(entry, entry)
    both = layers.Bidirectional(layers.LSTM(3, return_sequences=True, name="lstm"), name="both")
    normal = layers.SpectralNormalization(layers.Conv1D(3, 2, name="conv"), name="spectral")
    return keras.Model(entry, [heads, grouped, both(entry), normal(entry)])


def recurrent(keras: Any) -> Any:
    """Loops over the steps, of one cell and of stacked ones, with states and a mask."""
    layers = keras.layers
    entry = keras.Input((None, 3), name="entry")
    x = layers.Masking(name="masking")(entry)
    gru = layers.GRU(4, return_sequences=True, return_state=True, name="gru")
    x, state = gru(x)
    cells = [layers.LSTMCell(3, name="one"), layers.GRUCell(2, name="two", dropout=0.2)]
    stacked = layers.RNN(cells, return_sequences=True, name="stacked")
    simple = layers.SimpleRNN(2, name="simple")
    return keras.Model(entry, [simple(stacked(x)), state])


def unrolled(keras: Any) -> Any:
    """Three steps, each of which is there."""
    layers = keras.layers
    entry = keras.Input((3, 2), name="entry")
    cells = [layers.SimpleRNNCell(2, name="one"), layers.LSTMCell(3, name="two", dropout=0.1)]
    x = layers.RNN(cells, unroll=True, return_sequences=True, name="stacked")(entry)
    return keras.Model(entry, layers.GRU(2, unroll=True, name="gru")(x))


def each_step(keras: Any) -> Any:
    """A layer, and a model, for each of three steps."""
    layers = keras.layers
    inner = keras.Sequential(
        [keras.Input((4, 2)), layers.Conv1D(3, 2, name="conv"), layers.Flatten(name="flat")],
        name="inner",
    )
    entry = keras.Input((3, 4, 2), name="entry")
    x = layers.TimeDistributed(layers.Dense(2, name="dense"), name="td")(entry)
    return keras.Model(entry, layers.TimeDistributed(inner, name="frames")(x))


def each_step_of_many(keras: Any) -> Any:
    """The same, of a free number of steps: a vectorised loop."""
    layers = keras.layers
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="dense")], name="inner")
    entry = keras.Input((None, 4), name="entry")
    return keras.Model(entry, layers.TimeDistributed(inner, name="td")(entry))


def loops_and_branches(keras: Any) -> Any:
    layers, ops = keras.layers, keras.ops

    class Flow(keras.layers.Layer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.step, self.yes = layers.Dense(3, name="step"), layers.Dense(3, name="yes")

        def build(self, shape: Any) -> None:
            self.step.build(shape)
            self.yes.build(shape)

        def call(self, x: Any) -> Any:
            x = self.step(x)
            x = ops.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, self.step(x)), (0, x))[1]
            x = ops.cond(ops.sum(x) > 0, lambda: self.yes(x), lambda: x)
            return self.step(x)

    entry = keras.Input((3,), name="entry")
    return keras.Model(entry, Flow(name="flow")(entry))


def functions(keras: Any) -> Any:
    """Layers with tf.functions: `call` is one, compiled, or with a loop and a branch that AutoGraph
    sees; and inner layers are made one."""
    import tensorflow as tf

    layers = keras.layers

    class Compiled(keras.layers.Layer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.dense = layers.Dense(3, name="dense")

        def build(self, shape: Any) -> None:
            self.dense.build(shape)

        @tf.function(jit_compile=True)
        def call(self, x: Any) -> Any:
            return tf.nn.relu(self.dense(x))

    class Converted(keras.layers.Layer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.dense = layers.Dense(3, name="dense")

        def build(self, shape: Any) -> None:
            self.dense.build(shape)

        @tf.function
        def call(self, x: Any) -> Any:
            for _ in tf.range(2):
                x = self.dense(x)
            if tf.reduce_sum(x) > 0:
                x = x + 1
            return x

    class Made(keras.layers.Layer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.dense = layers.Dense(3, name="dense")
            self.compiled = tf.function(self.dense, jit_compile=True)

        def build(self, shape: Any) -> None:
            self.dense.build(shape)

        def call(self, x: Any) -> Any:
            return self.compiled(x)

    entry = keras.Input((3,), name="entry")
    x = Converted(name="converted")(Compiled(name="compiled")(entry))
    return keras.Model(entry, Made(name="made")(x))


def recomputed(keras: Any) -> Any:
    """Layers under `keras.RematScope`."""
    with keras.RematScope(mode="full"):
        dense = keras.layers.Dense(3, activation="relu", name="dense")
    entry = keras.Input((4,), name="entry")
    return keras.Model(entry, keras.layers.Dense(2, name="head")(dense(entry)))


def with_state(keras: Any) -> Any:
    """Layers that keep something from call to call: a state, a seed, a metric."""
    layers = keras.layers

    class Counts(keras.layers.Layer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.seen, self.seed = keras.metrics.Mean(name="seen"), keras.random.SeedGenerator(1)
            self.total = self.add_weight(shape=(), trainable=False, initializer="zeros")

        def call(self, x: Any, training: bool = False) -> Any:
            self.seen.update_state(keras.ops.mean(x))
            result = x * 2 + self.total
            self.total.assign_add(1.0)
            return keras.random.dropout(result, 0.5, seed=self.seed) if training else result

    entry = keras.Input((4, 2), batch_size=2, name="entry")
    x = layers.SimpleRNN(3, stateful=True, return_sequences=True, name="rnn")(entry)
    return keras.Model(entry, Counts(name="counts")(x))


def tied(keras: Any) -> Any:
    """Two layers with one weight."""
    layers = keras.layers

    class Tied(keras.layers.Layer):
        def __init__(self, other: Any, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.other = other

        def call(self, x: Any) -> Any:
            return keras.ops.matmul(x, keras.ops.transpose(self.other.embeddings))

    entry = keras.Input((4,), dtype="int32", name="entry")
    embed = layers.Embedding(9, 3, name="embed")
    return keras.Model(entry, Tied(embed, name="tied")(embed(entry)))


# --- Names ---------------------------------------------------------------------------------------

ODD_NAMES = [
    "a.b-c d@1",
    "größe 大",
    "_x",
    "-y",
    "dense#1",
    "dense:1",
    "dense~2",
    "re:.*",
    "n" * 900,
]


def odd_names(keras: Any) -> Any:
    layers = keras.layers
    x = entry = keras.Input((3,), name="in put.1")
    for name in ODD_NAMES:
        x = layers.Dense(3, name=name)(x)
    shared = layers.Dense(3, name="dense")
    return keras.Model(entry, shared(shared(x)), name="ein großes Modell")


def paths_that_clash(keras: Any) -> Any:
    """Names that equal another layer's second call, its second output, or what an output gets."""
    layers = keras.layers

    class Two(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x + 1, x + 2

    x = entry = keras.Input((3,), name="two:1")
    shared = layers.Dense(3, name="a")
    x = shared(shared(x))
    for name in ("a#1", "output", "layer", "b"):
        x = layers.Dense(3, name=name)(x)
    x, y = Two(name="two")(x)
    return keras.Model({"two:1": entry}, {"b": x, "two:1": y, "c": layers.Dense(2, name="c")(x)})


def twins(keras: Any) -> Any:
    """Two layers of one name, called in turns, and one in a Functional model among them."""
    layers = keras.layers

    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="net")
            self.first, self.second = (layers.Dense(3, name="dense") for _ in range(2))
            inside = keras.Input((3,))
            self.model = keras.Model(inside, layers.ReLU(name="relu")(inside), name="dense")

        def call(self, x: Any) -> Any:
            return self.first(self.model(self.second(self.first(x))))

    net = Net()
    net(np.ones((2, 3), np.float32))
    return net


ZOO: dict[str, Make] = {
    function.__name__: function
    for function in (
        nested,
        sequential_of_functional,
        mixed,
        shared_models,
        one_layer_in_two_models,
        branches_inside,
        subclassed,
        unused_layers,
        several_arguments,
        nested_argument,
        token_classifier,
        own_build,
        functional_with_a_call,
        masks_and_arguments,
        tuples_and_dicts,
        dicts,
        nested_structures,
        outputs_that_are_inputs,
        outputs_called_like_inputs,
        one_output_twice,
        output_of_an_inner_layer,
        identities,
        constants,
        odd_returns,
        operations,
        composites,
        recurrent,
        unrolled,
        each_step,
        each_step_of_many,
        loops_and_branches,
        functions,
        recomputed,
        with_state,
        tied,
        odd_names,
        paths_that_clash,
        twins,
    )
}
