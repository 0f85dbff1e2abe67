"""The errors, and the names that they suggest."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from layertap import errors
from layertap.errors import LayertapError, suggest

KINDS = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, LayertapError)
]
TOO = {
    "LayerNotFoundError": KeyError,
    "InputError": ValueError,
    "ImageError": ValueError,
    "PreprocessingError": ValueError,
    "UsageError": ValueError,
    "DependencyError": ImportError,
    "RunTimeoutError": TimeoutError,
}
"""What people's code may catch who do not know layertap."""


@pytest.mark.parametrize("kind", KINDS)
def test_an_errors_text_is_its_message(kind: type[LayertapError]) -> None:
    """A KeyError of itself would print it in quotes."""
    error = kind("no layer is called 'x'.")
    assert str(error) == "no layer is called 'x'."
    assert error.args == ("no layer is called 'x'.",)
    assert str(kind()) == ""
    assert issubclass(kind, TOO.get(kind.__name__, LayertapError))


@pytest.mark.parametrize("kind", KINDS)
def test_errors_travel_between_processes(kind: type[LayertapError]) -> None:
    again = pickle.loads(pickle.dumps(kind("a message")))
    assert type(again) is kind
    assert str(again) == "a message"


def test_the_tree_at_the_top_is_the_tree() -> None:
    """Each line's parent is the nearest line above that is indented less."""
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^    (?P<indent>[ |`+-]*)(?P<name>[A-Z]\w+Error)\b", line)
        if found:
            indent = len(found["indent"])
            above = [item for item in above if item[0] < indent]
            drawn[found["name"]] = above[-1][1] if above else ""
            above.append((indent, found["name"]))
    assert drawn.pop("ExportError") == "LayertapError"  # it is layertap_export's
    assert drawn.pop("LayertapError") == ""
    assert drawn == {
        kind.__name__: kind.__bases__[0].__name__ for kind in KINDS if kind is not LayertapError
    }
    notes = re.findall(r"(\w+Error)\s.*\(also an? (\w+)\)", errors.__doc__ or "")
    assert dict(notes) == {name: kind.__name__ for name, kind in TOO.items()}


def test_warnings_are_told_apart_from_other_peoples() -> None:
    assert issubclass(errors.LayertapWarning, UserWarning)
    assert not issubclass(errors.LayertapWarning, LayertapError)


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("cnv1", ["conv1", "bn"], " Did you mean 'conv1'?"),
        ("conv", ["conv1", "conv2", "conv3", "conv4"], " Did you mean 'conv4', 'conv3', 'conv2'?"),
        ("conv1", ["conv1_relu", "conv1"], " Did you mean 'conv1', 'conv1_relu'?"),
        ("xyz", ["conv1", "bn"], ""),
        ("", ["conv1"], ""),
        ("conv1", [], ""),
        ("it's", ["its"], " Did you mean 'its'?"),
        ("EDEMA", ["Nodule", "Edema"], " Did you mean 'Edema'?"),
        ("conv", ["Conv", "CONV"], " Did you mean 'Conv'?"),
    ],
)
def test_up_to_three_near_names_are_suggested(name: str, known: list[str], expected: str) -> None:
    assert suggest(name, known) == expected
