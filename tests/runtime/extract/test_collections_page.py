"""docs/collections.md: a reader and a writer made from the page alone agree with layertap."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap
from generators import tiny
from generators.collection import COLUMNS, expected, extract, finished, identity, items_of
from layertap.extract import layout
from layertap.extract.layout import Grid
from layertap.extract.writer import Writer
from pages import page, quoted, section

ROWS, CHUNK, SHARDS = 22, 4, 2


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def with_crc(value: Any) -> bytes:
    return canonical(value) + b" %08x\n" % zlib.crc32(canonical(value))


def test_a_reader_made_from_the_page(tmp_path: Path) -> None:
    for shard in range(SHARDS):
        extract(tmp_path / "out", ROWS, CHUNK, (shard, SHARDS))
    about = json.loads((tmp_path / "out" / "extract.json").read_bytes())
    asked = about["asked"]
    assert (about["format"], about["version"]) == ("layertap-extract", 1)
    assert about["identity"] == hashlib.sha256(canonical(asked)).hexdigest()
    data = (tmp_path / "out" / "items.tsv").read_bytes()
    assert about["items"]["sha256"] == hashlib.sha256(data).hexdigest()
    fields = [line.split("\t") for line in data.decode().splitlines()]
    columns = ["".join(f"{line[at]}\n" for line in fields).encode() for at in range(3)]
    assert asked["items"] == hashlib.sha256(columns[0] + columns[1]).hexdigest()
    assert about["items"]["times"] == hashlib.sha256(columns[2]).hexdigest()
    assert set(asked) == set(quoted_keys("extract.json"))
    chunks = -(-asked["rows"] // asked["chunk"])
    for shard in range(SHARDS):
        numbers = range(chunks * shard // SHARDS, chunks * (shard + 1) // SHARDS)
        lines = (tmp_path / "out" / "journal" / f"{shard:05d}.jsonl").read_bytes().splitlines(True)
        for number, line in zip(numbers, lines, strict=True):
            entry = json.loads(line[:-10])
            assert line == with_crc(entry)
            assert entry["chunk"] == number
            assert {*entry} == set(quoted_keys("The journal"))
            for column in asked["columns"]:
                path = tmp_path / "out" / column["folder"] / f"{shard:05d}.npy"
                part = np.load(path)
                first = entry["first"] - numbers[0] * asked["chunk"]
                rows = part[first : first + entry["rows"]]
                assert entry["crc"][column["key"]] == zlib.crc32(rows.tobytes())


def quoted_keys(paragraph: str) -> list[str]:
    """The keys in the table that follows on a paragraph of the page."""
    text = section(page("collections.md"), "The layout")
    after = text[text.index(f"**{paragraph}") :]
    table = re.search(r"\|---\|---\|\n((?:\|.*\n)+)", after)
    assert table
    return [name for line in table[1].splitlines() for name in quoted(line.split("|")[1])]


def test_a_writer_made_from_the_page(tmp_path: Path) -> None:
    """It writes the first two chunks; layertap continues."""
    out = tmp_path / "out"
    (out / "journal").mkdir(parents=True)
    asked: dict[str, Any] = dict(identity(ROWS, CHUNK).asked)
    fields = [[item.id, str(item.size), str(item.mtime_ns)] for item in items_of(ROWS)]
    data = "".join("\t".join(line) + "\n" for line in fields).encode()
    (out / "items.tsv").write_bytes(data)
    times = "".join(f"{line[2]}\n" for line in fields).encode()
    about = {
        "format": "layertap-extract",
        "version": 1,
        "identity": hashlib.sha256(canonical(asked)).hexdigest(),
        "asked": asked,
        "made_with": {},
        "dims": {"bn": ["channel"], "maps": ["height", "width"], "top": []},
        "items": {
            "sha256": hashlib.sha256(data).hexdigest(),
            "times": hashlib.sha256(times).hexdigest(),
        },
    }
    (out / "extract.json").write_text(json.dumps(about))
    journal = b""
    grid = Grid(ROWS, CHUNK, 1)
    crc: list[dict[str, int]] = [{}, {}]
    for column in COLUMNS:
        array = np.zeros((ROWS, *column.shape), column.dtype)
        array[:8] = expected(column, ROWS)[:8]
        (out / column.folder).mkdir()
        text = f"{{'descr': '{array.dtype.str}', 'fortran_order': False, 'shape': {array.shape}, }}"
        head = b"\x93NUMPY\x01\x00" + (4086).to_bytes(2, "little") + text.encode().ljust(4085)
        (out / column.folder / "00000.npy").write_bytes(head + b"\n" + array.tobytes())
        for number in range(2):
            crc[number][column.key] = zlib.crc32(array[number * 4 : number * 4 + 4].tobytes())
    for number in range(2):
        made = finished(grid.at(number))
        journal += with_crc(
            {
                "chunk": number,
                "first": 4 * number,
                "rows": 4,
                "crc": crc[number],
                "failed": [[6, "row 6 is broken"]] if number else [],
                "nonfinite": {"bn": 1} if number else {},
                "sha256": made.sha256,
            }
        )
    (out / "journal" / "00000.jsonl").write_bytes(journal)
    assert layertap.features(out).verify() == (8, 14, (), ())
    extract(out, ROWS, CHUNK)
    extract(tmp_path / "whole", ROWS, CHUNK)
    for path in (tmp_path / "whole").rglob("*.*"):
        found = out / path.relative_to(tmp_path / "whole")
        if path.name == "extract.json":  # may be laid out as one likes
            assert json.loads(found.read_bytes()) == json.loads(path.read_bytes())
        else:
            assert found.read_bytes() == path.read_bytes(), path
    with Writer.open(out, identity(ROWS, CHUNK), items_of(ROWS), COLUMNS) as writer:
        assert writer.complete


def test_the_page_names_the_files() -> None:
    tree = section(page("collections.md"), "The layout")
    for name in layout.RESERVED - {layout.ZARR_HOME, "zarr.json"}:
        assert name in tree


def test_the_reader_of_dicom_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe of the page, saved and given as it says."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    (code,) = (
        one
        for one in re.findall(r"```python\n(.*?)```", page("collections.md"), re.S)
        if "dcm" in one
    )
    (tmp_path / "dicom.py").write_text(code)
    pixels = np.random.default_rng(0).integers(100, 4000, (20, 30), np.uint16)
    for name, kind in (("plain", "MONOCHROME2"), ("inverse", "MONOCHROME1")):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.SOPInstanceUID = generate_uid()
        data.Rows, data.Columns = pixels.shape
        data.PhotometricInterpretation = kind
        data.SamplesPerPixel, data.BitsAllocated, data.BitsStored = 1, 16, 16
        data.HighBit, data.PixelRepresentation = 15, 0
        data.PixelData = pixels.tobytes()
        data.save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    model = layertap.open(tiny.image_classifier().SerializeToString())
    recipe = {"size": [8, 6], "scaling": {"mode": "rescale", "scale": 1 / 255}}
    files = [tmp_path / "plain.dcm", tmp_path / "inverse.dcm"]
    found = model.extract(files, ["pool"], tmp_path / "out", reader="dicom:read", preprocess=recipe)
    assert found.failed_rows == 0
    scaled = ((pixels - pixels.min()) / np.ptp(pixels) * 255).astype(np.uint8)
    upside = ((pixels.max() - pixels.astype(float)) / np.ptp(pixels) * 255).astype(np.uint8)
    expected = model.activations([scaled[..., None], upside[..., None]], "pool", recipe)
    np.testing.assert_allclose(found["pool"], expected, rtol=1e-6, atol=1e-7)
