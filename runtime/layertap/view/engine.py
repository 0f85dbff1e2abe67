"""Finds what a page needs to run a model itself: onnxruntime-web, and the client for JavaScript.

Both are files that npm installs and `make javascript` builds; nothing is downloaded here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from layertap.errors import DependencyError

VARIABLE = "LAYERTAP_ENGINE"
"""The environment variable that names the folder."""

CLIENT = "layertap.single.js"
RUNTIME = "ort.wasm.bundle.min.mjs"
WASM = "ort-wasm-simd-threaded.wasm"

PLACES = {
    CLIENT: ("", "dist", "node_modules/layertap/dist", "layertap/dist"),
    RUNTIME: ("", "node_modules/onnxruntime-web/dist", "onnxruntime-web/dist"),
    WASM: ("", "node_modules/onnxruntime-web/dist", "onnxruntime-web/dist"),
}
"""Where each file may be in the folder: beside the others, as in runtime/javascript, in a project
with both packages, or in its `node_modules`."""


class Engine(NamedTuple):
    """The engine, as a page contains it."""

    scripts: tuple[str, ...]
    """Modules, which set `globalThis.onnxruntime` and `globalThis.layertapClient`."""
    wasm: bytes


def find_engine(folder: str | os.PathLike[str] | None) -> Engine:
    """Read the engine.

    Args:
        folder: where it is; by default the folder in LAYERTAP_ENGINE, or where `make javascript`
            puts it in a checkout.

    Raises:
        DependencyError: it is not there, or not complete.
    """
    tried = [Path(folder)] if folder is not None else list(_folders())
    for one in tried:
        found = {name: _file(one, name) for name in PLACES}
        missing = [name for name, file in found.items() if file is None]
        if not missing:
            return _read({name: file for name, file in found.items() if file is not None})
        if len(missing) < len(found) or folder is not None:
            raise DependencyError(
                f"the engine in {str(one)!r} is not complete: there is no {missing[0]}. {_remedy()}"
            )
    raise DependencyError(
        "a page with the model inside needs onnxruntime-web and the client for JavaScript, which "
        f"are not in {' or '.join(repr(str(one)) for one in tried)}. {_remedy()}"
    )


def _remedy() -> str:
    return (
        "`make javascript` in a checkout of layertap builds them in runtime/javascript; name that "
        f"folder with --engine (in Python engine=) or in {VARIABLE}."
    )


def _folders() -> Iterator[Path]:
    """The folders that are searched if none is given."""
    given = os.environ.get(VARIABLE)
    if given:
        yield Path(given)
    else:
        yield Path(__file__).parents[2] / "javascript"


def _file(folder: Path, name: str) -> Path | None:
    files = (folder / place / name for place in PLACES[name])
    return next((file for file in files if file.is_file()), None)


def _read(files: dict[str, Path]) -> Engine:
    try:
        runtime = files[RUNTIME].read_text("utf-8")
        client = files[CLIENT].read_text("utf-8")
        wasm = files[WASM].read_bytes()
    except (OSError, ValueError) as exc:
        raise DependencyError(f"the engine cannot be read ({exc}). {_remedy()}") from exc
    scripts = (
        as_global(runtime, "onnxruntime", RUNTIME),
        as_global(client, "layertapClient", CLIENT),
    )
    return Engine(scripts, wasm)


_EXPORTS = re.compile(r"export\s*\{([^{}]*)\};?\s*(//# sourceMappingURL=\S*\s*)?\Z")
_NAME = re.compile(r"([\w$]+)(?:\s+as\s+([\w$]+))?")


def as_global(module: str, name: str, file: str) -> str:
    """A module in one file as a module that sets a global variable to its exports.

    A module in a page cannot be imported by another.

    Raises:
        DependencyError: it does not end in its exports, or cannot be inside of an HTML page.
    """
    exports = _EXPORTS.search(module)
    if exports is None or re.search(r"</script|<!--", module, re.IGNORECASE):
        raise DependencyError(f"{file} cannot be put into a page: it was built in another way.")
    pairs = (_NAME.fullmatch(part.strip()) for part in exports[1].split(",") if part.strip())
    known = {found[2] or found[1]: found[1] for found in pairs if found}
    members = ",".join(f"{outside}:{inside}" for outside, inside in known.items())
    return f"{module[: exports.start()]}globalThis.{name}={{{members}}};\n"
