"""docs/recipes.md: its blocks run, one by one, and find what is true.

The collection is that of the page, with one broken image, and with a network of random weights,
which has the same layers and needs no training. `slow` runs the page's own commands.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap
from generators import tiny
from pages import fenced, page, section
from shell import fresh
from shell import layertap as command

PAGE = page("recipes.md")
BROKEN = "5_broken.png"
LAYERS = {"average": (96,), "stem_relu": (32,), "pool": (4, 4, 32)}


def commands() -> list[list[str]]:
    """The three commands that make the collection, without `layertap`."""
    lines = fenced(PAGE[: PAGE.index("\n## ")], "sh")[0].splitlines()
    return [shlex.split(line)[1:] for line in lines]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the commands of the page were given."""
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("recipes")
    samples, export, extract = commands()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert command(*samples).code == 0
        tiny.save(tiny.digits(), Path(export[export.index("-o") + 1]))
        Path("digits/images", BROKEN).write_bytes(b"\x89PNG")
        assert command(*extract, "--quiet").code == 1
    return folder


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(made: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the blocks of a section, each on its own, and gives the names that they define."""
    monkeypatch.chdir(made)

    def run(heading: str, number: int = 0) -> dict[str, Any]:
        names: dict[str, Any] = {"__name__": "recipe"}
        with contextlib.redirect_stdout(io.StringIO()):
            exec(fenced(section(PAGE, heading), "python")[number], names)
        return names

    return run


@pytest.fixture(scope="module")
def f(made: Path) -> layertap.Features:
    return layertap.features(made / "digits" / "features")


@pytest.fixture(scope="module")
def x(f: layertap.Features) -> Any:
    """The vectors of the images that could be read, of length 1, in float64."""
    found = np.asarray(f["average"][f.ok], np.float64)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def digits(f: layertap.Features) -> Any:
    return np.array([name[0] for name in f.ids])[f.ok]


def nearest(x: Any, query: int) -> list[int]:
    """The five others with the smallest angle, by the definition."""
    angles = np.arccos(np.clip([np.dot(x[query], one) for one in x], -1, 1))
    return [int(at) for at in np.argsort(angles) if at != query][:5]


def test_the_collection_is_what_the_page_says(f: layertap.Features) -> None:
    assert {key: f.column(key).shape for key in f} == LAYERS
    assert [f.ids[row] for row in f.errors] == [BROKEN]
    assert f.ok.sum() == 300
    for key, shape in LAYERS.items():
        assert f"`{(300, *shape)}`" in PAGE.replace("\n", " "), key


def test_every_block_is_complete() -> None:
    blocks = fenced(PAGE, "python")
    assert len(blocks) >= 9
    for block in blocks:
        assert "import layertap\n" in block
        assert 'f = layertap.features("digits/features")\n' in block
        compile(block, "recipes.md", "exec")


def test_neighbours_are_those_of_the_angles(run: Run, f: layertap.Features, x: Any) -> None:
    names = run("Nearest neighbours")
    assert names["nearest"].tolist() == nearest(x, names["query"])
    assert f.ids[names["rows"][-1]] == f.ids[300]  # a row, not a place among the good ones
    every = run("Nearest neighbours", 1)["neighbours"]
    assert every.shape == (300, 5)
    good = np.flatnonzero(f.ok)
    same = [every[at].tolist() == good[nearest(x, at)].tolist() for at in range(300)]
    assert np.mean(same) > 0.99  # float32: two may be equally near


def test_the_probe_is_better_than_chance(run: Run, digits: Any) -> None:
    accuracy = run("Linear probe")["accuracy"]
    chance = np.unique(digits, return_counts=True)[1].max() / len(digits)
    assert accuracy.keys() == LAYERS.keys()
    assert min(accuracy.values()) > 3 * chance
    assert accuracy["pool"] > 0.85  # it keeps where the ink is


def test_rsa_is_that_of_scipy(run: Run, f: layertap.Features) -> None:
    from scipy.spatial.distance import pdist
    from scipy.stats import rankdata, spearmanr

    names = run("Representational similarity (RSA)")
    rsa, ranks, x = names["rsa"], names["ranks"], names["x"]
    average = np.asarray(f["average"][f.ok], np.float64)
    pool = np.asarray(f["pool"][f.ok], np.float64).reshape(300, -1)
    expected = spearmanr(pdist(average, "correlation"), pdist(pool, "correlation"))
    assert names["similarity"] == pytest.approx(expected.statistic, abs=1e-9)
    assert 0.1 < names["similarity"] < 1
    values = np.random.default_rng(0).integers(0, 20, 500)
    np.testing.assert_array_equal(ranks(values), rankdata(values))
    assert rsa(x, x) == pytest.approx(1)
    assert rsa(x, 3 * x + 2) == pytest.approx(1)


def rotation(size: int) -> Any:
    return np.linalg.qr(np.random.default_rng(1).standard_normal((size, size)))[0]


def test_cka_is_invariant_to_rotation_and_scale_and_to_nothing_else(run: Run) -> None:
    names = run("Centred kernel alignment (CKA)")
    cka, layers, table = names["cka"], names["layers"], names["table"]
    np.testing.assert_allclose(np.diag(table), 1)
    np.testing.assert_allclose(table, table.T)
    assert (table > 0).all()
    x, y = layers["average"], layers["stem_relu"]
    known = cka(x, y)
    assert known < 0.99
    assert cka(x @ rotation(96) * 7 + 3, y) == pytest.approx(known)
    assert cka(x, y @ rotation(32)) == pytest.approx(known)
    assert abs(cka(x * np.arange(1, 97), y) - known) > 1e-3
    # The HSIC of Gretton et al. with linear kernels, by centring matrices: the definition.
    centre = np.eye(300) - 1 / 300
    k, m = x @ x.T, y @ y.T

    def hsic(a: Any, b: Any) -> float:
        return float(np.trace(a @ centre @ b @ centre))

    assert known == pytest.approx(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)))


def test_cka_is_one_number_for_few_and_for_many_images(run: Run) -> None:
    """Where rows are longer than there are images, other matrices are multiplied."""
    cka = run("Centred kernel alignment (CKA)")["cka"]
    draw = np.random.default_rng(0).standard_normal
    x, y = draw((40, 60)), draw((40, 5))
    narrow = np.linalg.qr(x.T)[1].T  # (40, 40), of the same inner products
    np.testing.assert_allclose(narrow @ narrow.T, x @ x.T, atol=1e-9)
    assert cka(x, y) == pytest.approx(cka(narrow, y))
    assert cka(draw((50, 1000)), draw((50, 1000))) > 0.9  # as the page warns
    assert cka(draw((5000, 10)), draw((5000, 10))) < 0.05


def test_duckdb_finds_the_neighbours_of_numpy(run: Run, f: layertap.Features, x: Any) -> None:
    pytest.importorskip("duckdb", reason="needs duckdb")
    pytest.importorskip("pyarrow", reason="needs the extra `tables`")
    names = run("DuckDB")
    good = np.flatnonzero(f.ok)
    found = nearest(x, int(np.searchsorted(good, 7)))
    assert [name for name, _ in names["nearest"]] == [f.ids[good[at]] for at in found]
    similar = [similarity for _, similarity in names["nearest"]]
    np.testing.assert_allclose(similar, [x[7] @ x[at] for at in found], rtol=1e-5)
    assert names["twice"] == []


def test_duckdb_finds_images_that_are_there_twice(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("duckdb", reason="needs duckdb")
    pytest.importorskip("pyarrow", reason="needs the extra `tables`")
    images = tmp_path / "digits" / "images"
    images.mkdir(parents=True)
    for image in list((made / "digits" / "images").iterdir())[:9]:
        shutil.copy(image, images)
    first = min(path.name for path in images.iterdir() if path.name != BROKEN)
    shutil.copy(images / first, images / "again.png")
    for name in ("broken1.png", "broken2.png"):  # the same bytes, and no image
        (images / name).write_bytes(b"nothing")
    model = layertap.open(made / "digits" / "digits.onnx")
    model.extract(images, ["average"], tmp_path / "digits" / "features")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(fenced(section(PAGE, "DuckDB"), "python")[0], names)
    assert [sorted(ids) for (ids,) in names["twice"]] == [sorted([first, "again.png"])]


def test_polars_counts_and_reads_what_numpy_does(
    run: Run, f: layertap.Features, digits: Any
) -> None:
    pytest.importorskip("polars", reason="needs polars")
    pytest.importorskip("pyarrow", reason="needs the extra `tables`")
    names = run("Polars")
    np.testing.assert_array_equal(names["x"], f["average"][f.ok])
    peaks = np.asarray(f["average"][f.ok], np.float64).max(axis=1)
    for digit, images, peak in names["counts"].iter_rows():
        assert images == (digits == digit).sum()
        assert peak == pytest.approx(peaks[digits == digit].mean(), rel=1e-5)
    assert len(names["counts"]) == 10


def test_the_file_for_embedding_atlas(run: Run, made: Path, f: layertap.Features) -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra `tables`")
    run("Embedding Atlas")
    (line,) = fenced(section(PAGE, "Embedding Atlas"), "sh")
    program, path, *options = shlex.split(line)
    assert program == "embedding-atlas"
    read = pandas.read_parquet(made / path)  # as the program does
    asked = dict(zip(options[::2], options[1::2], strict=True))
    np.testing.assert_array_equal(np.stack(read[asked["--vector"]]), f["average"][f.ok])
    assert (read["digit"] == read["id"].str[0]).all()
    image = read[asked["--image"]][3]
    assert image["bytes"] == (made / "digits" / "images" / read["id"][3]).read_bytes()
    assert len(parquet.read_table(made / path)) == 300


@pytest.mark.skipif(find_spec("embedding_atlas") is None, reason="needs embedding-atlas")
def test_embedding_atlas_has_the_options() -> None:
    cli: Any = importlib.import_module("embedding_atlas.cli")
    options = {name for parameter in cli.main.params for name in parameter.opts}
    (line,) = fenced(section(PAGE, "Embedding Atlas"), "sh")
    assert set(re.findall(r"--\w+", line)) <= options


def test_fiftyone_shows_the_points(run: Run) -> None:
    pytest.importorskip("fiftyone", reason="needs fiftyone and its database")
    names = run("FiftyOne")
    assert len(names["dataset"]) == 300
    assert names["dataset"].load_brain_results("average").points.shape == (300, 2)


def test_the_torch_data_set_gives_the_rows(run: Run, f: layertap.Features) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    names = run("A torch data set")
    assert tuple(names["batch"].shape) == (32, 4, 4, 32)
    rows = names["Activations"](f.path, "pool")
    loader = torch.utils.data.DataLoader(rows, batch_size=64)
    read = np.concatenate([batch.numpy() for batch in loader])
    np.testing.assert_array_equal(read, f["pool"][f.ok])


def test_the_torch_data_set_without_torch(
    run: Run, f: layertap.Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but the loader, which is torch's own."""
    if find_spec("torch") is not None:
        pytest.skip("torch itself is here")
    from types import SimpleNamespace

    def loader(rows: Any, batch_size: int, shuffle: bool) -> list[Any]:
        del shuffle
        return [np.stack([rows[at] for at in range(batch_size)])]

    utils = SimpleNamespace(data=SimpleNamespace(Dataset=object, DataLoader=loader))
    fake = SimpleNamespace(utils=utils, from_numpy=np.asarray)
    monkeypatch.setitem(sys.modules, "torch", fake)
    names = run("A torch data set")
    np.testing.assert_array_equal(names["batch"], np.asarray(f["pool"][f.ok])[:32])
    rows = names["Activations"](f.path, "pool")
    assert len(rows) == 300
    np.testing.assert_array_equal(rows[299], f["pool"][np.flatnonzero(f.ok)[299]])


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_commands_of_the_page_make_the_collection(tmp_path: Path) -> None:
    for arguments in commands():
        done = fresh(*arguments, cwd=tmp_path)
        assert done.code == 0, done.err
    found = layertap.features(tmp_path / "digits" / "features")
    assert {key: found.column(key).shape for key in found} == LAYERS
    assert found.ok.all()
