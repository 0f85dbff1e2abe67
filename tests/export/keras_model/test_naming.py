"""The names of inner layers: the attribute that holds them, whatever was built before."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

Pair = namedtuple("Pair", ["low", "high"])


def holder(keras: Any, fill: Callable[[Any, Any], None], base: Any = None) -> Any:
    """A layer whose attributes `fill` sets."""
    owner = type("Owner", (base or keras.layers.Layer,), {})(name="owner")
    fill(owner, keras.layers.Dense)
    return owner


def names(owner: Any, layers: list[Any]) -> list[str]:
    from layertap_export.keras_model.naming import inner_names

    found = inner_names(owner)
    return [found[id(layer)] for layer in layers]


def attributes(owner: Any, Dense: Any) -> None:  # noqa: N803
    owner.made = [Dense(1) for _ in range(3)]
    owner.a, owner._b, owner.__dict__["_Owner__c"] = Dense(1), Dense(1), Dense(1)
    owner.nest = {"left": [Dense(1)], 2: (Dense(1), Dense(1, name="mine"))}
    owner.pair = Pair(Dense(1), Dense(1))


@pytest.mark.parametrize("shift", [0, 3])
def test_a_layer_is_named_after_the_attribute_that_holds_it(keras: Any, shift: int) -> None:
    keras.utils.clear_session()
    for _ in range(shift):
        keras.layers.Dense(1)
    owner = holder(keras, attributes)
    values = [*owner.made, owner.a, owner._b, vars(owner)["_Owner__c"], owner.nest["left"][0]]
    assert names(owner, [*values, *owner.nest[2], *owner.pair]) == [
        *("made.0", "made.1", "made.2", "a", "b", "c", "nest.left.0"),
        *("nest.2.0", "mine", "pair.low", "pair.high"),
    ]


def test_given_names_come_first(keras: Any) -> None:
    def fill(owner: Any, dense: Any) -> None:
        owner.given = dense(1)  # called first, and would have this name
        owner.other = dense(1, name="given")
        owner._x, owner.x = dense(1), dense(1)

    owner = holder(keras, fill)
    found = names(owner, [owner.given, owner.other, owner._x, owner.x])
    assert found == ["given~2", "given", "x~2", "x"]


def test_the_first_public_attribute_counts(keras: Any) -> None:
    def fill(owner: Any, dense: Any) -> None:
        owner._all = [dense(1), dense(1)]
        owner.first = owner._all[0]
        owner.again = owner._all[0]

    owner = holder(keras, fill)
    assert names(owner, owner._all) == ["first", "all.1"]


def test_layers_in_no_attribute_are_numbered_by_class(keras: Any) -> None:
    """Not as Keras does: its `dense_1` may be another layer, where others were built before."""
    layers = keras.layers
    chain = [layers.Dense(2), layers.ReLU(), layers.Dense(2), layers.Dense(2, name="own")]
    model = keras.Sequential([keras.Input((2,)), *chain])
    assert names(model, chain) == ["dense.0", "re_lu", "dense.1", "own"]
    entry = keras.Input((2,))
    graph = keras.Model(entry, layers.Add()([chain[0](entry), chain[2](entry)]) * 2)
    operations = [x for x in graph.operations if "Input" not in type(x).__name__]
    by_layer = dict(zip(map(id, operations), names(graph, operations), strict=True))
    assert by_layer[id(chain[0])] == "dense.0"
    assert by_layer[id(chain[2])] == "dense.1"
    assert sorted(by_layer.values()) == ["add", "dense.0", "dense.1", "multiply"]


@pytest.mark.parametrize(
    ("make", "inner", "expected"),
    [
        (lambda k: k.layers.LSTM(2), lambda x: [x.cell], ["cell"]),
        (
            lambda k: k.layers.Bidirectional(k.layers.LSTM(2)),
            lambda x: [x.forward_layer, x.backward_layer],
            ["forward_layer", "backward_layer"],
        ),
        (
            lambda k: k.layers.Bidirectional(k.layers.LSTM(2, name="scan")),
            lambda x: [x.forward_layer, x.backward_layer],
            ["forward_scan", "backward_scan"],
        ),
        (lambda k: k.layers.TimeDistributed(k.layers.Dense(2)), lambda x: [x.layer], ["layer"]),
        (
            lambda k: k.layers.StackedRNNCells([k.layers.LSTMCell(2), k.layers.GRUCell(2)]),
            lambda x: x.cells,
            ["cells.0", "cells.1"],
        ),
    ],
)
def test_layers_of_keras_that_hold_layers(
    keras: Any, make: Callable[[Any], Any], inner: Callable[[Any], Any], expected: list[str]
) -> None:
    keras.utils.clear_session()
    for _ in range(2):  # also where Keras counts on
        layer = make(keras)
        assert names(layer, inner(layer)) == expected


def test_uncounted_names(keras: Any) -> None:
    from layertap.format.layer import uncounted
    from layertap_export.keras_model.naming import automatic_base

    assert uncounted("block_2/conv2d_13#1") == "block/conv2d#1"
    assert uncounted("dense_3:1") == uncounted("dense:1") == "dense:1"
    assert uncounted("block_2b/x_1y~2") == "block_2b/x_1y"
    layers = keras.layers
    assert automatic_base(layers.Dense(1)) == automatic_base(layers.Dense(1)) == "dense"
    assert automatic_base(layers.Dense(1, name="dense_7")) == "dense"
    assert automatic_base(layers.Dense(1, name="dense_a")) is None
    assert automatic_base(layers.ReLU(name="dense")) is None
