"""Records: their common behaviour with dataclasses, and invalid arguments."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import layertap
from layertap._record import Record


class Point(Record):
    x: int
    y: int = 7
    extra: Mapping[str, Any] = {}


class Checked(Record):
    size: int

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("negative")


def test_fields_are_given_by_position_or_name() -> None:
    point = Point(1)
    assert (point.x, point.y, point.extra) == (1, 7, {})
    assert Point(1, 7) == Point(y=7, x=1) == point
    assert Point(1, 8) != point
    assert point != (1, 7, {})


@pytest.mark.parametrize(
    ("positional", "named", "words"),
    [
        ((), {}, "Point requires the field 'x'"),
        ((1,), {"z": 2}, "Point has the fields x, y, extra; got 1 by position and z by name"),
        ((1,), {"x": 2}, "Point has the fields x, y, extra; got 1 by position and x by name"),
        ((1, 2, {}, 4), {}, "Point has the fields x, y, extra; got 4 by position and none by name"),
    ],
)
def test_missing_or_unknown_fields_are_a_type_error(
    positional: tuple[Any, ...], named: dict[str, Any], words: str
) -> None:
    with pytest.raises(TypeError) as caught:
        Point(*positional, **named)
    assert str(caught.value) == words


def test_default_dict_is_not_shared() -> None:
    one, other = Point(1), Point(1)
    assert one.extra is not other.extra
    assert Point.extra == {}


def test_records_are_frozen() -> None:
    point: Any = Point(1)
    with pytest.raises(AttributeError, match=r"^Point is frozen: 'x' cannot be set$"):
        point.x = 2
    with pytest.raises(AttributeError, match=r"^Point is frozen: 'x' cannot be deleted$"):
        del point.x
    assert point == Point(1)


def test_post_init_checks_the_fields() -> None:
    with pytest.raises(ValueError, match="negative"):
        Checked(-1)


def test_hash_and_repr_use_the_fields() -> None:
    assert {Point(1, extra={"a": 1}), Point(1, extra={"a": 1}), Point(2)} == {
        Point(1, extra={"a": 1}),
        Point(2),
    }
    assert repr(Point(1)) == "Point(x=1)"  # fields with their default values are not shown
    assert repr(Point(1, extra={"a": 1})) == "Point(x=1, extra={'a': 1})"


def test_trusted_records_equal_checked_ones() -> None:
    assert Point.trusted({"x": 1, "y": 7, "extra": {}}) == Point(1)


@pytest.mark.parametrize(
    "there_and_back",
    [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))],
)
def test_records_can_be_copied_and_pickled(there_and_back: Any) -> None:
    point = Point(1, extra={"a": [1]})
    assert there_and_back(point) == point


def test_dataclasses_functions_accept_records() -> None:
    point: Any = Point(1, extra={"a": 1})
    assert [item.name for item in dataclasses.fields(point)] == ["x", "y", "extra"]
    assert dataclasses.replace(point, x=2) == Point(2, extra={"a": 1})
    assert dataclasses.asdict(point) == {"x": 1, "y": 7, "extra": {"a": 1}}
    assert dataclasses.is_dataclass(point)  # which mypy takes for a proof of more
    assert not dataclasses.is_dataclass(Record)


def test_defining_records_does_not_import_dataclasses() -> None:
    code = (
        "import sys\nfrom layertap import Layer\n"
        "print({'dataclasses', 'inspect'} & sys.modules.keys() or 'none')"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(Path(layertap.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "none\n"
