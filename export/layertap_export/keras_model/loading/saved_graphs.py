"""What the functions in a SavedModel would do, read before any of them runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from layertap_export.errors import ModelLoadError, UnsafeModelError
from layertap_export.keras_model.effects import SAVER, TABLES_FROM_FILES, effect_of

from .files import reason_of

TRUST = "If you trust it, export it with --unsafe (unsafe=True in Python)."


def ensure_harmless(path: Path) -> None:
    """Check that a SavedModel only computes.

    Its variables may be restored by operations that nothing else calls, and its tables filled from
    its own files.

    Raises:
        UnsafeModelError: it would reach other files, the network or Python.
        ModelLoadError: TensorFlow cannot read it.
    """
    from tensorflow.python.saved_model.loader_impl import parse_saved_model

    try:
        saved = parse_saved_model(str(path))  # the same bytes that TensorFlow loads
    except Exception as exc:
        raise ModelLoadError(f"TensorFlow cannot load {str(path)!r}: {reason_of(exc)}") from exc
    for meta in saved.meta_graphs:
        _check_assets(path, meta)
        _check_operations(path, meta)


def _check_assets(path: Path, meta: Any) -> None:
    inside = (path / "assets").resolve()
    for asset in meta.asset_file_def:
        name = asset.filename
        outside = any(
            kind(name).is_absolute() or ".." in kind(name).parts
            for kind in (PurePosixPath, PureWindowsPath)
        )
        if outside or not (path / "assets" / name).resolve().is_relative_to(inside):
            raise UnsafeModelError(
                f"{str(path)!r} reads the file {name!r}, which is outside of it. {TRUST}"
            )


def _check_operations(path: Path, meta: Any) -> None:
    functions = {one.signature.name: one for one in meta.graph_def.library.function}
    used = _used(meta, functions)
    owned = {asset.tensor_info.name.partition(":")[0] for asset in meta.asset_file_def}
    for name, nodes in [
        ("", meta.graph_def.node),
        *((name, one.node_def) for name, one in functions.items()),
    ]:
        by_name = {node.name: node for node in nodes}
        for node in nodes:
            if node.op in SAVER and name not in used and (name or node.name not in used):
                continue
            if node.op in TABLES_FROM_FILES and _is_asset(node, by_name, owned if not name else ()):
                continue
            stream = node.attr["output_stream"].s.decode("utf-8", "replace")
            effect = effect_of(node.op, stream if node.op == "PrintV2" else "")
            if effect:
                raise UnsafeModelError(
                    f"{str(path)!r} {effect}: it contains the operation {node.op} ({node.name!r}), "
                    f"which would run during the export. {TRUST}"
                )


def _is_asset(node: Any, by_name: Mapping[str, Any], owned: Iterable[str]) -> bool:
    """Whether the file of a table is one of the SavedModel's own.

    In a function that is an argument; in a graph, a constant which the loader replaces.
    """
    at = node.input[1].partition(":")[0] if len(node.input) > 1 else ""
    seen: set[str] = set()
    while at in by_name and by_name[at].op == "Identity" and by_name[at].input and at not in seen:
        seen.add(at)
        at = by_name[at].input[0].partition(":")[0]
    return at in owned or at not in by_name


def _used(meta: Any, functions: Mapping[str, Any]) -> set[str]:
    """Functions and nodes of the graph that signatures and objects call, so not only the saver."""
    top = {node.name: node for node in meta.graph_def.node}
    waiting = [
        info.name.partition(":")[0]
        for signature in meta.signature_def.values()
        for info in (*signature.outputs.values(), *signature.inputs.values())
    ]
    for key in ("saved_model_main_op", "legacy_init_op", "saved_model_init_op"):
        collection = meta.collection_def.get(key)
        if collection is not None:
            waiting += [name.partition(":")[0] for name in collection.node_list.value]
    used: set[str] = set()
    calls = [*meta.object_graph_def.concrete_functions]
    while waiting:
        name = waiting.pop().removeprefix("^")
        if name in used or name not in top:
            continue
        used.add(name)
        waiting += [text.partition(":")[0] for text in top[name].input]
        calls += _called(top[name])
    while calls:
        name = calls.pop()
        if name in used or name not in functions:
            continue
        used.add(name)
        for node in functions[name].node_def:
            calls += [*_called(node), node.op]
    return used


def _called(node: Any) -> Iterator[str]:
    """Names of functions in a node: its own operation, and those among its attributes."""
    yield node.op
    for attribute in node.attr.values():
        yield attribute.func.name
        yield from (one.name for one in attribute.list.func)
