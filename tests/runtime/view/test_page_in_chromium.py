"""Pages in a real browser: what its scripts read equals Python, and the keyboard works."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import layertap
from browser import Browser, PageError, chromium
from generators import tiny
from layertap.format.card import KEY, Card
from web_pages import WebPage

HOSTILE = (
    "</script><img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"
)


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def model() -> layertap.Model:
    """Layers image, conv, relu, mixed, last, pool, probs, with gradients; cat, dog, bird."""
    return layertap.open(tiny.differentiable().SerializeToString())


@pytest.fixture(scope="module")
def page(model: layertap.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "a page.html"
    model.view(tiny.images(3), path)
    return path


@pytest.fixture
def opened(tab: Browser, page: Path) -> Iterator[Browser]:
    """The page; at the end nothing was requested, and no script has failed."""
    tab.console.clear()
    tab.requests.clear()
    tab.show(1200, 800)
    tab.open(page)
    yield tab
    assert tab.console == []
    assert {address.partition(":")[0] for address in tab.requests} <= {"file", "data", "about"}
    assert sum(address.startswith("file:") for address in tab.requests) >= 1


def numbers(values: Any) -> np.ndarray:
    """Numbers of JavaScript, which JSON has no NaN for."""
    return np.array([np.nan if one is None else one for one in values], np.float64)


READ = """layertap.values({name!r}, {sample}).then((found) => found.channels
    ? found.channels.map((one) => [one.index, one.smallest, one.largest, one.mean, ...one.values])
    : [...found.values])"""


def test_values_that_the_page_reads_are_those_of_python(
    opened: Browser, page: Path, model: layertap.Model
) -> None:
    stored = WebPage(page.read_bytes())
    images = tiny.images(3)
    for name in ("conv", "relu", "last"):
        expected = model.activations(images, name)
        for sample in (0, 2):
            channels, values, off = stored.maps(name, sample)
            found = opened.run(READ.format(name=name, sample=sample))
            assert [one[0] for one in found] == channels
            maps = np.moveaxis(expected[sample], -1, 0)[channels]
            for row, mine, whole, most in zip(found, values, maps, off, strict=True):
                np.testing.assert_allclose(numbers(row[4:]), mine.reshape(-1), rtol=0, atol=0)
                assert np.abs(numbers(row[4:]) - whole.reshape(-1)).max() <= most * (1 + 1e-9)
                assert row[1:3] == [float(whole.min()), float(whole.max())]
                assert row[3] == pytest.approx(float(whole.mean(dtype=np.float64)), rel=1e-6)
    vector = opened.run(READ.format(name="pool", sample=1))
    np.testing.assert_array_equal(numbers(vector), model.activations(images, "pool")[1])


def test_scores_and_heat_maps_are_those_of_python(opened: Browser, model: layertap.Model) -> None:
    images = tiny.images(3)
    scores = model.predict(images)
    for sample in range(3):
        found = opened.run(f"layertap.scores({sample})")
        order = np.argsort(-scores[sample], kind="stable")
        assert [one["index"] for one in found] == order.tolist()
        np.testing.assert_array_equal([one["score"] for one in found], scores[sample][order])
        assert found[0]["name"] == (model.labels or ())[order[0]]
    classes = opened.run("layertap.page.heat.classes")
    for method in ("gradcam", "layercam", "eigencam"):
        expected = model.cam(images, opened.run("layertap.page.heat.layer"), "top", method=method)
        for sample, best in enumerate(scores.argmax(axis=1)):
            target = classes.index(int(best))
            script = f"layertap.heatMap({method!r}, {target}, {sample}, [8, 6]).then((x) => [...x])"
            found = numbers(opened.run(script)).reshape(8, 6)
            np.testing.assert_allclose(found, expected[sample, 0], atol=2e-6)


def test_odd_numbers_and_shapes(tab: Browser, tmp_path: Path) -> None:
    """NaN, infinity, integers, strings, sequences and a constant are read as they are."""
    for name in ("odd_types", "frames", "two_inputs"):
        made = getattr(tiny, name)()
        path = tmp_path / f"{name}.html"
        layertap.open(made.SerializeToString()).view(tiny.feeds(made), path)
        tab.console.clear()
        tab.open(path)
        stored = WebPage(path.read_bytes())
        for index, row in enumerate(stored.data["layers"]):
            if "maps" in row:
                tab.run(f"layertap.values({index}).then((found) => found.kind)")
                tab.run(f"layertap.state.layer = {index}, layertap.state.view = 'layer', 0")
                tab.key("2")
                tab.wait_until("document.querySelector('h2') !== null")
        assert tab.console == []
    weird = layertap.open(tiny.image_classifier().SerializeToString())
    images = tiny.images(1)
    images[0, 0, 0, 0] = np.nan
    images[0, 1, 1, 1] = np.inf
    with pytest.warns(layertap.LayertapWarning, match="NaN"):
        weird.view(images, tmp_path / "nan.html", ["image", "conv"])
    tab.open(tmp_path / "nan.html")
    found = tab.run(READ.format(name="image", sample=0))
    maps = {one[0]: numbers(one[4:]).reshape(8, 6) for one in found}
    assert np.argwhere(np.isnan(maps[0])).tolist() == [[0, 0]]
    assert np.argwhere(np.isnan(maps[1])).tolist() == [[1, 1]]
    assert np.isfinite(maps[2]).all()


# --- People -------------------------------------------------------------------------------------


def text(tab: Browser, selector: str) -> str:
    return str(tab.run(f"document.querySelector({selector!r})?.textContent ?? ''"))


def test_the_overview_shows_all_samples_with_their_scores(opened: Browser) -> None:
    opened.wait_until("document.querySelectorAll('.card .scores li').length === 9")
    assert opened.run("document.querySelectorAll('.card canvas').length") == 3
    drawn = "document.querySelector('.card canvas').toDataURL()"
    empty = "document.createElement('canvas').toDataURL()"
    opened.wait_until(f"{drawn} !== {empty}")
    opened.run(f"globalThis.before = {drawn}")
    opened.run(
        "(() => { const s = document.querySelector('.controls select'); s.value = '';"
        " s.dispatchEvent(new Event('change')) })()"
    )
    opened.wait_until(f"{drawn} !== before")


def test_the_keyboard_reaches_everything(opened: Browser) -> None:
    opened.key("/")
    assert opened.run("document.activeElement.id") == "search"
    for letter in "reLU":
        opened.key(letter)
    found = "[...document.querySelectorAll('[role=treeitem] .name')].map((x) => x.textContent)"
    assert opened.run(found) == ["relu", "last"]  # whose class is ReLU
    opened.key("Enter")
    opened.wait_until("document.querySelector('main h2')?.textContent === 'relu'")
    opened.key("Escape")
    assert len(opened.run(found)) == 7
    opened.key("ArrowDown")
    opened.wait_until("document.querySelector('main h2')?.textContent === 'mixed'")
    opened.key("ArrowUp")
    opened.key("ArrowUp")
    opened.wait_until("document.querySelector('main h2')?.textContent === 'conv'")
    opened.run("document.activeElement.blur()")
    opened.key("ArrowRight")
    chosen = "[...document.querySelectorAll('.chip')].findIndex((x) => x.ariaPressed === 'true')"
    opened.wait_until(f"{chosen} === 2")  # the first is for all samples
    opened.run("document.querySelector('.tile').focus()")
    opened.key("Enter")
    opened.wait_until("document.getElementById('zoom').open")
    first = text(opened, "#zoom h2")
    opened.key("ArrowRight")
    assert text(opened, "#zoom h2") != first
    opened.key("ArrowLeft")
    assert text(opened, "#zoom h2") == first
    opened.key("Escape")
    opened.wait_until("!document.getElementById('zoom').open")
    for key, name in zip("1234", ("overview", "layer", "verification", "file"), strict=True):
        opened.key(key)
        assert opened.run("layertap.state.view") == name
    opened.key("?")
    assert opened.run("document.getElementById('help').open")


def test_a_view_is_in_the_address(tab: Browser, page: Path) -> None:
    tab.open(page, "#view=layer&layer=last&sample=1")
    tab.wait_until("document.querySelector('main h2')?.textContent === 'last'")
    assert tab.run("layertap.state.sample") == 1
    tab.open(page, "#view=nonsense&layer=gone&sample=99")
    assert tab.run("[layertap.state.view, layertap.state.sample]") == ["overview", 0]


def test_all_samples_side_by_side_have_the_same_channels(opened: Browser) -> None:
    opened.run("layertap.state.all = true, 0")
    opened.key("2")
    opened.wait_until("document.querySelectorAll('.rows tbody tr').length")
    rows = opened.run("""[...document.querySelectorAll('.rows tbody tr')].map((row) =>
        [...row.querySelectorAll('th, b')].map((x) => x.textContent))""")
    assert all(len(row) == 4 and len({*row}) == 1 for row in rows)


def test_controls_have_names_and_nothing_is_cut_off(opened: Browser) -> None:
    for width, phone in ((1200, False), (800, False), (375, True)):
        opened.show(width, 800, phone=phone)
        for key in "1234":
            opened.key(key)
            opened.wait_until("document.querySelector('main').children.length")
            assert opened.run("document.documentElement.scrollWidth") <= width
            wide = "[...document.querySelectorAll('main > *')].filter((x) => x.scrollWidth > x.clientWidth + 1 && getComputedStyle(x).overflowX === 'visible').length"  # noqa: E501
            assert opened.run(wide) == 0
            nameless = """[...document.querySelectorAll('button, select, input, [role=treeitem]')]
                .filter((x) => !(x.textContent.trim() || x.ariaLabel || x.labels?.length)).length"""
            assert opened.run(nameless) == 0


def test_on_a_phone_the_layers_are_in_a_drawer(opened: Browser) -> None:
    opened.show(375, 700, phone=True)
    visible = "getComputedStyle(document.getElementById('side')).visibility"
    assert opened.run(visible) == "hidden"
    opened.run("document.getElementById('drawer').click()")
    assert opened.run(visible) == "visible"
    opened.run("document.querySelector('[role=treeitem]:nth-child(3)').click()")
    opened.wait_until("document.querySelector('main h2')?.textContent === 'relu'")
    opened.wait_until(f"{visible} === 'hidden'")


def test_what_a_file_says_is_text(tab: Browser, tmp_path: Path) -> None:
    made = tiny.image_classifier()
    (item,) = [item for item in made.metadata_props if item.key == KEY]
    card = Card.from_json(item.value)
    rows = tuple(replace(row, name=f"{row.name}{HOSTILE}", inbound=()) for row in card.layers)
    item.value = replace(
        card,
        layers=rows,
        labels=(HOSTILE, f"b{HOSTILE}"),
        notes=(HOSTILE,),
        source=replace(card.source, model=HOSTILE),
    ).to_json()
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (6, 8)).save(folder / '<img src=x onerror="document.title=1">.png')
    layertap.open(made.SerializeToString()).view(folder, tmp_path / "a.html")
    tab.console.clear()
    tab.open(tmp_path / "a.html")
    for key in "1234":
        tab.key(key)
        tab.wait_until("document.querySelector('main').children.length")
    assert tab.run("document.title") == f"{HOSTILE} - layertap"
    assert tab.run("document.querySelectorAll('img[src=x], img[onerror]').length") == 0
    assert text(tab, "h1") == HOSTILE
    assert tab.console == []


def test_a_script_that_is_put_in_does_not_run(tab: Browser, page: Path, tmp_path: Path) -> None:
    """The policy stops it, and says so in the console; so this test sees errors."""
    text = page.read_text(encoding="utf-8")
    put = text.replace("<noscript>", "<script>document.title = 'run'</script><noscript>")
    (tmp_path / "b.html").write_text(put, encoding="utf-8")
    tab.console.clear()
    tab.open(tmp_path / "b.html")
    assert tab.run("document.title") != "run"
    assert any("Content Security Policy" in line for line in tab.console)
    with pytest.raises(PageError, match="Trusted"):
        tab.run("document.body.innerHTML = 'x'")
    tab.console.clear()
    sent = "fetch('https://example.org').then(() => 'reached', () => 'refused')"
    assert tab.run(sent) == "refused"
    assert any("violates" in line for line in tab.console)
