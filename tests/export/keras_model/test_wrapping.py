"""Wrapping functions of others for a time."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.tensorflow


class Greeter:
    def greet(self, name: str, *, loud: bool = False) -> str:
        return f"hello {name}{'!' if loud else ''}"


def doubled(original: Any, *args: Any, **kwargs: Any) -> str:
    return " ".join([original(*args, **kwargs)] * 2)


def test_the_wrapper_stands_for_the_method_in_the_block(keras: Any) -> None:
    from layertap_export.keras_model.wrapping import wrapped

    before = vars(Greeter)["greet"]
    with wrapped(Greeter, "greet", doubled):
        assert Greeter().greet("you", loud=True) == "hello you! hello you!"
        with wrapped(Greeter, "greet", doubled):
            assert Greeter().greet("you") == " ".join(["hello you"] * 4)
    assert vars(Greeter)["greet"] is before


def test_what_was_there_is_put_back_after_an_error(keras: Any) -> None:
    from layertap_export.keras_model.wrapping import wrapped

    before = vars(Greeter)["greet"]
    with pytest.raises(KeyError), wrapped(Greeter, "greet", doubled):
        raise KeyError
    assert vars(Greeter)["greet"] is before


def test_functions_of_modules(keras: Any) -> None:
    from layertap_export.keras_model.wrapping import wrapped

    module: Any = ModuleType("module")
    module.greet = lambda name: f"hello {name}"
    with wrapped(module, "greet", doubled):
        assert module.greet("you") == "hello you hello you"
    assert module.greet("you") == "hello you"


def test_a_method_that_an_object_inherits(keras: Any) -> None:
    from layertap_export.keras_model.wrapping import wrapped

    greeter = Greeter()
    with wrapped(greeter, "greet", doubled):
        assert greeter.greet("you") == "hello you hello you"
        assert Greeter().greet("you") == "hello you"
    assert vars(greeter) == {}


def test_calls_of_another_thread_pass_through(keras: Any) -> None:
    from layertap_export.keras_model.wrapping import wrapped

    results = []
    thread = threading.Thread(target=lambda: results.append(Greeter().greet("you")))
    with wrapped(Greeter, "greet", doubled):
        thread.start()
        thread.join()
    assert results == ["hello you"]


def test_another_thread_waits_before_it_wraps(keras: Any) -> None:
    """Else the one that leaves first would put back what the other put there."""
    from layertap_export.keras_model.wrapping import wrapped

    inside, results = threading.Event(), []

    def other() -> None:
        with wrapped(Greeter, "greet", doubled):
            inside.set()
            results.append(Greeter().greet("you"))

    thread = threading.Thread(target=other)
    with wrapped(Greeter, "greet", lambda original, *args: "silence"):
        thread.start()
        assert not inside.wait(0.2)
        assert Greeter().greet("you") == "silence"
    thread.join()
    assert results == ["hello you hello you"]
    assert Greeter().greet("you") == "hello you"


def test_a_setting_is_restored(keras: Any) -> None:
    from layertap_export.keras_model.wrapping import setting

    values = [1]
    with (
        pytest.raises(KeyError),
        setting(lambda: values[-1], values.append, lambda before: before + 1),
        setting(lambda: values[-1], values.append, lambda before: before + 1),
    ):
        raise KeyError
    assert values == [1, 2, 3, 2, 1]


def test_overlapping_exports_leave_the_libraries_as_they_were(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first conversion would end after the second has begun, and before the second ends."""
    import tensorflow as tf
    from tf2onnx import tfonnx
    from tf2onnx.graph import Graph

    import layertap_export
    from layertap_export.convert import to_onnx

    def state() -> list[Any]:
        return [
            vars(Graph)["delete_unused_nodes"],
            vars(tfonnx)["rewrite_conv2d_with_pad"],
            vars(tf.nn)["softmax"],
            vars(tf.Graph)["name_scope"],
            vars(keras.layers.Layer)["__call__"],
            tf.config.optimizer.get_experimental_options(),
            logging.getLogger("tf2onnx").level,
        ]

    convert = to_onnx.process_tf_graph  # type: ignore[attr-defined]
    threads, second = list[threading.Thread](), threading.Event()

    def waiting(*args: Any, **kwargs: Any) -> Any:
        if threads:
            second.set()
            threads[0].join(timeout=1)
        else:
            threads.append(threading.current_thread())
            second.wait(timeout=1)
        return convert(*args, **kwargs)

    def export(name: str) -> None:
        layertap_export.export(
            keras.Sequential(
                [
                    keras.Input((6, 6, 1)),
                    keras.layers.ZeroPadding2D(name="pad"),
                    keras.layers.Conv2D(2, 3),
                    keras.layers.Flatten(),
                    keras.layers.Dense(2, "softmax"),
                ]
            ),
            tmp_path / name,
            gradients="pad",
        )

    export("warm-up.onnx")
    before = state()
    monkeypatch.setattr(to_onnx, "process_tf_graph", waiting)
    exports = [threading.Thread(target=export, args=[f"{i}.onnx"]) for i in range(2)]
    for thread in exports:
        thread.start()
    for thread in exports:
        thread.join()
    assert state() == before
    assert {"0.onnx", "1.onnx"} <= {path.name for path in tmp_path.iterdir()}
