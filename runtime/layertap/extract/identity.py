"""extract.json: what was requested of a collection, which never changes.

`asked` decides whether a command continues a collection; its SHA-256 as canonical JSON is the
collection's identity. `made_with` is compared too, but a difference only warns.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from layertap.errors import (
    CollectionError,
    CollectionMismatchError,
    LayertapWarning,
    UsageError,
)
from layertap.format.file_names import file_name
from layertap.format.text import number_of

from .columns import Column
from .disk import reading
from .item_list import digest
from .items import Item
from .layout import IDENTITY, ITEMS, MOST_SHARDS, Grid, Place, canonical, folders, little, readable

FORMAT, VERSION = "layertap-extract", 1

MOST_ROWS, LINE_BYTES = 1 << 40, 5
"""Bounds of what a file may say: the number of rows, and the bytes of a line of items.tsv."""


@dataclass(frozen=True)
class Identity:
    """What was requested, and what it was computed with."""

    asked: Mapping[str, Any]
    """JSON: `model`, `columns`, `preprocess`, `items`, `rows`, `chunk`, `batch`, `shards`."""
    made_with: Mapping[str, Any] = field(default_factory=dict)
    """JSON: versions, device, CPU."""

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of `asked` as canonical JSON."""
        return hashlib.sha256(canonical(self.asked)).hexdigest()

    @property
    def grid(self) -> Grid:
        """Which rows belong to which chunk and shard."""
        return Grid(*(self.asked[name] for name in ("rows", "chunk", "shards")))


class Stored(Identity):
    """An identity as it was read from a folder, with what stands beside it in the file."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        super().__init__(content["asked"], content["made_with"])
        object.__setattr__(self, "content", content)

    content: Mapping[str, Any]

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The columns, with the folders in which they are."""
        dims = self.content["dims"]
        return tuple(
            Column(
                one["key"],
                one["folder"],
                one["asked"],
                one["dtype"],
                tuple(one["shape"]),
                tuple(dims[one["folder"]]),
            )
            for one in self.asked["columns"]
        )


def identity_of(
    items: Sequence[Item],
    columns: Sequence[Column],
    *,
    model: str,
    preprocess: Any = None,
    chunk: int,
    batch: int,
    shards: int = 1,
    made_with: Mapping[str, Any] | None = None,
    listed: str | None = None,
) -> Identity:
    """The identity of a collection.

    Args:
        items: the frozen list.
        columns: what is computed.
        model: the SHA-256 of the model's file and data files.
        preprocess: the recipe or reader as JSON, or `None`.
        chunk: rows that are finished together.
        batch: rows that the model runs together, which may change the last bits.
        shards: parts of the list that are computed apart.
        made_with: versions and device, as JSON.
        listed: the digest of the items, if it is known.
    """
    where = folders(columns)
    asked = {
        "model": model,
        "columns": [
            {
                "key": column.key,
                "folder": where[column.key],
                "asked": dict(column.asked),
                "dtype": little(column.dtype).name,
                "shape": list(column.shape),
            }
            for column in columns
        ],
        "preprocess": preprocess,
        "items": digest(items) if listed is None else listed,
        "rows": len(items),
        "chunk": chunk,
        "batch": batch,
        "shards": shards,
    }
    try:
        canonical([asked, made_with])
    except (TypeError, ValueError) as exc:
        raise UsageError(f"what identifies a collection must be JSON: {exc}.") from exc
    return Identity(asked, dict(made_with or {}))


def content_of(
    identity: Identity, columns: Sequence[Column], items_file: Mapping[str, Any]
) -> bytes:
    """The text of extract.json.

    Args:
        identity: what was requested.
        columns: for the names of their axes.
        items_file: the size, and the SHA-256s, of items.tsv and of the times in it.
    """
    where = folders(columns)
    return readable(
        {
            "format": FORMAT,
            "version": VERSION,
            "identity": identity.sha256,
            "asked": identity.asked,
            "made_with": identity.made_with,
            "dims": {where[column.key]: list(column.dims) for column in columns},
            "items": items_file,
        }
    )


def read_identity(place: Place) -> Stored:
    """Read extract.json.

    Raises:
        CollectionError: the folder is no collection, the file is damaged, or it was written by a
            newer layertap.
    """
    name = str(place.root)
    path = place.home / IDENTITY
    if place.root.is_file():
        raise CollectionError(f"{name!r} is a file. A collection is a folder.")
    try:
        with reading(path) as file:
            data = file.read()
    except FileNotFoundError as exc:
        if not place.root.exists():
            raise CollectionError(f"there is no folder {name!r}.") from exc
        raise CollectionError(
            f"{name!r} is not a collection: it has no {IDENTITY}. A collection is a folder that "
            "`layertap extract` or `Model.extract` has written."
        ) from exc
    try:
        content = json.loads(data)
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        if content["format"] != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        if content["version"] != VERSION:
            raise CollectionError(
                f"{name!r} is a collection of version {content['version']!r}; this layertap reads "
                f"version {VERSION}. Install a newer layertap."
            )
        stored = Stored(content)
        _check(stored)
        _check_size(place, stored)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        reason = (
            f"{exc.args[0]!r} is missing" if isinstance(exc, KeyError) else str(exc).rstrip(".")
        )
        raise CollectionError(
            f"{str(path)!r} is damaged: {reason}. Restore it from a copy, or extract again into "
            "another folder."
        ) from exc
    return stored


def _check(stored: Stored) -> None:
    """
    Raises:
        ValueError: values of the file contradict one another, or cannot be used.
    """
    if stored.sha256 != stored.content["identity"]:
        raise ValueError("what it says was requested is not what its identity was made from")
    asked = stored.asked
    if not isinstance(stored.made_with, dict) or not isinstance(asked["columns"], list):
        raise ValueError("made_with must be an object, and columns a list")
    for name, least in {"rows": 0, "chunk": 1, "batch": 1, "shards": 1}.items():
        if type(asked[name]) is not int or asked[name] < least:
            raise ValueError(f"{name} is {asked[name]!r}")
    if asked["rows"] > MOST_ROWS or asked["shards"] > MOST_SHARDS:
        raise ValueError(f"it has {asked['rows']} rows in {asked['shards']} shards")
    for column in asked["columns"]:
        if file_name(column["folder"]) != column["folder"]:
            raise ValueError(f"{column['folder']!r} is not the name of a folder")
    for column in stored.columns:
        if not all(type(size) is int and size >= 0 for size in column.shape):
            raise ValueError(f"the shape of {column.key!r} is {column.shape!r}")
        if len(column.shape) != len(column.dims):
            raise ValueError(f"the axes of {column.key!r} are {column.dims!r}")
        if not isinstance(column.key, str) or not little(column.dtype):
            raise ValueError(f"there is a column {column.key!r}")
    where = folders(stored.columns)
    if len(where) < len(stored.columns) or any(
        where[column.key] != column.folder for column in stored.columns
    ):
        raise ValueError("two columns have one name")
    for name in ("sha256", "times"):
        if not isinstance(stored.content["items"][name], str):
            raise ValueError(f"the {name} of {ITEMS} is missing")


def _check_size(place: Place, stored: Stored) -> None:
    """
    Raises:
        CollectionError: items.tsv is shorter than so many items are.
    """
    path = place.home / ITEMS
    with contextlib.suppress(OSError):
        size = path.stat().st_size
        if size < LINE_BYTES * stored.asked["rows"]:
            raise CollectionError(
                f"{str(path)!r} is damaged: {size} bytes are too few for {stored.asked['rows']} "
                "items. Restore it from a copy, or extract again into another folder."
            )


def check_same(
    found: Identity, wanted: Identity, name: str, *, strict: bool = False, items: str = ""
) -> None:
    """Compare what is asked for with what a collection was begun with.

    Args:
        found: of the collection.
        wanted: what is asked for now.
        name: of the collection, for messages.
        strict: whether other versions or another device are an error.
        items: the first item that differs, in words.

    Raises:
        CollectionMismatchError: they differ.
    """
    other = differences(found, wanted)
    if other:
        other += f" ({items})" if items else ""
        raise CollectionMismatchError(
            f"{name!r} was begun with {other}. Give another folder, or overwrite it (--overwrite, "
            "overwrite=True)."
        )
    versions = [
        f"{key} {_short(found.made_with.get(key))}, now {_short(wanted.made_with.get(key))}"
        for key in sorted({*found.made_with, *wanted.made_with})
        if found.made_with.get(key) != wanted.made_with.get(key)
    ]
    if versions:
        text = f"{name!r} was begun with {'; '.join(versions)}"
        if strict:
            raise CollectionMismatchError(f"{text}. Leave out strict to continue all the same.")
        message = f"{text}. The last bits of the rows that follow may differ."
        warnings.warn(message, LayertapWarning, stacklevel=3)


def differences(found: Identity, wanted: Identity) -> str:
    """What differs in two identities, in words; empty if they are equal."""
    if found.sha256 == wanted.sha256:
        return ""
    one, other = found.asked, wanted.asked
    words = [
        _WORDS.get(name, _other)(name, one.get(name), other.get(name))
        for name in [*_WORDS, *sorted((one.keys() | other.keys()) - _WORDS.keys())]
        if canonical(one.get(name)) != canonical(other.get(name))
    ]
    if one.get("rows") != other.get("rows"):
        words = [word for word in words if word != LIST]
    words.sort(key=lambda word: word == LIST)
    return ", ".join(words)


LIST = "another list of items"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _other(name: str, one: Any, other: Any) -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        inner = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
        return f"another {name} ({', '.join(map(str, inner))})"
    return f"another {name}"


def _number(name: str, one: Any, other: Any) -> str:
    noun, place = {
        "rows": ("item", ""),
        "chunk": ("row", " in a chunk"),
        "batch": ("row", " in a batch"),
        "shards": ("shard", ""),
    }[name]
    return f"{number_of(one, noun)}{place}, not {other}"


def _columns(name: str, one: Any, other: Any) -> str:
    def keys(value: Any) -> list[str]:
        return [column["key"] for column in value]

    if keys(one) != keys(other):
        return f"other layers ({_list(keys(one))}, not {_list(keys(other))})"
    changed = [
        f"{a['key']}: {', '.join(key for key in sorted(a) if a[key] != b.get(key))}"
        for a, b in zip(one, other, strict=True)
        if a != b
    ]
    return f"other layers ({_list(changed, '; ')})"


def _list(words: Sequence[str], between: str = " ") -> str:
    more = f"{between}and {len(words) - 5} more" if len(words) > 5 else ""
    return between.join(words[:5]) + more


def _items(name: str, one: Any, other: Any) -> str:
    return LIST


_WORDS = {
    "model": _other,
    "columns": _columns,
    "preprocess": _other,
    "rows": _number,
    "items": _items,
    "chunk": _number,
    "batch": _number,
    "shards": _number,
}
