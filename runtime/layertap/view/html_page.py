"""One HTML file out of the template, the style, the scripts, and data.

The page works offline, and nothing leaves it: its content security policy allows no address, and
only the scripts and the style that are in the page, by their hashes. Data are JSON and base64 in
elements that no browser runs, without any character that could end them.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import zlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .engine import Engine

SCRIPTS = ("dom", "data", "draw", "tree", "zoom", "overview", "layer", "tables", "live", "main")
"""The scripts in `page/`, in order; they are one module. `live` is for pages with an engine."""

POLICY = (
    "default-src 'none'; img-src data:; script-src {scripts}; style-src {style}; base-uri 'none'; "
    "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


class Page(NamedTuple):
    """A page that was made."""

    html: bytes
    left_out: tuple[str, ...]
    """Sentences: what the page does not contain."""
    contents: str
    """What it contains: `3 images, 60 of 429 layers`."""


def html_page(
    title: str,
    data: Mapping[str, Any],
    blocks: Sequence[bytes],
    engine: Engine | None = None,
    model: bytes = b"",
) -> bytes:
    """A page.

    Args:
        title: of the page, as text.
        data: what the scripts read as JSON.
        blocks: bytes that the scripts unpack when they need them, by their index.
        engine: runs a model in the page.
        model: the contents of the model's file, for the engine.
    """
    style = part("palette.css") + part("style.css")
    own = [name for name in SCRIPTS if engine or name != "live"]
    script = "\n".join(part(f"{name}.js") for name in own)
    modules = engine.scripts if engine else ()
    allowed = [*map(_hash, (*modules, script)), *(["'wasm-unsafe-eval'"] if engine else [])]
    stored = [_data(f"block{at}", zlib.compress(block, 6)) for at, block in enumerate(blocks)]
    if engine:
        stored += [_data("wasm", zlib.compress(engine.wasm, 9)), _data("model", model)]
    parts = {
        "title": html.escape(title),
        "policy": POLICY.format(scripts=" ".join(allowed), style=_hash(style)),
        "style": style,
        "data": as_json(data),
        "blocks": "\n".join(stored),
        "modules": "\n".join(f'<script type="module">{one}</script>' for one in modules),
        "script": script,
    }
    page = part("page.html")
    pieces = page.split("{{")
    made = [pieces[0]]
    for piece in pieces[1:]:  # so that no text is searched for the marks of another
        name, _, rest = piece.partition("}}")
        made += [parts[name], rest]
    return "".join(made).encode("utf-8", "xmlcharrefreplace")


def static_page(title: str, body: str) -> bytes:
    """A page without scripts, in the same colours.

    Args:
        title: of the page, as text.
        body: what it shows, as HTML in which all text from outside is escaped.
    """
    style = part("palette.css") + part("report.css")
    policy = POLICY.format(scripts="'none'", style=_hash(style))
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n<meta name="generator" content="layertap">'
        f'\n<link rel="icon" href="data:,">\n<title>{html.escape(title)}</title>\n'
        f"<style>{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
    return page.encode("utf-8", "xmlcharrefreplace")


def as_json(data: Any) -> str:
    """JSON that can stand inside of a script element: ASCII, and nothing that looks like a tag."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def part(name: str) -> str:
    """One of the files of the page."""
    return (files(__package__) / "page" / name).read_text("utf-8")


def _data(name: str, data: bytes) -> str:
    """An element that holds bytes."""
    return f'<script type="text/plain" id="{name}">{base64.b64encode(data).decode()}</script>'


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
