"""Run a notebook of the examples from start to end, and store its outputs in it.

python examples/execute.py examples/activations.ipynb          # refresh the notebook
python examples/execute.py NOTEBOOK --output FILE --folder F   # write a copy; run in folder F

The cells run in a folder of their own, in the Python that runs this script, and write nothing to
the home folder. What differs from run to run (timings, versions of Python) is not stored.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat.v4 import new_output

SECONDS = 600
"""How long one cell may take; the export takes half a minute."""

HOMES = (
    "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "KERAS_HOME",
)  # fmt: skip
"""Variables that say where programs keep what they would otherwise put into the home folder."""


class ThisPython(AsyncKernelManager):
    """Starts this Python as the kernel, and ignores the kernels registered on the machine."""

    def __init__(self, **options: Any) -> None:
        # Without folders to search, `python3` is the Python that runs this.
        super().__init__(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]), **options)
        if os.name != "nt":  # sockets in a private folder instead of open ports
            self.transport = "ipc"
            self.ip = os.path.join(os.environ["JUPYTER_RUNTIME_DIR"], "kernel")


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Run all cells in `folder`, and put the outputs into `notebook`.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the message contains the traceback.
    """
    with tempfile.TemporaryDirectory() as private:
        os.environ.update(dict.fromkeys(HOMES, private))
        NotebookClient(
            notebook,
            kernel_name="python3",
            kernel_manager_class=ThisPython,
            resources={"metadata": {"path": str(folder)}},
            timeout=SECONDS,
            record_timing=False,
        ).execute()


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Keep only those parts of the outputs that are the same after every run."""
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = list(_tidied(cell.outputs))


def _tidied(outputs: list[nbformat.NotebookNode]) -> Iterator[nbformat.NotebookNode]:
    """Join each stream into one output: how often it was flushed depends on the machine."""
    for kind, group in itertools.groupby(outputs, lambda output: output.get("name")):
        if kind is not None:
            text = "".join(output.text for output in group)
            yield new_output("stream", name=kind, text=_settled(text))
            continue
        for output in group:
            output.data.pop("image/jpeg", None)  # Pillow provides each picture twice
            output.data.pop("text/html", None)  # the text says the same; 50 kB for 429 layers
            yield output


def _settled(text: str) -> str:
    """Times, and what is free on the disk, become dots; of a line of progress, its end is kept."""
    text = re.sub(r"[^\n]*\r(\x1b\[K)?", "", text.replace("\r\n", "\n"))
    text = re.sub(r"\b(in|about) [\d.]+ (s|min)\b", r"\1 ... s", text)
    return re.sub(r"\bfree \S+ [kMGT]?B\b", "free ...", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument(
        "--output",
        type=Path,
        help="where to write the executed notebook; by default it is updated in place",
    )
    parser.add_argument(
        "--folder", type=Path, help="where the cells run; models that were exported there are used"
    )
    args = parser.parse_args()
    notebook = nbformat.read(args.notebook, as_version=4)
    with tempfile.TemporaryDirectory() as scratch:
        execute(notebook, (args.folder or Path(scratch)).resolve())
    tidy(notebook)
    nbformat.validate(notebook)
    nbformat.write(notebook, args.output or args.notebook)


if __name__ == "__main__":
    main()
