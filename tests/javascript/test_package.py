"""The package: its size, its version, which module imports which, and its types."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import layertap
from generators import tiny
from javascript_runtime import MODULES, PACKAGE, build, missing
from pages import fenced, page

SOURCE = PACKAGE / "src"

FLOORS = [
    "errors wire",
    "tensors source graph card",
    "select inference nodes external shapes leaf",
    "cut images axes",
    "reductions layers starts maps projections golden",
    "engine",
    "cam scores feeds",
    "pictures",
    "program",
    "boundary finished",
    "explain resume check looks",
    "model",
    "index",
]
"""From bottom to top, as in `contracts/test_floors.py`; parts that are loaded later count, too."""

START, WHOLE = 12_100, 36_000
"""Most bytes, compressed: of what is loaded at first, and of everything in one file."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if missing():
        pytest.skip(missing())
    folder = tmp_path_factory.mktemp("built")
    build(folder)
    build(folder, "single")
    return folder


def compressed(*files: Path) -> int:
    return sum(len(gzip.compress(file.read_bytes(), 9)) for file in files)


def at_first(entry: Path) -> set[Path]:
    """A file and all that it imports before it runs."""
    found, waiting = set(), [entry]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            text = file.read_text(encoding="utf-8")
            names = re.findall(r'(?:from|^import|;import)\s*"\./([\w.-]+\.js)"', text)
            waiting += [file.parent / name for name in names]
    return found


def test_a_page_loads_at_most_12_kb_at_first(built: Path) -> None:
    first = at_first(built / "layertap.js")
    assert compressed(*first) <= START
    everything = set(built.glob("*.js")) - {built / "layertap.single.js"}
    assert len(first) < len(everything)


def test_one_file_has_everything(built: Path) -> None:
    file = built / "layertap.single.js"
    assert compressed(file) <= WHOLE
    assert "import(" not in file.read_text(encoding="utf-8")
    assert at_first(file) == {file}


def test_the_version_is_that_of_the_python_package() -> None:
    package = json.loads((PACKAGE / "package.json").read_text(encoding="utf-8"))
    assert package["version"] == layertap.__version__
    assert "dependencies" not in package
    locked = (PACKAGE / "package-lock.json").read_text(encoding="utf-8")
    assert json.loads(locked)["version"] == layertap.__version__
    assert "://" not in locked, "addresses of a registry"


def imports() -> Iterator[tuple[str, str]]:
    """Each module, and one that it imports, now or later, for its types or for its values."""
    for path in sorted(SOURCE.rglob("*.ts")):
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r'(?:from |import |import\()"(\.[^"]+)\.js"', text):
            other = (path.parent / name).resolve().relative_to(SOURCE)
            yield path.relative_to(SOURCE).with_suffix("").as_posix(), other.as_posix()


def test_imports_run_one_way() -> None:
    floor = {part: i for i, parts in enumerate(FLOORS) for part in parts.split()}
    listed = {
        path.relative_to(SOURCE).parts[0].removesuffix(".ts") for path in SOURCE.rglob("*.ts")
    }
    assert listed == set(floor)
    pairs = {(one, other) for one, other in imports()}
    assert len(pairs) > 60
    parts = {(one.split("/")[0], other.split("/")[0]) for one, other in pairs}
    wrong = {(one, other) for one, other in parts if one != other and floor[one] <= floor[other]}
    assert wrong == set()
    left = {one for one, _ in pairs}
    while free := {one for one in left if not any(a == one and b in left for a, b in pairs)}:
        left -= free
    assert left == set(), "imports in a circle"


def test_architecture_lists_the_floors() -> None:
    text = page("architecture.md")
    items = re.match(r".*\n\n((?:\d+\. .*\n)+)", text[text.index("`layertap` for JavaScript:\n") :])
    assert items
    assert [" ".join(re.findall(r"`(\w+)`", line)) for line in items[1].splitlines()] == FLOORS


TYPES = """
import * as node from "onnxruntime-node"
import * as web from "onnxruntime-web"
import { type HeatMaps, type Layer, type Model, LayertapError, open, prepare } from "layertap"

type Images = [Uint8Array, ImageData, File, HTMLCanvasElement]

export async function use(...[bytes, image, file, canvas]: Images) {
  const model: Model = await open(node, "chest.onnx", { session: { executionProviders: ["cpu"] } })
  await open(web, new URL("https://example.com/chest.onnx"))
  const rows: readonly Layer[] = model.layers
  const { data, dims } = await model.activations(image, "conv1_relu")
  await model.activations({ a: new Float32Array(3), b: [image, file] }, ["conv*", /bn/, -1])
  await model.activations(canvas, { bn: "mean", "conv*": null, relu: "top5" })
  const target = ["cat", 3, "top"]
  const maps: HeatMaps = await model.cam(bytes, undefined, { method: "layercam", target })
  const preprocess = { size: [3, 4] } as const
  await model.gradients([file, image], "relu", { target: new Float32Array(3), preprocess })
  await model.predict(new node.Tensor("float32", new Float32Array(3), [1, 3]))
  await model.resume({ relu: { data, dims } }, -1)
  const prepared = await prepare({ size: [224, 224], scaling: { mode: "tf" } }, image)
  const failed = (await model.check()).failed.map((layer) => layer.name)
  // @ts-expect-error: no such reduction
  await model.activations(image, { bn: "median" })
  // @ts-expect-error: no such scaling
  await prepare({ scaling: { mode: "unit" } }, image)
  return [rows, data, maps.classes, prepared.height, failed, LayertapError]
}
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(bool(missing()), reason=missing() or "node")
def test_the_packed_package_can_be_installed_and_runs_its_example(tmp_path: Path) -> None:
    copy = tmp_path / "package"
    ignored = shutil.ignore_patterns("node_modules", "dist")
    shutil.copytree(PACKAGE, copy, ignore=ignored)
    (copy / "node_modules").symlink_to(MODULES)
    run("npm", "run", "build", cwd=copy)
    packed = json.loads(run("npm", "pack", "--json", cwd=copy))
    (about,) = packed if isinstance(packed, list) else packed.values()
    names = {file["path"] for file in about["files"]}
    assert {"package.json", "README.md", "dist/layertap.js", "dist/index.d.ts"} <= names
    assert not any(name.startswith(("src/", "node_modules/")) for name in names)
    user = tmp_path / "user"
    target = user / "node_modules" / "layertap"
    target.mkdir(parents=True)
    run("tar", "xf", copy / about["filename"], "--strip-components=1", "-C", target, cwd=tmp_path)
    for name in ("onnxruntime-node", "onnxruntime-web", "onnxruntime-common"):
        (user / "node_modules" / name).symlink_to(MODULES / name)
    (user / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    (user / "model.onnx").write_bytes(tiny.differentiable().SerializeToString())
    noise = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    Image.fromarray(noise).save(user / "image.png")
    (example,) = fenced((PACKAGE / "README.md").read_text(encoding="utf-8"), "js")
    (user / "example.js").write_text(example, encoding="utf-8")
    printed = run("node", "example.js", cwd=user).splitlines()
    assert printed[:2] == ["7 layers", "relu float32 [ 1, 8, 6, 4 ]"]
    best = int(layertap.open(user / "model.onnx").predict(noise)[0].argmax())
    assert printed[2:] == [
        f"class {('cat', 'dog', 'bird')[best]}",
        f"heat map [ 8, 6 ] of class {best}",
    ]
    (user / "use.ts").write_text(TYPES, encoding="utf-8")
    options = ["--noEmit", "--strict", "--module", "esnext", "--moduleResolution", "bundler"]
    options += ["--target", "es2022", "--lib", "es2023,dom", "--skipLibCheck", "--types", ""]
    run(MODULES / ".bin" / "tsc", *options, "use.ts", cwd=user)
