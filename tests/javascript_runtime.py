"""Programs in JavaScript: in node with onnxruntime-node, and in Chromium with onnxruntime-web.

A program is the body of an async function. It sees `layertap` (the client), `ort`, and

    read(name)          the bytes of a file in the program's folder
    json(name)          the data in a file
    given(name)         the array of this name, as a tensor; `names` are the names of all
    keep(name, tensor)  hands an array back
    refused(action)     the name and the message of the error that a function throws

What it returns, as JSON, is the result of `Runtime.run`.
"""

from __future__ import annotations

import functools
import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

PACKAGE = Path(__file__).parents[1] / "runtime" / "javascript"
MODULES = PACKAGE / "node_modules"
HARNESS = Path(__file__).parent / "javascript"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
SECONDS = 120
"""The longest time that a program takes."""

Array = NDArray[Any]


class Done(NamedTuple):
    """What a program left behind."""

    value: Any
    """What it returned."""
    arrays: dict[str, Array]
    """What it kept."""


@functools.cache
def missing(*, chromium: bool = False) -> str:
    """Why no program can run here; empty if it can."""
    if not shutil.which("node"):
        return "needs node"
    command = ["node", "--print", "process.version.slice(1)"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if tuple(int(part) for part in found.split(".")[:2]) < (20, 16):
        return f"needs node 20.16 or newer, got {found}"
    if not (MODULES / "esbuild").exists():
        return "needs node's packages: `make javascript`"
    if chromium and not CHROMIUM:
        return "needs Chromium"
    return ""


def build(folder: Path, script: str = "bundle") -> Path:
    """The client as `npm run build` writes it, in another folder than `dist`.

    Args:
        folder: where to.
        script: `bundle`, several files that are loaded when they are needed; or `single`, one.

    Returns:
        The file to import.
    """
    scripts = json.loads((PACKAGE / "package.json").read_text(encoding="utf-8"))["scripts"]
    command = scripts[script].replace("--outdir=dist", f"--outdir={folder} --log-level=warning")
    subprocess.run(f"node_modules/.bin/{command}", shell=True, check=True, cwd=PACKAGE)
    return folder / ("layertap.js" if script == "bundle" else "layertap.single.js")


GIVEN = "layertap, ort, read, json, given, keep, refused, names"
"""What a program sees."""


class Runtime:
    """What programs run in."""

    name = "node"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.client = build(folder / "client")
        # node reads a file as a module if its package says so.
        (folder / "client" / "package.json").write_text('{"type": "module"}', encoding="utf-8")
        self._count = 0

    def close(self) -> None:
        """End it."""

    def place(self) -> str:
        """Where the files of the next program are: a path, or an address."""
        return str(self.folder / str(self._count + 1))

    def run(
        self,
        code: str,
        arrays: Mapping[str, Array] | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> Done:
        """Run a program with some arrays and files.

        Raises:
            AssertionError: it threw an error.
        """
        self._count += 1
        folder = self.folder / str(self._count)
        folder.mkdir()
        shapes = {}
        for at, (name, array) in enumerate((arrays or {}).items()):
            dtype = "string" if array.dtype == object else array.dtype.name
            shapes[name] = {"file": f"array.{at}", "dtype": dtype, "shape": list(array.shape)}
            data = (
                json.dumps(array.ravel().tolist()).encode()
                if dtype == "string"
                else array.tobytes()
            )
            (folder / f"array.{at}").write_bytes(data)
        for name, data in (files or {}).items():
            (folder / name).write_bytes(data)
        (folder / "shapes.json").write_text(json.dumps(shapes), encoding="utf-8")
        program = f"export default async ({{ {GIVEN} }}) => {{\n{code}\n}}\n"
        (folder / "program.mjs").write_text(program, encoding="utf-8")
        result = self._execute(str(self._count), folder)
        assert "error" not in result, result["error"]
        kept, data, at = {}, (folder / "kept.bin").read_bytes(), 0
        for about in json.loads((folder / "kept.json").read_text(encoding="utf-8")):
            kept[about["name"]] = _array(about, data[at : at + about["size"]])
            at += about["size"]
        shutil.rmtree(folder)
        return Done(result["value"], kept)

    def _execute(self, name: str, folder: Path) -> Any:
        command = ["node", *map(str, (HARNESS / "in_node.mjs", self.client, PACKAGE, folder))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        result = folder / "result.json"
        assert result.exists(), done.stderr
        return json.loads(result.read_text(encoding="utf-8"))


class Browser(Runtime):
    """Chromium without a window, with a server that hands it the programs."""

    name = "chromium"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._waiting: queue.Queue[str | None] = queue.Queue()
        self._results: queue.Queue[Any] = queue.Queue()
        runtime = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                runtime._get(self)

            def do_POST(self) -> None:
                runtime._post(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run")
        profile = f"--user-data-dir={folder / 'profile'}"
        self._process = subprocess.Popen(
            [CHROMIUM, *options, "--disable-dev-shm-usage", profile, self.address + "/"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def close(self) -> None:
        self._waiting.put(None)
        self._process.terminate()
        self._process.wait(30)
        self._server.shutdown()
        self._server.server_close()

    def place(self) -> str:
        return f"{self.address}/files/{self._count + 1}"

    def _execute(self, name: str, folder: Path) -> Any:
        self._waiting.put(name)
        return self._results.get(timeout=SECONDS)

    def _get(self, request: BaseHTTPRequestHandler) -> None:
        parts = unquote(urlsplit(request.path).path).strip("/").split("/")
        kind, rest = parts[0], parts[1:]
        if kind == "next":
            return _answer(
                request, "application/json", json.dumps({"id": self._waiting.get()}).encode()
            )
        client = self.client.parent
        places = {"files": self.folder, "modules": MODULES, "client": client, "harness": HARNESS}
        if kind not in places:
            return _answer(request, "text/html", (HARNESS / "in_browser.html").read_bytes())
        path = places[kind].joinpath(*rest)
        if not path.is_file():
            return _answer(request, "text/plain", b"", 404)
        types = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm"}
        data, wanted = path.read_bytes(), request.headers.get("Range", "")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            data = data[int(first) : int(last) + 1 if last else None]
        kind = types.get(path.suffix, "application/octet-stream")
        return _answer(request, kind, data, 206 if wanted else 200)

    def _post(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        kind, name = request.path.strip("/").split("/")
        if kind == "done":
            self._results.put(json.loads(body))
        else:
            (self.folder / name / kind).write_bytes(body)
        _answer(request, "text/plain", b"")


def _answer(request: BaseHTTPRequestHandler, kind: str, data: bytes, status: int = 200) -> None:
    request.send_response(status)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)


def _array(about: Mapping[str, Any], data: bytes) -> Array:
    if about["type"] == "string":
        strings: Array = np.array(json.loads(data), object).reshape(about["dims"])
        return strings
    array: Array = np.frombuffer(data, about["type"]).reshape(about["dims"])
    return array


TOLERANCE = 2e-6
"""Of the largest value of a layer: WebAssembly adds up in another order."""


def assert_close(
    found: Array, expected: Array, name: str = "", tolerance: float = TOLERANCE
) -> None:
    """Equal, up to a tolerance of the largest value."""
    assert found.shape == expected.shape, name
    assert found.dtype == expected.dtype, name
    if expected.dtype.kind != "f" or not expected.size:
        np.testing.assert_array_equal(found, expected, name)
        return
    scale = float(np.abs(expected).max()) or 1.0
    error = float(np.abs(found.astype(np.float64) - expected).max()) / scale
    assert error <= tolerance, (name, error)
