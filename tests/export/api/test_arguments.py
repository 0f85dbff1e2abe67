"""The arguments of `export` in the forms in which people give them."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layertap.errors import PreprocessingError, UsageError
from layertap_export.api.arguments import labels_of, preprocessing_of, target_of

NAMES = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, unique=True
)


@given(NAMES.filter(lambda names: not any(name.isdecimal() for name in names)), st.randoms())
def test_a_dict_of_labels_may_go_either_way(names: list[str], random: Any) -> None:
    """In any order of its entries, with indices as any integers."""
    entries = list(enumerate(names))
    random.shuffle(entries)
    assert labels_of(dict(entries)) == tuple(names)
    assert labels_of({name: index for index, name in entries}) == tuple(names)
    assert labels_of({name: np.int64(index) for index, name in entries}) == tuple(names)
    assert labels_of({str(index): name for index, name in entries}) == tuple(names)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"dog": 1, "cat": 0}, ("cat", "dog")),
        ({"7": 1, "3": 0}, ("3", "7")),  # folders whose names are numbers
        ({False: "no", True: "yes"}, ("no", "yes")),
        ({"yes": True, "no": np.False_}, ("no", "yes")),
        ([0, 1], ("0", "1")),
        (range(2), ("0", "1")),
        (np.array(["a", "b"]), ("a", "b")),
        ([np.int64(3), 1.5, b"caf\xc3\xa9", True], ("3", "1.5", "caf\u00e9", "True")),
        ((name for name in "ab"), ("a", "b")),
        ({"a": 1, "b": 2}.keys(), ("a", "b")),
        (IntEnum("Animal", {"cat": 0, "dog": 1}), ("cat", "dog")),
        (None, None),
    ],
)
def test_labels_in_many_forms(labels: Any, expected: Any) -> None:
    assert labels_of(labels) == expected


def test_labels_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    assert labels_of(pandas.Series(["b", "a"], index=[5, 7])) == ("b", "a")
    assert labels_of(pandas.Series({"b": 1, "a": 0})) == ("a", "b")
    assert labels_of(pandas.Index(["b", "a"])) == ("b", "a")
    assert labels_of(pandas.Series(["a", "b", "c"], index=[2, 0, 1])) == ("b", "c", "a")


@pytest.mark.parametrize(
    "text",
    [
        '["cat", "dog"]',
        '{"dog": 1, "cat": 0}',
        '{"0": "cat", "1": "dog"}',
        '{"0": ["n02123045", "cat"], "1": ["n02084071", "dog"]}',
    ],
)
def test_labels_as_json(text: str, tmp_path: Path) -> None:
    """As Keras's `class_indices` are often kept, and as `imagenet_class_index.json` is."""
    path = tmp_path / "labels.json"
    path.write_text(text, encoding="utf-8")
    assert labels_of(path) == ("cat", "dog")


@pytest.mark.parametrize("text", ['["cat"', '"cat"', "[" * 100_000])
def test_labels_as_other_json_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="labels"):
        labels_of(path)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["a", None], "each label must be a name or a number, got None."),
        ([float("nan")], "each label must be a name or a number, got nan."),
        (["\ud800"], "each label must be a name or a number, got '\\ud800'."),
        ([b"\xff"], "each label must be a name or a number, got b'\\xff'."),
        ([["a"]], "each label must be a name or a number, got ['a']."),
        (
            {"a", "b"},
            "labels must be a list of names, a dict of names by index, or a file, got a set, which "
            "has no order.",
        ),
        (np.array("cat"), "labels must be a list of names, got array('cat', dtype='<U3')."),
        (5, "labels must be a list of names, a dict of names by index, or a file, got 5."),
        (
            {"a": 0, "b": 2},
            "labels as a dict must map each index, 0 to 1, to a name, or each name to its index, "
            "got {'a': 0, 'b': 2}.",
        ),
        (
            {0: 1, 1: 2, 2: 0},
            "labels as a dict must map each index, 0 to 2, to a name, or each name to its index, "
            "got {0: 1, 1: 2, 2: 0}.",
        ),
        (
            "missing.txt",
            "labels: there is no file 'missing.txt'. Give a text file with one label per line, or "
            "JSON.",
        ),
    ],
)
def test_labels_that_are_none(
    labels: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        labels_of(labels)
    assert str(caught.value) == words


def preprocess_input(x: Any) -> Any:
    return x


@pytest.mark.parametrize(
    ("module", "hint"),
    [
        ("keras.src.applications.densenet", 'Give its name: "densenet", or'),
        (
            "keras.src.applications.resnet",
            'Give its name: "resnet", or "resnet:320x320" for images',
        ),
        ("tf_keras.src.applications.mobilenet_v2", 'Give its name: "mobilenet_v2", or'),
        ("mine", '"scaling": {"mode": "rescale"'),
    ],
)
def test_a_function_as_preprocess(module: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess_input, "__module__", module)
    with pytest.raises(PreprocessingError) as caught:
        preprocessing_of(preprocess_input)
    assert "not a function, got preprocess_input" in str(caught.value)
    assert hint in str(caught.value)


def test_model_and_path_swapped() -> None:
    with pytest.raises(UsageError, match=r"got an object\. The model comes first: export\(model"):
        target_of("x.onnx", object())
    assert target_of(object(), "x.onnx") == Path("x.onnx")
