"""A hook of mkdocs: puts the output of `layertap COMMAND --help` into the pages.

A line `<!-- layertap COMMAND --help -->` is replaced by what that command prints. Paragraphs about
the pages as they are in the repository are left out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

LINE = re.compile(r"^<!-- layertap( .*)? --help -->$", re.MULTILINE)
IN_THE_REPOSITORY = re.compile(r"^\*In the repository[^*]*\*\n\n", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    markdown = IN_THE_REPOSITORY.sub("", markdown)
    return LINE.sub(lambda found: help_of((found[1] or "").split()), markdown)


def help_of(command: list[str]) -> str:
    """The command's help, as a block of code.

    Raises:
        subprocess.CalledProcessError: there is no such command.
    """
    done = subprocess.run(
        [sys.executable, "-m", "layertap", *command, "--help"],
        env={**os.environ, "COLUMNS": "88"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return f"```text\n{done.stdout}```"
