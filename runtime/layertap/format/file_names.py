"""Names of files, made from names of layers and images, which may contain any characters."""

from __future__ import annotations

import re
from collections.abc import Iterable

LONGEST = 200
"""Most bytes of a name. File systems allow 255, of which suffixes and numbers need some."""

_FORBIDDEN = re.compile(r'[\\/:*?"<>|]')
"""Characters that separate folders, or that Windows does not allow in names."""

_RESERVED = re.compile(r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³]) *(\..*)?", re.I)
"""Names that Windows gives to devices, in any folder and with any suffix."""


def file_name(text: str) -> str:
    """A name of one file or folder, which is valid on Linux, macOS and Windows.

    Characters that cannot be part of a name, and those that do not show, become `_`. A name that
    is too long is cut, and ends in a hash of the whole.
    """
    plain = "".join(one if one.isprintable() else "_" for one in _FORBIDDEN.sub("_", text))
    kept = plain.rstrip(" .")
    name = kept + "_" * (len(plain) - len(kept))
    if not name or _RESERVED.fullmatch(name):
        name = f"_{name}"
    data = name.encode()
    if len(data) <= LONGEST:
        return name
    import hashlib  # needed by few

    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{data[: LONGEST - 9].decode(errors='ignore')}~{digest}"


def clash_key(name: str) -> str:
    """Equal for names that are one file on some system: those that differ in capitals only, or in
    how an accent is written."""
    import unicodedata

    return unicodedata.normalize("NFC", name).casefold()


def distinct_names(texts: Iterable[str], reserved: Iterable[str] = ()) -> dict[str, str]:
    """Names of files by the texts that they are made from; all texts get different ones.

    Args:
        texts: names of layers, for example.
        reserved: names that no text gets.
    """
    names: dict[str, str] = {}
    taken = {clash_key(name) for name in reserved}
    for text in dict.fromkeys(texts):
        plain = file_name(text)
        name, number = plain, 1
        while clash_key(name) in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(clash_key(name))
        names[text] = name
    return names
