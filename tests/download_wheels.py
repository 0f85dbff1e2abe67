"""Download what `tests/contracts/test_installs.py` installs, so that the test needs no network.

python tests/download_wheels.py FOLDER

`FOLDER/wheels` gets onnxruntime, Pillow and what they need, in the versions of this environment;
`FOLDER/oldest` the oldest onnxruntime that there is for this Python; `FOLDER/pillow` the oldest
Pillow that we support, and the last one before 13, which changed the order of its filters' passes.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

OLDEST = {(3, 10): "1.14.1", (3, 11): "1.15.1", (3, 12): "1.17.0", (3, 13): "1.20.0"}
"""The first onnxruntime with wheels for each Python that opens IR 8."""

PILLOW = {
    (3, 10): ("10.0.0", "12.3.0"),
    (3, 11): ("10.0.0", "12.3.0"),
    (3, 12): ("10.1.0", "12.3.0"),
    (3, 13): ("11.0.0", "12.3.0"),
}
"""The oldest Pillow with wheels for each Python, and the last one before 13."""

PIP = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]


def download(folder: Path, *requirements: str) -> None:
    subprocess.run(
        [*PIP, "--only-binary", ":all:", "--dest", str(folder), *requirements],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def main(folder: Path) -> None:
    runtime = [f"{name}=={version(name)}" for name in ("onnxruntime", "numpy", "pillow")]
    download(folder / "wheels", *runtime)
    oldest = OLDEST.get(sys.version_info[:2])
    if oldest:
        numpy = "numpy<2" if oldest < "1.19" else "numpy"
        download(folder / "oldest", f"onnxruntime=={oldest}", numpy)
    for pillow in PILLOW.get(sys.version_info[:2], ()):
        download(folder / "pillow", f"pillow=={pillow}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
