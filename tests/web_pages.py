"""Reads a page of `layertap view` without a browser."""

from __future__ import annotations

import base64
import json
import re
import zlib
from html.parser import HTMLParser
from typing import Any

import numpy as np

from layertap.view.room import blocks


class WebPage(HTMLParser):
    """The elements of a page, with its data."""

    def __init__(self, html: bytes) -> None:
        super().__init__(convert_charrefs=False)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self._inside = ""
        self.feed(html.decode("utf-8"))
        self.close()
        found = {str(attributes.get("id")): text for attributes, text in self.scripts}
        self.data: dict[str, Any] = json.loads(found["data"])
        self.blocks = [
            zlib.decompress(base64.b64decode(found[f"block{at}"]))
            for at in range(sum(name.startswith("block") for name in found))
        ]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        elif self._inside:
            self.texts.append(data)

    def layer(self, name: str) -> dict[str, Any]:
        """The row of a layer."""
        (row,) = [row for row in self.data["layers"] if row["name"] == name]
        return dict(row)

    def parts(self, name: str) -> list[bytes]:
        """The bytes of each sample of a layer."""
        stored = self.layer(name)["maps"]
        data, found, at = self.blocks[stored["block"]], [], 0
        for part in stored["samples"]:
            size = _size(part)
            found.append(data[at : at + size])
            at += size
        assert at == len(data)
        return found

    def maps(self, name: str, sample: int = 0) -> tuple[list[int], np.ndarray, np.ndarray]:
        """The channels of a layer, their values `(k, h, w)`, and the most that each is off."""
        stored, data = self.layer(name)["maps"], self.parts(name)[sample]
        part = stored["samples"][sample]
        count = part["count"]
        low, high = np.frombuffer(data[: 8 * count], "<f4").reshape(2, count, 1, 1).astype("f8")
        levels = np.frombuffer(data[24 * count :], np.uint8)
        levels = levels.reshape(count, *blocks(part["shape"][1:], part["step"]))
        values = np.where(levels == 255, np.nan, low + levels * ((high - low) / 254))
        return part.get("channels", stored["channels"]), values, (high - low) / 508

    def scores(self, output: int = 0) -> np.ndarray:
        """`(samples, classes)`."""
        found = self.data["scores"][output]
        return np.frombuffer(self.blocks[found["block"]], "<f4").reshape(-1, found["classes"])

    def heat_maps(self, method: str) -> np.ndarray:
        """`(samples, targets, h, w)`; all of one size."""
        (found,) = [one for one in self.data["heat"]["methods"] if one["name"] == method]
        values = np.frombuffer(self.blocks[found["block"]], "<f4")
        return values.reshape(len(found["sizes"]), found["targets"], *found["sizes"][0])


def _size(part: dict[str, Any]) -> int:
    if "count" in part:
        pixels = np.prod(blocks(part["shape"][1:], part["step"]), dtype=int)
        return int(part["count"] * (24 + pixels))
    item = {"f4": 4, "f8": 8}.get(part.get("dtype", ""), 0)
    if "kept" in part:
        return int(part["kept"] * (item + 4))
    return int(item * part.get("shape", [0])[0])


def colours(style: str, *, dark: bool) -> dict[str, str]:
    """The custom properties of a style sheet that are colours."""
    light, _, rest = style.partition("@media (prefers-color-scheme: dark)")
    found = dict(re.findall(r"(--\w+): (#[0-9a-f]{6})", light))
    if dark:
        block = rest[: rest.index("\n}\n")]
        found |= dict(re.findall(r"(--\w+): (#[0-9a-f]{6})", block))
    return found


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)
