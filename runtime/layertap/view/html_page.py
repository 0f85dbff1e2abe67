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
from typing import Any

SCRIPTS = ("dom", "data", "draw", "tree", "zoom", "overview", "layer", "tables", "main")
"""The scripts in `page/`, in order; they are one module."""

POLICY = (
    "default-src 'none'; img-src data:; script-src {script}; style-src {style}; base-uri 'none'; "
    "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


def html_page(title: str, data: Mapping[str, Any], blocks: Sequence[bytes]) -> bytes:
    """A page.

    Args:
        title: of the page, as text.
        data: what the scripts read as JSON.
        blocks: bytes that the scripts unpack when they need them, by their index.
    """
    style, script = part("style.css"), "\n".join(part(f"{name}.js") for name in SCRIPTS)
    policy = POLICY.format(script=_hash(script), style=_hash(style))
    stored = "\n".join(
        f'<script type="text/plain" id="block{at}">{_packed(block)}</script>'
        for at, block in enumerate(blocks)
    )
    parts = {
        "title": html.escape(title),
        "policy": policy,
        "style": style,
        "data": as_json(data),
        "blocks": stored,
        "script": script,
    }
    page = part("page.html")
    pieces = page.split("{{")
    made = [pieces[0]]
    for piece in pieces[1:]:  # so that no text is searched for the marks of another
        name, _, rest = piece.partition("}}")
        made += [parts[name], rest]
    return "".join(made).encode("utf-8", "xmlcharrefreplace")


def as_json(data: Any) -> str:
    """JSON that can stand inside of a script element: ASCII, and nothing that looks like a tag."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def part(name: str) -> str:
    """One of the files of the page."""
    return (files(__package__) / "page" / name).read_text("utf-8")


def _packed(block: bytes) -> str:
    return base64.b64encode(zlib.compress(block, 6)).decode()


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
