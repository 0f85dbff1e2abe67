"""Pages with the model inside: how they are made, and in Chromium that they compute as Python."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import layertap as api
from browser import Browser, chromium
from generators import tiny
from layertap.errors import DependencyError, UsageError
from layertap.view import live
from layertap.view.engine import CLIENT, PLACES, RUNTIME, WASM, as_global, find_engine
from layertap_export import add_gradients
from shell import layertap
from web_pages import WebPage

RECIPE = {"size": [8, 6], "scaling": {"mode": "rescale", "scale": 1 / 255}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """With gradients, and classes cat, dog, bird."""
    return tiny.save(tiny.differentiable(), tmp_path / "model.onnx")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def engine_in(folder: Path, place: int = 0) -> Path:
    """A folder with files in the place of an engine."""
    contents = {
        RUNTIME: "const a = 1;export{a as InferenceSession,a as default};\n//# sourceMappingURL=x",
        CLIENT: "const b = 2;export{b as open};",
        WASM: "wasm",
    }
    for name, places in PLACES.items():
        path = folder / places[min(place, len(places) - 1)] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contents[name], encoding="utf-8")
    return folder


# --- How a page is made -------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(4))
def test_the_engine_is_found_where_npm_puts_it(tmp_path: Path, place: int) -> None:
    found = find_engine(engine_in(tmp_path, place))
    assert found.wasm == b"wasm"
    assert "globalThis.onnxruntime={InferenceSession:a,default:a}" in found.scripts[0]
    assert "globalThis.layertapClient={open:b}" in found.scripts[1]
    assert not any("export" in script or "sourceMapping" in script for script in found.scripts)


def test_the_variable_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERTAP_ENGINE", str(engine_in(tmp_path)))
    assert find_engine(None).wasm == b"wasm"


def test_a_missing_engine_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    monkeypatch.setenv("LAYERTAP_ENGINE", str(tmp_path / "gone"))
    with pytest.raises(DependencyError) as caught:
        find_engine(None)
    assert f"are not in {str(tmp_path / 'gone')!r}" in str(caught.value)
    assert "`make javascript`" in str(caught.value)
    assert "LAYERTAP_ENGINE" in str(caught.value)
    (engine_in(tmp_path) / WASM).unlink()
    done = layertap("view", file, "--live", "--engine", tmp_path, "-o", tmp_path / "a.html")
    assert done.code == 2
    assert f"is not complete: there is no {WASM}" in done.err
    assert not (tmp_path / "a.html").exists()


@pytest.mark.parametrize("text", ["const a = 1", "'</SCRIPT>';export{a}", "'<!--';export{a}"])
def test_modules_that_a_page_cannot_contain(text: str) -> None:
    with pytest.raises(DependencyError, match="cannot be put into a page"):
        as_global(text, "x", "x.mjs")


def test_the_page_has_model_engine_and_policy(file: Path, image: Path, tmp_path: Path) -> None:
    engine, page = engine_in(tmp_path / "engine"), tmp_path / "a.html"
    recipe = tmp_path / "recipe.json"
    recipe.write_text(str(RECIPE).replace("'", '"'), encoding="utf-8")
    given: list[str | Path] = ["--live", "--engine", engine, "--preprocess", recipe, "-o", page]
    done = layertap("view", file, image, *given)
    assert (done.code, done.out) == (0, "")
    assert done.err.endswith("MB): 1 image, 7 layers, live\n")
    found = WebPage(page.read_bytes())
    scripts = {str(attributes.get("id")): text for attributes, text in found.scripts}
    assert base64.b64decode(scripts["model"]) == file.read_bytes()
    assert zlib.decompress(base64.b64decode(scripts["wasm"])) == b"wasm"
    (policy,) = [kept["content"] for _, kept in found.tags if kept.get("http-equiv")]
    assert policy is not None
    assert policy.count("'sha256-") == 4
    assert "'wasm-unsafe-eval'" in policy
    assert "default-src 'none'" in policy
    (sample,) = found.data["samples"]
    values = np.frombuffer(found.blocks[sample["input"]], "<f4").reshape(sample["dims"])
    np.testing.assert_array_equal(values[0], api.Preprocessing.from_dict(RECIPE)(image))
    assert found.data["heat"]["classes"] == [0, 1, 2]
    api.open(file).view(image, tmp_path / "b.html", live=True, engine=engine, preprocess=RECIPE)
    assert (tmp_path / "b.html").read_bytes() == page.read_bytes()


@pytest.mark.parametrize(("score", "classes"), [("relu:1", 1), ("relu", 4)])
def test_a_layer_as_the_score(
    score: str, classes: int, file: Path, tmp_path: Path, image: Path
) -> None:
    """Its channels take the place of the classes, and have no labels."""
    plain = tiny.save(tiny.image_classifier(), tmp_path / "plain.onnx")
    scored = tmp_path / "scored.onnx"
    add_gradients(plain, scored, "conv", score=score)
    page = tmp_path / "a.html"
    model = api.open(scored)
    model.view(image, page, live=True, engine=engine_in(tmp_path / "e"), preprocess=RECIPE)
    heat = WebPage(page.read_bytes()).data["heat"]
    assert heat["classes"] == list(range(classes))


def test_what_cannot_be_live(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: Path
) -> None:
    engine = engine_in(tmp_path / "engine")
    options: dict[str, Any] = {"live": True, "engine": engine}
    page = tmp_path / "a.html"
    plain = api.open(tiny.image_classifier(preprocessing=False).SerializeToString())
    with pytest.raises(UsageError, match="does not say how a picture becomes its input"):
        plain.view(None, page, **options)
    vectors = api.open(tiny.linear_chain().SerializeToString())
    with pytest.raises(UsageError, match=r"takes pictures, but the inputs of .* are x \(None, 4\)"):
        vectors.view(None, page, **options, preprocess=RECIPE)
    monkeypatch.setattr(live, "MOST_BYTES", 100)
    with pytest.raises(UsageError, match=r"has 0 MB; a page can hold a model of at most"):
        api.open(file).view(None, page, **options, preprocess=RECIPE)
    with pytest.raises(UsageError, match="live=True"):
        api.open(file).view(None, page, engine=engine)
    assert not page.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--live", "--layers", "relu"], "--layers chooses values"),
        (["--live", "--methods", "gradcam"], "--methods chooses values"),
        (["--engine", "."], "give --live, too"),
    ],
)
def test_options_that_exclude_each_other(file: Path, options: list[str], words: str) -> None:
    done = layertap("view", file, *options, "-o", file.parent / "a.html")
    assert done.code == 2
    assert words in done.err


# --- In Chromium ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def live_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With gradients, and a recipe in its card."""
    return tiny.save(tiny.differentiable(), tmp_path_factory.mktemp("live") / "model.onnx")


@pytest.fixture(scope="module")
def tab(live_file: Path) -> Iterator[Browser]:
    """A live page that is ready."""
    page = live_file.parent / "page.html"
    try:
        engine = find_engine(None)
    except DependencyError as exc:
        pytest.skip(f"needs the engine: {exc}")
    assert engine.wasm
    api.open(live_file).view(None, page, live=True)
    camera = "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"
    with chromium(*camera) as browser:
        browser.show(1200, 800)
        browser.open(page)
        browser.wait_until("layertap.readyAfter", 60)
        yield browser


def drop(tab: Browser, *files: Path) -> None:
    """Drop files on the page."""
    parts = [[file.name, base64.b64encode(file.read_bytes()).decode()] for file in files]
    tab.run(
        "(() => { const data = new DataTransfer();"
        f"for (const [name, text] of {json.dumps(parts)}) data.items.add("
        "new File([Uint8Array.from(atob(text), (x) => x.charCodeAt(0))], name));"
        "document.dispatchEvent(new DragEvent('drop', {dataTransfer: data, cancelable: true}))"
        "})()"
    )


def test_a_dropped_picture_is_run_as_in_python(tab: Browser, live_file: Path, image: Path) -> None:
    tab.console.clear()
    before = int(tab.run("layertap.page.samples.length"))
    drop(tab, image)
    tab.wait_until(f"layertap.page.samples.length === {before + 1}")
    model = api.open(live_file)
    expected = model.predict(image)[0]
    scores = tab.run(f"layertap.scores({before})")
    for one in scores:
        assert one["score"] == pytest.approx(float(expected[one["index"]]), abs=2e-6)
    assert [one["index"] for one in scores] == np.argsort(-expected, kind="stable").tolist()
    for name in ("conv", "relu", "last"):
        maps = np.moveaxis(model.activations(image, name)[0], -1, 0)
        script = f"layertap.values({name!r}, {before}).then((x) => x.channels.map("
        found = tab.run(f"{script}(one) => [one.index, ...one.values]))")
        strength = np.abs(maps).mean(axis=(1, 2))
        assert [one[0] for one in found] == np.argsort(-strength, kind="stable").tolist()
        for one in found:
            np.testing.assert_allclose(one[1:], maps[one[0]].reshape(-1), atol=2e-6)
    pool = tab.run(f"layertap.values('pool', {before}).then((x) => [...x.values])")
    np.testing.assert_allclose(pool, model.activations(image, "pool")[0], atol=2e-6)
    for method in ("gradcam", "layercam", "eigencam"):
        heat = tab.run(f"layertap.heatMap({method!r}, 1, {before}, [8, 6]).then((x) => [...x])")
        target = "top" if method == "eigencam" else 1
        wanted = model.cam(image, tab.run("layertap.page.heat.layer"), target, method=method)
        np.testing.assert_allclose(heat, wanted.reshape(-1), atol=2e-5)
    assert tab.console == []
    assert {one.partition(":")[0] for one in tab.requests} <= {"file", "data", "about", "blob"}


def test_a_file_that_is_no_picture_is_named(tab: Browser, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    tab.run("layertap.state.view = 'overview', 0")
    before = tab.run("layertap.page.samples.length")
    drop(tab, tmp_path / "bad.png")
    notice = "document.querySelector('.notice.warn')?.textContent"
    tab.wait_until(f"{notice}?.startsWith('bad.png: ')")
    assert tab.run("layertap.page.samples.length") == before


def test_the_camera_gives_a_picture(tab: Browser) -> None:
    tab.key("1")
    before = tab.run("layertap.page.samples.length")
    buttons = "[...document.querySelectorAll('button')]"

    def press(text: str) -> None:
        tab.run(f"{buttons}.find((x) => x.textContent === {text!r}).click()")

    press("Camera")
    tab.wait_until("document.querySelector('video')?.videoWidth")
    press("Take the picture")
    tab.wait_until(f"layertap.page.samples.length === {before + 1}")
    assert str(tab.run("layertap.page.samples.at(-1).name")).startswith("camera")
    assert tab.run("layertap.scores(layertap.page.samples.length - 1).then((x) => x.length)") == 3
    press("Remove all")
    assert tab.run("layertap.page.samples.length") == 0
