"""The same model code gives the same names of layers and the same bytes, whatever was built before;
and where Keras's own names differ, `verify` finds the layers by their place."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from onnxruntime import InferenceSession

import layertap
import layertap_export
from layertap.format.card import Card
from shell import files_of_two_processes

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*looks like it has unbuilt state:UserWarning"),
]

SOURCE = '''
import keras
from keras import layers as L

keras.utils.set_random_seed(0)


class Block(L.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.a, self.b = L.Dense(4), L.Dense(4)
        self.convs = [L.Conv1D(4, 2, padding="same"), L.Conv1D(4, 2, padding="same", name="mine")]
        self.heads = {"right": L.Dense(4), "left": L.Dense(4)}
        self.attention = L.MultiHeadAttention(2, 2)
        self.chain = keras.Sequential([L.Dense(4), L.ReLU(), L.Dense(4)])

    def call(self, x):
        x = self.b(self.a(x))
        for conv in self.convs:
            x = conv(x)
        x = self.heads["left"](x) + self.heads["right"](x)
        _, scores = self.attention(x, x, return_attention_scores=True)
        return self.chain(x) + keras.ops.mean(scores)


class Net(keras.Model):
    """Its own layers have automatic names, too."""

    def __init__(self):
        super().__init__()
        self.block, self.head = Block(), L.Dense(2)

    def call(self, x):
        return self.head(self.block(x))


def named():
    keras.utils.set_random_seed(0)
    entry = keras.Input((5, 4), name="entry")
    x = Block(name="block")(entry)
    x = L.Bidirectional(L.GRU(3, return_sequences=True), name="both")(x)
    x = L.TimeDistributed(L.Dense(3), name="each")(x)
    return keras.Model(entry, L.Dense(2, name="head")(x))


def unnamed():
    keras.utils.set_random_seed(0)
    entry = keras.Input((5, 4))
    x = L.Dense(4)(L.Dense(4)(entry))
    return keras.Model(entry, L.Dense(2)(Block()(x)))


def sub():
    keras.utils.set_random_seed(0)
    net = Net()
    net(keras.Input((5, 4)))
    return net


def uncalled():
    keras.utils.set_random_seed(0)
    return Net()


def chain():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((5, 4)), Block(name="block"), L.Dense(2, name="head")])
'''

INNER = (
    "a b convs.0 mine heads.right heads.left attention attention/query attention/key "
    "attention/value attention/softmax attention/attention_output chain "
    "chain/dense.0 chain/re_lu chain/dense.1"
).split()


@pytest.fixture(scope="module")
def nets(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The module with the models, and it can be imported."""
    folder = tmp_path_factory.mktemp("nets")
    (folder / "nets_by_name.py").write_text(SOURCE)
    sys.path.insert(0, str(folder))
    import nets_by_name  # type: ignore[import-not-found]

    yield nets_by_name
    sys.path.remove(str(folder))


def exported(model: Any, path: Path) -> bytes:
    layertap_export.export(model, path)
    return path.read_bytes()


def card_of(path: Path) -> Card:
    card = layertap.open(path).card
    assert card is not None
    return card


def build_others(keras: Any) -> None:
    """A model that makes Keras count on."""
    entry = keras.Input((4,))
    x = keras.layers.ReLU()(keras.layers.Dense(3)(entry))
    keras.Model(entry, keras.layers.MultiHeadAttention(1, 2)(x[:, None], x[:, None]))
    keras.layers.GRUCell(2), keras.layers.Conv1D(2, 2), keras.Sequential()


@pytest.mark.parametrize("name", ["named", pytest.param("chain", marks=pytest.mark.slow)])
def test_a_model_is_the_same_file_after_others(
    name: str, nets: Any, keras: Any, tmp_path: Path
) -> None:
    keras.utils.clear_session()
    files = []
    for number in range(2):
        model = getattr(nets, name)()
        files.append(exported(model, tmp_path / f"{number}.onnx"))
        build_others(keras)
    assert files[0] == files[1]
    inner = [x.name.removeprefix("block/") for x in card_of(tmp_path / "1.onnx").layers]
    assert {x for x in inner if x in INNER} == {*INNER}
    model.save(tmp_path / "x.keras")
    loaded = keras.saving.load_model(tmp_path / "x.keras", {"Block": nets.Block})
    assert exported(loaded, tmp_path / "loaded.onnx") == files[0]


@pytest.mark.parametrize("name", ["unnamed", pytest.param("uncalled", marks=pytest.mark.slow)])
def test_a_function_gives_the_same_file_after_others(
    name: str, nets: Any, keras: Any, tmp_path: Path
) -> None:
    """The layers of the model itself have the names of a fresh process."""
    build_others(keras)
    inputs = {"x": (None, 5, 4)} if name == "uncalled" else None
    files = []
    for number in range(2):
        path = tmp_path / f"{number}.onnx"
        layertap_export.export(f"nets_by_name:{name}", path, inputs=inputs)
        files.append(path.read_bytes())
        build_others(keras)
    assert files[0] == files[1]
    names = [x.name for x in card_of(path).layers if not x.parent]
    assert names == (
        ["input_layer", "dense_1", "dense", "block", "dense_2"]
        if name == "unnamed"
        else ["block", "dense_6"]
    )
    assert layertap_export.verify(path, f"nets_by_name:{name}")


@pytest.mark.slow
def test_hash_seeds_do_not_matter(nets: Any, tmp_path: Path) -> None:
    program = """
import re
import sys
from dataclasses import replace
import layertap_export, nets_by_name
for name in ("named", "unnamed", "sub", "chain"):
    layertap_export.export(getattr(nets_by_name, name)(), f"{sys.argv[1]}/{name}.onnx")
"""
    folder = Path(nets.__file__).parent
    files = files_of_two_processes(program, tmp_path, folder, *map(Path, sys.path[1:]))
    assert len(files) == 4


@pytest.mark.filterwarnings("ignore:the model's weights are not those")
@pytest.mark.parametrize("name", ["sub", pytest.param("unnamed", marks=pytest.mark.slow)])
def test_verify_matches_layers_by_place(name: str, nets: Any, keras: Any, tmp_path: Path) -> None:
    """Also where a name occurs in both and means another layer: `dense_1`."""
    keras.utils.clear_session()
    keras.layers.Dense(1)
    path = tmp_path / "x.onnx"
    report = layertap_export.export(
        getattr(nets, name)(), path, gradients=["block*/a"], layers=["*block*", "*dense*"]
    )
    if name == "unnamed":
        assert {"dense_1", "dense_2", "dense_3"} <= {x.name for x in report.card.layers}
    keras.utils.clear_session()
    again = layertap_export.verify(path, getattr(nets, name)())
    assert again, again
    assert [x.name for x in again.layers] == [x.name for x in report.verification.layers]
    other = getattr(nets, name)()
    other.layers[-1].kernel.assign_add(np.ones(other.layers[-1].kernel.shape))
    assert not layertap_export.verify(path, other)


def counted_on(name: str) -> str:
    """Keras's name in a process that has built seven more of each class."""
    counted = re.compile(r"(dense|gru|softmax)(?:_(\d+))?(?=[/#:]|$)")
    return counted.sub(lambda found: f"{found[1]}_{int(found[2] or 0) + 7}", name)


def test_verify_matches_the_names_of_former_files(nets: Any, keras: Any, tmp_path: Path) -> None:
    """Before format 1.3 an inner layer had Keras's name."""
    from layertap_export.api.same_layers import named_as_in
    from layertap_export.keras_model.tracing import trace

    model = nets.named()
    path = tmp_path / "x.onnx"
    card = layertap_export.export(model, path).card
    rows = trace(model).rows
    former = {row.layer.name: counted_on(row.keras_name) for row in rows}
    assert former["block/a"].startswith("block/dense_")
    layers = [
        replace(
            layer,
            name=former[layer.name],
            parent=layer.parent and former[layer.parent],
            inbound=tuple(former[name] for name in layer.inbound),
        )
        for layer in card.layers
    ]
    old = replace(card, layers=tuple(layers))
    renamed = named_as_in(old, rows)
    assert [(x.name, x.parent, x.inbound) for x in renamed.layers] == [
        (x.name, x.parent, x.inbound) for x in card.layers
    ]
    # Another model keeps its names.
    assert named_as_in(old, rows[:-1]) is old
    assert named_as_in(old, [rows[1], rows[0], *rows[2:]]) is old


# --- Random models ------------------------------------------------------------------------------


def random_net(keras: Any, draw: Any) -> tuple[Any, str]:
    """A function that builds one model with nested lists and dicts of layers, and its kind."""
    kind = draw(st.sampled_from(["functional", "sequential", "subclassed"]))
    plan = draw(
        st.lists(
            st.sampled_from(["dense", "relu", "list", "dict", "chain"]), min_size=1, max_size=4
        )
    )
    layers = keras.layers

    class Inner(keras.layers.Layer):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.parts: list[Any] = []
            for part in plan:
                if part == "list":
                    self.parts.append([layers.Dense(3), layers.Dense(3)])
                elif part == "dict":
                    self.parts.append({"z": layers.Dense(3), "a": layers.LayerNormalization()})
                elif part == "chain":
                    self.parts.append(keras.Sequential([layers.Dense(3), layers.Dense(3)]))
                else:
                    self.parts.append(layers.Dense(3) if part == "dense" else layers.ReLU())

        def call(self, x: Any) -> Any:
            for part in self.parts:
                many = part.values() if isinstance(part, dict) else part
                for one in many if isinstance(part, (dict, list)) else [part]:
                    x = one(x)
            return x

    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = Inner(name="inner"), layers.Dense(2, name="head")

        def call(self, x: Any) -> Any:
            return self.head(self.inner(x))

    def build() -> Any:
        keras.utils.set_random_seed(0)
        if kind == "functional":
            entry = keras.Input((None, 3), name="entry")
            return keras.Model(entry, layers.Dense(2, name="head")(Inner(name="inner")(entry)))
        if kind == "sequential":
            model = keras.Sequential([Inner(name="inner"), layers.Dense(2, name="head")])
        else:
            model = Net()
        model(np.zeros((2, 4, 3), np.float32))
        return model

    return build, kind


def compare(data: st.DataObject, keras: Any, folder: Path) -> None:
    build, _ = random_net(keras, data.draw)
    keras.utils.clear_session()
    files = []
    for number in range(2):
        model = build()
        files.append(exported(model, folder / f"{number}.onnx"))
        for _ in range(data.draw(st.integers(0, 3))):
            build_others(keras)
    assert files[0] == files[1]
    session = InferenceSession(files[1], providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    for batch, steps in ((1, 4), (2, 7), (5, 3)):
        x = np.random.default_rng(batch).normal(size=(batch, steps, 3)).astype(np.float32)
        (found,) = session.run(["head"], {entry.name: x})
        np.testing.assert_allclose(found, np.asarray(model(x)), rtol=1e-4, atol=1e-5)


quick = settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes too long
)


@quick
@given(data=st.data())
def test_a_few_random_models_are_the_same_twice(
    data: st.DataObject, keras: Any, tmp_path_factory: Any
) -> None:
    compare(data, keras, tmp_path_factory.mktemp("twice"))


@pytest.mark.slow
@settings(quick, max_examples=100, derandomize=False)
@given(data=st.data())
def test_many_random_models_are_the_same_twice(
    data: st.DataObject, keras: Any, tmp_path_factory: Any
) -> None:
    compare(data, keras, tmp_path_factory.mktemp("twice"))
