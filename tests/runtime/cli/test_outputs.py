"""What commands write: never over an input, never read again, in the folders of the images."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import layertap as api
from generators import tiny
from layertap.cli.image_output import OutputFiles, _mirrored, remove_own
from layertap.errors import LayertapWarning, OutputError, UsageError
from layertap.extract.images import find_images
from layertap.extract.moments import collection_statistics
from layertap.images.own_pictures import kind_of_own, mark
from shell import layertap

TinyFile = Callable[[str], Path]
posix = pytest.mark.skipif(os.name != "posix", reason="needs links")


def listing(folder: Path | str) -> list[str]:
    """All files below a folder."""
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def everything() -> dict[str, bytes]:
    return {name: Path(name).read_bytes() for name in listing(".")}


@pytest.fixture
def file(pictures: Path) -> Path:
    """`m.onnx` in the current folder, next to the folder of pictures."""
    return tiny.save(tiny.differentiable(), pictures.parent / "m.onnx")


# --- An output is never an input ----------------------------------------------------------------


@posix
@pytest.mark.usefixtures("file")
@pytest.mark.parametrize("name", ["m.onnx", "./m.onnx", "link.onnx", "hard.onnx", "dir/m.onnx"])
def test_cut_does_not_replace_its_input(name: str) -> None:
    Path("link.onnx").symlink_to("m.onnx")
    os.link("m.onnx", "hard.onnx")
    Path("dir").symlink_to(".", target_is_directory=True)
    before = everything()
    done = layertap("cut", "m.onnx", "--to", "last", "-o", name)
    assert done.code == 2
    assert "'m.onnx'" in done.err
    assert "is an input, and writing the output would destroy it." in done.err
    with pytest.raises(OutputError, match="is an input"):
        api.open("m.onnx").cut(name, end="last")
    assert everything() == before


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize(
    "argv",
    [
        "run m.onnx batch.npz -o batch.npz",
        "run m.onnx batch.npz -o ./batch.npz",
        "stats s.json pictures -o s.json --size 8",
        "cut m.onnx --to last -o m.onnx",
    ],
)
def test_no_command_replaces_its_input(argv: str) -> None:
    np.savez("batch.npz", image=tiny.images())
    shutil.copy("pictures/a.png", "s.json")
    before = everything()
    done = layertap(*argv.split())
    assert (done.code, done.out) == (2, "")
    assert "is an input, and writing the output would destroy it." in done.err
    assert everything() == before


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize(
    ("argv", "suffix"),
    [
        ("cut m.onnx --to last -o part.txt", ".onnx"),
        ("cut m.onnx --to last -o part", ".onnx"),
        ("run m.onnx pictures -o x.png", ".npz, .npy or .csv"),
        ("run m.onnx pictures -o x", ".npz, .npy or .csv"),
        ("stats pictures --size 8 -o x.onnx", ".json"),
        ("stats pictures/a.png --size 8 -o pictures/a.png", ".json"),
    ],
)
def test_another_suffix_is_refused(argv: str, suffix: str) -> None:
    before = everything()
    name = argv.split()[-1]
    message = f"layertap: the name of the output must end in {suffix}, got {name!r}.\n"
    assert layertap(*argv.split()) == (2, "", message)
    assert everything() == before


def test_a_cut_without_ends_is_refused(file: Path, tmp_path: Path) -> None:
    done = layertap("cut", "m.onnx", "-o", "part.onnx")
    assert done.code == 2
    assert "give --to, --from or both: without them the part would be the whole model." in done.err
    with pytest.raises(UsageError, match="give start, end or both"):
        api.open(file).cut(tmp_path / "part.onnx")
    assert not Path("part.onnx").exists()


@posix
@pytest.mark.usefixtures("file")
def test_a_heat_map_does_not_replace_an_image() -> None:
    Path("out").mkdir()
    os.link("pictures/a.png", "out/b.cam.png")
    before = everything()
    done = layertap("cam", "m.onnx", "pictures/a.png", "pictures/b.png", "-o", "out")
    assert done.code == 2
    assert "is one of the images, and writing the output would destroy it." in done.err
    after = everything()
    assert {name: after[name] for name in before} == before


# --- Own pictures are not read as images --------------------------------------------------------


@pytest.mark.usefixtures("file")
def test_a_second_run_reads_the_same_images() -> None:
    for source, folder in ((".", "heat"), (".", "heat"), ("pictures", "pictures"), (".", ".")):
        done = layertap("cam", "m.onnx", source, "-o", folder)
        assert done.code == 0
        report = json.loads(Path(folder, "cam.json").read_text(encoding="utf-8"))
        assert [item["image"] for item in report["images"]] == [
            f"pictures/{letter}.png" for letter in "abcde"
        ]
        done = layertap("run", "m.onnx", ".", "--layers", "last", "--sheet", "sheets")
        assert done.code == 0
        assert len(listing("sheets")) == 5
    assert "sheets/pictures/a.last.png" in done.err
    done = layertap("run", "m.onnx", ".", "-o", "out.npz")
    assert done.code == 0
    assert "left out, because layertap wrote them." in done.err
    with np.load("out.npz") as found:
        assert found["layertap.files"].tolist() == [f"pictures/{name}.png" for name in "abcde"]


@pytest.mark.usefixtures("file")
def test_own_pictures_that_are_named_are_refused() -> None:
    assert layertap("cam", "m.onnx", "pictures/a.png", "-o", "heat").code == 0
    done = layertap("cam", "m.onnx", "heat/a.cam.png", "pictures/b.png", "-o", "again")
    assert done.code == 1
    assert (
        "layertap: heat/a.cam.png: layertap wrote this picture (cam), so it is not read as an "
        "image. Give the image that it was made from.\n"
    ) in done.err
    assert listing("again") == ["cam.json", "pictures/b.cam.npy", "pictures/b.cam.png"]
    found = collection_statistics(["heat/a.cam.png", "pictures/a.png"], size=(8, 8))
    assert found.files == ("pictures/a.png",)
    assert "layertap wrote this picture" in found.failures["heat/a.cam.png"]


@pytest.mark.usefixtures("file")
def test_a_collection_leaves_them_out_and_says_so() -> None:
    assert layertap("cam", "m.onnx", "pictures/a.png", "-o", "pictures/heat").code == 0
    with pytest.warns(LayertapWarning) as caught:
        found = find_images("pictures")
    assert found == [f"pictures/{letter}.png" for letter in "abcde"]
    assert [str(item.message) for item in caught] == [
        "pictures/heat/a.cam.png: left out, because layertap wrote it."
    ]


def test_images_in_the_output_folder_are_left_out(pictures: Path) -> None:
    Path("out").mkdir()
    shutil.copy("pictures/a.png", "out/mine.png")
    assert find_images(".", "elsewhere") == ["out/mine.png", *_letters()]
    with pytest.warns(LayertapWarning) as caught:
        assert find_images(".", "out") == _letters()
    assert [str(item.message) for item in caught] == [
        "out/mine.png: left out, because 'out' is the output folder."
    ]
    assert find_images("out", "out") == find_images("out", "pictures") == ["out/mine.png"]
    assert len(find_images("pictures", ".")) == len(_letters())


def _letters() -> list[str]:
    return [f"pictures/{letter}.png" for letter in "abcde"]


def test_the_mark_is_read_from_the_start_of_the_file(tmp_path: Path) -> None:
    picture = Image.new("RGB", (600, 400), (1, 2, 3))
    picture.save(tmp_path / "own.png", pnginfo=mark("sheet"))
    picture.save(tmp_path / "other.png")
    assert kind_of_own(tmp_path / "own.png") == "sheet"
    assert Image.open(tmp_path / "own.png").text["Software"] == "layertap"  # type: ignore[attr-defined]
    data = (tmp_path / "own.png").read_bytes()
    for size in (0, 7, 8, 20, 40):
        (tmp_path / "cut.png").write_bytes(data[:size])
        assert kind_of_own(tmp_path / "cut.png") is None
    for name in ("other.png", "gone.png", "\0", "."):
        assert kind_of_own(tmp_path / name) is None


# --- Folders are mirrored -----------------------------------------------------------------------


@pytest.mark.usefixtures("file")
def test_images_of_the_same_name_keep_their_folders() -> None:
    """As in CheXpert, where every file is `view1_frontal.jpg`."""
    for letter in "ab":
        Path(f"xrays/{letter}/study").mkdir(parents=True)
        shutil.copy(f"pictures/{letter}.png", f"xrays/{letter}/study/view.png")
    files = ["xrays/a/study/view.png", "xrays/b/study/view.png"]
    names = [f"{letter}/study/view.cam.{kind}" for letter in "ab" for kind in ("npy", "png")]
    for inputs in (["xrays"], files, files[::-1], [str(Path(name).resolve()) for name in files]):
        assert layertap("cam", "m.onnx", *inputs, "-o", "heat").code == 0
        assert listing("heat") == [*names, "cam.json"]
        report = json.loads(Path("heat/cam.json").read_text(encoding="utf-8"))
        for item in report["images"]:
            heat = np.load(Path("heat", item["maps"]))
            np.testing.assert_allclose(heat, api.open("m.onnx").cam(item["image"]), atol=1e-5)
        shutil.rmtree("heat")
    done = layertap("run", "m.onnx", "xrays", "--layers", "last", "--sheet", "sheets")
    assert done.code == 0
    assert listing("sheets") == [f"{letter}/study/view.last.png" for letter in "ab"]


@pytest.mark.parametrize(
    ("sources", "images", "names"),
    [
        (["x/a.png"], ["x/a.png"], ["a"]),
        (["x"], ["x/a.png", "x/y/a.png"], ["a", "y/a"]),
        (["x", "z"], ["x/a.png", "z/a.png"], ["x/a", "z/a"]),
        (["x", "b.png"], ["x/a.png", "b.png"], ["x/a", "b"]),
        (["x"], ["x/a.png", "x/a.jpg", "x/b.jpg"], ["a.png", "a.jpg", "b"]),
        (["x/a.png", "x/a.png"], ["x/a.png", "x/a.png"], ["a", "a"]),
        (["x/a.b.png"], ["x/a.b.png"], ["a.b"]),
        (["../a.png"], ["../a.png"], ["a"]),
        (["x/a"], ["x/a"], ["a"]),
    ],
)
def test_names_by_sources(
    sources: list[str],
    images: list[str],
    names: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("x", "z"):
        Path(folder).mkdir()
    assert _mirrored(sources, images) == names


PATHS = st.lists(
    st.lists(st.sampled_from(["a", "b", "a.png", "a.b"]), min_size=1, max_size=3).map("/".join),
    min_size=1,
    max_size=6,
    unique=True,
)


@given(PATHS, st.sampled_from(["", ".png", ".jpg"]))
@settings(max_examples=200)
def test_different_images_have_different_names(paths: list[str], suffix: str) -> None:
    images = [f"/{path}{suffix}" for path in paths]
    try:
        names = _mirrored(["/"], images)
    except OutputError:
        return
    assert len(set(names)) == len(images)
    assert [Path(name).parent for name in names] == [Path(path).parent for path in paths]


def test_thousands_of_equal_names_take_linear_time(tmp_path: Path) -> None:
    images = [f"/data/patient{number}/view1_frontal.jpg" for number in range(8000)]
    started = time.perf_counter()
    files = OutputFiles(tmp_path, ["/data"], images)
    names = {files.name(image, "cam") for image in images}
    assert len(names) == 8000
    assert time.perf_counter() - started < 2


# --- Pictures of the run before -----------------------------------------------------------------


@pytest.mark.usefixtures("file")
def test_pictures_that_the_report_no_longer_lists_are_removed() -> None:
    assert layertap("cam", "m.onnx", "pictures", "-o", "heat").code == 0
    assert layertap("run", "m.onnx", "pictures", "--layers", "last", "--sheet", "heat").code == 0
    Path("heat/mine.txt").write_text("not ours")
    done = layertap("cam", "m.onnx", "pictures/b.png", "-o", "heat")
    assert done.code == 0
    assert done.err.endswith("removed 8 files of the run before from heat\n")
    sheets = [f"{letter}.last.png" for letter in "abcde"]
    assert listing("heat") == sorted(["b.cam.npy", "b.cam.png", "cam.json", "mine.txt", *sheets])


@posix
@pytest.mark.usefixtures("file")
def test_only_own_pictures_inside_the_folder_are_removed() -> None:
    Path("heat").mkdir()
    Image.new("RGB", (4, 4)).save("outside.png", pnginfo=mark("cam"))
    Image.new("RGB", (4, 4)).save("heat/plain.png")
    Image.new("RGB", (4, 4)).save("heat/sheet.png", pnginfo=mark("sheet"))
    Path("heat/link.png").symlink_to("../outside.png")
    Path("heat/up").symlink_to("..", target_is_directory=True)
    names = ["../outside.png", str(Path("outside.png").resolve()), "plain.png", "sheet.png"]
    names += ["link.png", "up/outside.png", "", ".", "gone.png", "nul\0.png"]
    before = everything()
    assert remove_own(Path("heat"), names, "cam") == 0
    report = {"images": [*({"overlay": name} for name in names), {"overlay": 3}, 4]}
    Path("heat/cam.json").write_text(json.dumps(report), encoding="utf-8")
    assert layertap("cam", "m.onnx", "pictures/a.png", "-o", "heat").code == 0
    after = everything()
    assert {name: after[name] for name in before} == before
