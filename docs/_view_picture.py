"""Photograph a page of `layertap view` with Chromium.

python docs/_view_picture.py demo/page.html docs/images/view.jpg
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

OPTIONS = "--headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1240,680"


def main(page: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        seen = Path(folder, "seen.png")
        more = ["--virtual-time-budget=4000", f"--screenshot={seen}", page.resolve().as_uri()]
        subprocess.run(["chromium", *OPTIONS.split(), *more], check=True, capture_output=True)
        Image.open(seen).convert("RGB").save(target, quality=68, optimize=True)
    print(f"wrote {target} ({target.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
