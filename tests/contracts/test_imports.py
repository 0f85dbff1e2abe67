"""The runtime is light: what it imports, and when."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import layertap

PACKAGE = Path(layertap.__file__).parent
ALLOWED = {*sys.stdlib_module_names, "numpy", "onnxruntime", "PIL", "layertap"}
FOR_TYPE_CHECKERS = {"typing_extensions"}
"""Which they bring with them; under TYPE_CHECKING alone."""
EXTRAS = {"pandas", "pyarrow", "tqdm", "zarr"}
"""Packages for tables, stores and progress, which are imported in functions, where they are
installed."""
HEAVY = {"numpy", "onnxruntime", "PIL", "tensorflow", "keras", "tf2onnx", "onnx", "json", "re"}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def loaded_after(code: str) -> set[str]:
    """The top-level modules that a fresh process has loaded after `code`."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"{code}\nimport sys; print(*sys.modules)"],
        env={"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_layertap_loads_next_to_nothing() -> None:
    assert HEAVY & loaded_after("import layertap") == set()


def test_the_table_of_layers_needs_the_standard_library_alone(
    tiny_file: Callable[[str], Path],
) -> None:
    """No numpy is to be found by that process: opening, choosing and listing do without."""
    path = str(tiny_file("image_classifier"))
    code = f"import layertap\nlayertap.open({path!r}).summary()"
    assert loaded_after(code) - sys.stdlib_module_names - {"__main__", "layertap"} == set()


def imports(tree: ast.AST) -> set[str]:
    """The top-level packages that a module imports anywhere in it."""
    found = set()
    for item in ast.walk(tree):
        if isinstance(item, ast.Import):
            found |= {alias.name.split(".")[0] for alias in item.names}
        elif isinstance(item, ast.ImportFrom) and not item.level:
            found.add((item.module or "").split(".")[0])
    return found


def at_module_level(tree: ast.Module) -> set[str]:
    """Those that are imported when the module is; not under TYPE_CHECKING, not in functions."""
    statements = [item for item in tree.body if isinstance(item, (ast.Import, ast.ImportFrom))]
    return imports(ast.Module(body=list(statements), type_ignores=[]))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_runtime_imports_its_three_dependencies_and_nothing_else(source: Path) -> None:
    """And onnxruntime in one place alone, within a function."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    assert imports(tree) - ALLOWED - EXTRAS <= FOR_TYPE_CHECKERS
    assert {"onnxruntime", *EXTRAS, *FOR_TYPE_CHECKERS}.isdisjoint(at_module_level(tree))
    if source.relative_to(PACKAGE).as_posix() != "_engine/library.py":
        assert "onnxruntime" not in imports(tree)


def test_the_walk_sees_imports() -> None:
    """The test above would see it if somebody imported Keras, wherever it is."""
    tree = ast.parse("def f():\n    import keras.layers\n    from tensorflow.python import eager")
    assert imports(tree) == {"keras", "tensorflow"}
    assert len(SOURCES) > 10
