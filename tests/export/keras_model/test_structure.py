"""The table of layers, compared with what Keras states about the same model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from generators import zoo
from layertap.format.layer import Layer

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

Make = Callable[[Any], Any]
"""A function of the module `keras` that returns a model."""


def table(model: Any) -> list[Layer]:
    from layertap_export.keras_model.tracing import trace

    return [row.layer for row in trace(model).rows]


def by_name(model: Any) -> dict[str, Layer]:
    return {layer.name: layer for layer in table(model)}


def chain(keras: Any) -> Any:
    layers = keras.layers
    x = entry = keras.Input((8, 6, 3), name="entry")
    for layer in (
        layers.Conv2D(4, 3, name="conv"),
        layers.BatchNormalization(name="bn"),
        layers.ReLU(name="relu"),
    ):
        x = layer(x)
    x = layers.Dropout(0.5, name="drop")(x)
    return keras.Model(entry, layers.Dense(2, name="dense")(layers.Flatten(name="flat")(x)))


def dense_block(keras: Any) -> Any:
    """Like DenseNet: the layers of two branches alternate in `model.layers`."""
    layers = keras.layers
    x = entry = keras.Input((None, None, 3), name="entry")
    for block in range(3):
        y = layers.Conv2D(4, 3, padding="same", name=f"conv_{block}")(x)
        x = layers.Concatenate(name=f"concat_{block}")([x, layers.ReLU(name=f"relu_{block}")(y)])
    return keras.Model(entry, layers.GlobalMaxPooling2D(name="max")(x))


def two_by_two(keras: Any) -> Any:
    layers = keras.layers
    image, numbers = keras.Input((4, 4, 1), name="image"), keras.Input((3,), name="numbers")
    flat = layers.Flatten(name="flat")(image)
    both = layers.Concatenate(name="both")([flat, layers.Dense(2, name="hidden")(numbers)])
    first, second = layers.Dense(2, name="first")(both), layers.Dense(1, name="second")(flat)
    # Neither inputs nor outputs are in the order of `model.layers`.
    return keras.Model([numbers, image], [second, first])


def dicts(keras: Any) -> Any:
    layers = keras.layers
    left, right = keras.Input((4,), name="left"), keras.Input((3,), name="right")
    both = layers.Concatenate(name="both")([left, right])
    outputs = {"z": layers.Dense(2, name="z")(both), "a": layers.Dense(1, name="a")(both)}
    return keras.Model({"right": right, "left": left}, outputs)


def words(keras: Any) -> Any:
    layers = keras.layers
    entry = keras.Input((None,), dtype="int32", name="words")
    x = layers.Embedding(50, 4, name="embed")(entry)
    return keras.Model(entry, layers.GlobalAveragePooling1D(name="mean")(x))


def frozen_batch(keras: Any) -> Any:
    entry = keras.Input((4,), batch_size=3, name="entry")
    return keras.Model(entry, keras.layers.Dense(2, name="dense")(entry))


def calls(model: Any, layer: Any) -> list[Any]:
    """The nodes of this model's Keras graph that call a layer."""
    nodes = [node for nodes in model._nodes_by_depth.values() for node in nodes]
    return [node for node in layer._inbound_nodes if node in nodes]


@pytest.mark.parametrize(
    "make", [chain, dense_block, two_by_two, dicts, words, frozen_batch], ids=lambda f: f.__name__
)
def test_rows_match_keras(make: Make, keras: Any) -> None:
    keras.utils.clear_session()
    model = make(keras)
    rows, layers = table(model), model.layers
    assert [row.name for row in rows] == [layer.name for layer in layers]
    assert [row.index for row in rows] == list(range(len(layers)))
    assert [row.type for row in rows] == [type(layer).__name__ for layer in layers]
    assert [row.shape for row in rows] == [layer.output.shape for layer in layers]
    assert [row.dtype for row in rows] == [layer.output.dtype for layer in layers]
    assert [row.parameters for row in rows] == [layer.count_params() for layer in layers]
    assert [list(row.inbound) for row in rows] == [
        [parent.operation.name for node in calls(model, layer) for parent in node.parent_nodes]
        for layer in layers
    ]
    assert [row.tensor for row in rows] == [layer.name for layer in layers]


def test_each_call_of_a_shared_layer_is_a_row(keras: Any) -> None:
    keras.utils.clear_session()
    entry, shared = keras.Input((4,), name="entry"), keras.layers.Dense(4, name="shared")
    model = keras.Model(entry, keras.layers.Add(name="add")([shared(entry), shared(shared(entry))]))
    rows = by_name(model)
    assert list(rows) == ["entry", "shared", "shared#1", "shared#2", "add"]
    assert [row.inbound for row in rows.values()][1:] == [
        ("entry",),
        ("entry",),
        ("shared#1",),
        ("shared", "shared#2"),
    ]
    assert [row.parameters for row in rows.values()] == [0, 20, 0, 0, 0]


LOOP = "it runs inside a loop, once per iteration"
BRANCH = "it runs inside one branch of a condition, which may not be taken"


def flow(keras: Any, run: Callable[[Any, Any], Any]) -> Any:
    """A layer that calls `run` with its inner layer `step` and its input."""

    class Flow(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__(name="flow")
            self.step = keras.layers.Dense(3, name="step")

        def build(self, shape: Any) -> None:
            self.step.build((None, 3))

        def call(self, x: Any) -> Any:
            return run(self.step, x)

    return Flow()


FLOWS: dict[str, tuple[Callable[[Any], Callable[[Any, Any], Any]], str]] = {
    "fori_loop": (lambda ops: lambda f, x: ops.fori_loop(0, 3, lambda i, x: f(x), x), LOOP),
    "vectorized_map": (
        lambda ops: lambda f, x: ops.vectorized_map(lambda y: f(y[None]), x),
        LOOP,
    ),
    "switch": (
        lambda ops: lambda f, x: ops.switch(ops.cast(ops.sum(x), "int32"), [f, lambda x: x], x),
        BRANCH,
    ),
}


@pytest.mark.parametrize("name", FLOWS)
def test_a_layer_inside_a_loop_or_a_branch_is_listed_with_the_reason(name: str, keras: Any) -> None:
    """Its values exist once per iteration, or perhaps not at all."""
    keras.utils.clear_session()
    run, why_not = FLOWS[name]
    entry = keras.Input((3,), name="entry")
    rows = by_name(keras.Model(entry, flow(keras, run(keras.ops))(entry)))
    assert {name: (row.exposed, row.parent, row.why_not) for name, row in rows.items()} == {
        "entry": (True, None, None),
        "flow": (True, None, None),
        "flow/step": (False, "flow", why_not),
    }


def test_a_tensor_of_unknown_rank_is_listed_with_the_reason(keras: Any) -> None:
    """If Keras's graph does not know the rank either."""
    import tensorflow as tf

    class Anything(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return tf.numpy_function(lambda x: x, [x], tf.float32)

        def compute_output_spec(self, x: Any) -> Any:
            return keras.KerasTensor(x.shape)

    class Known(Anything):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.inner = Anything(name="anything")

        def call(self, x: Any) -> Any:
            return tf.ensure_shape(self.inner(x), (None, 3))

    keras.utils.clear_session()
    entry = keras.Input((3,), name="entry")
    rows = by_name(keras.Model(entry, Known(name="known")(Anything(name="declared")(entry))))
    assert rows["declared"].exposed
    assert rows["declared"].shape == (None, 3)
    assert rows["known/inner"].why_not == "TensorFlow does not know how many axes it has"
    assert rows["known"].exposed


def test_inbound_names_one_of_several_outputs(keras: Any) -> None:
    """Keras sorts the keys of dicts when it flattens them; the rows have the order of the dict."""
    keras.utils.clear_session()
    rows = by_name(zoo.tuples_and_dicts(keras))
    assert rows["both"].inbound == ("parts:left:1:y", "named:high", "lists:0:1")
    assert [name for name in rows if name.startswith("parts")] == [
        *("parts:right", "parts:left", "parts:left:1:z", "parts:left:1:y")
    ]
    assert rows["parts:right"].shape == (None, 2)
    assert rows["parts:left:1:y"].shape == (None, 4)


@pytest.mark.filterwarnings("ignore:.*looks like it has unbuilt state:UserWarning")
def test_layers_that_are_not_built_yet_have_one_row(keras: Any) -> None:
    """Keras builds them by calling their inner layers once more."""

    class Block(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__(name="block")
            self.dense = keras.layers.Dense(3, name="dense")

        def call(self, x: Any) -> Any:
            return self.dense(x)

    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="net")
            self.block = Block()

        def call(self, x: Any) -> Any:
            return self.block(x)

    net = Net()
    net.build((None, 4))
    assert not net.block.built
    assert [row.name for row in table(net)] == ["block", "block/dense"]


def test_a_subclassed_model_has_the_order_of_keras(keras: Any) -> None:
    """Also layers that are not called, and layers that are called in another order."""

    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="net")
            self.last, self.first, self.idle = (
                keras.layers.Dense(3, name=name) for name in ("last", "first", "idle")
            )
            self.inside = [keras.layers.Dense(3, name="inside")]
            self.chain = keras.Sequential(self.inside, name="chain")
            self.twin = keras.layers.Dense(3, name="idle")

        def call(self, x: Any) -> Any:
            return self.last(self.chain(self.first(x)))

    net = Net()
    with pytest.warns(UserWarning, match="looks like it has unbuilt state"):
        net(keras.Input((3,)))
    rows = table(net)
    assert [row.name for row in rows] == [
        "last",
        "first",
        "idle",
        "chain",
        "chain/inside",
        "idle~2",
    ]
    assert [layer.name for layer in net.layers] == [
        *("last", "first", "idle"),
        "inside",  # also in a list of the model, which calls it only through the chain
        *("chain", "idle"),
    ]
    reasons = {row.name: row.why_not for row in rows if row.why_not}
    assert reasons == dict.fromkeys(["idle", "idle~2"], "the model does not call it in inference")
    assert by_name(net)["last"].inbound == ("chain",)


def test_parameters_of_a_layer_in_two_models_are_counted_once(keras: Any) -> None:
    keras.utils.clear_session()
    rows = by_name(zoo.one_layer_in_two_models(keras))
    assert rows["left"].parameters == rows["right"].parameters == 20  # as in model.summary()
    assert rows["left/shared"].parameters == 20
    assert rows["right/shared"].parameters == 0


def test_the_edges_of_an_inner_graph_match_keras(keras: Any) -> None:
    """Layers that return their input cannot be distinguished by their tensors."""
    keras.utils.clear_session()
    layers = keras.layers
    inside = keras.Input((4,), name="inside")
    dropped = layers.Dropout(0.5, name="drop")(inside)
    inner = keras.Model(inside, layers.Concatenate(name="cat")([inside, dropped]), name="inner")
    entry = keras.Input((4,), name="entry")
    x = layers.Activation("linear", name="same")(entry)
    rows = by_name(keras.Model(entry, [inner(x), layers.ReLU(name="relu")(entry)]))
    assert rows["inner"].inbound == ("same",)
    assert rows["inner/drop"].inbound == ("same",)
    assert rows["inner/cat"].inbound == ("same", "inner/drop")
    assert rows["relu"].inbound == ("entry",)


def test_tracing_does_not_change_the_weights(small: Any) -> None:
    before = [weight.numpy() for weight in small.weights]
    table(small)
    for weight, value in zip(small.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
