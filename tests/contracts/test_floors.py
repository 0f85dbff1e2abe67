"""Which module may import which: the map of docs/architecture.md as a test.

Imports that only type checkers see count, too: what a reader has to follow is the same.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import layertap
import layertap_export

FLOORS = {
    "layertap": [
        "_public _escaping",
        "errors _log _record _version",
        "_arguments",
        "format",
        "images",
        "_cut",
        "_engine",
        "cam",
        "extract",
        "view",
        "comparing",
        "measuring",
        "_model",
        "__init__",
        "ray",
        "cli",
        "__main__",
    ],
    "layertap_export": [
        "errors progress",
        "graph",
        "gradients writing keras_model",
        "convert finishing quantizing",
        "verification",
        "api",
        "__init__",
        "cli",
    ],
}
"""By package its floors, from bottom to top. A part imports from itself and from floors below."""

BANNED = {
    "layertap_export.graph": "tensorflow keras tf_keras tf2onnx",
    "layertap_export.gradients": "tensorflow keras tf_keras tf2onnx",
    "layertap_export.quantizing": "tensorflow keras tf_keras tf2onnx",
    "layertap_export.keras_model": "onnx tf2onnx",
    "layertap.format": "numpy onnxruntime PIL",
    "layertap._cut": "numpy onnxruntime PIL",
}
"""Other packages that must not be imported, anywhere in a part."""

EXCEPTIONS: frozenset[str] = frozenset()
"""Imports that may break the rule, as `importer -> imported`. There are none; keep it so."""

ROOTS = {"layertap": Path(layertap.__file__), "layertap_export": Path(layertap_export.__file__)}


def sources(package: str) -> dict[str, str]:
    """The text of each module, by its dotted name; a package's `__init__` keeps that word."""
    home = ROOTS[package].parent
    return {
        ".".join((package, *path.relative_to(home).with_suffix("").parts)): path.read_text("utf-8")
        for path in sorted(home.rglob("*.py"))
    }


def imported(name: str, text: str, known: Mapping[str, object]) -> Iterator[str]:
    """The modules that a module imports, on any line of it, type-only imports included."""

    def module(target: str) -> str:
        return f"{target}.__init__" if f"{target}.__init__" in known else target

    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (module(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                home = name.split(".")[: -node.level]
                base = ".".join([*home, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = module(f"{base}.{alias.name}")
                yield inner if inner in known else module(base)


def graph_of(package: str) -> dict[str, set[str]]:
    """What each module of the package imports, of all packages."""
    texts = sources(package)
    return {
        name: {
            target
            for target in imported(name, text, texts)
            if target != name and f"{name} -> {target}" not in EXCEPTIONS
        }
        for name, text in texts.items()
    }


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Groups of modules that lead back to one another (Tarjan's components of two or more)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name] & graph.keys()):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                found.append(set(stack[at:]))
            del stack[at:]

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def runs_back_up(package: str, graph: Mapping[str, set[str]]) -> set[str]:
    """Imports of a part on the same floor or a higher one, as `importer -> imported`."""
    floor = {part: i for i, row in enumerate(FLOORS[package]) for part in row.split()}
    found = set()
    for name, targets in graph.items():
        here = name.split(".")[1]
        for target in targets & graph.keys():
            there = target.split(".")[1]
            if here != there and floor[there] >= floor[here]:
                found.add(f"{name} -> {target}")
    return found


@pytest.mark.parametrize("package", FLOORS)
def test_every_part_has_a_floor(package: str) -> None:
    parts = {name.split(".")[1] for name in sources(package)}
    assert parts - set(" ".join(FLOORS[package]).split()) == set()


@pytest.mark.parametrize("package", FLOORS)
def test_no_modules_import_one_another_in_a_circle(package: str) -> None:
    assert circles(graph_of(package)) == []


@pytest.mark.parametrize("package", FLOORS)
def test_no_import_runs_back_up(package: str) -> None:
    assert sorted(runs_back_up(package, graph_of(package))) == []


@pytest.mark.parametrize("part", BANNED)
def test_what_a_part_must_not_import(part: str) -> None:
    banned = set(BANNED[part].split())
    package = part.split(".")[0]
    for name, targets in graph_of(package).items():
        if name.startswith(f"{part}."):
            found = {target.split(".")[0] for target in targets} & banned
            assert found == set(), name


def test_the_rules_see_what_is_against_them() -> None:
    """Each of the checks above finds a fault that is put in."""
    texts = {
        "layertap.__init__": "",
        "layertap.cam.__init__": "",
        "layertap.cam.a": "if TYPE_CHECKING:\n    from . import b",
        "layertap.cam.b": "def f():\n    from layertap.cam.a import x",
        "layertap.format.c": "from layertap.cam import a\nimport numpy.typing",
    }
    graph = {name: set(imported(name, text, texts)) for name, text in texts.items()}
    assert circles(graph) == [{"layertap.cam.a", "layertap.cam.b"}]
    assert runs_back_up("layertap", graph) == {"layertap.format.c -> layertap.cam.a"}
    assert "numpy.typing" in graph["layertap.format.c"]
