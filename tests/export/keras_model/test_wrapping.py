"""Wrapping functions of others for a time."""

from __future__ import annotations

import threading
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
