"""`make conformance`: export every model of every family, and write docs/conformance.md.

Each family is measured in a process of its own, so that no model finds the memory of another.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from layertap.errors import install_hint

from .families import APPLICATIONS, HUB, Family
from .measuring import Measured, measure
from .page import Results, page

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"

SECTIONS = {"keras.applications": APPLICATIONS, "Keras Hub": HUB}

PACKAGES = (
    "keras", "keras-hub", "tensorflow", "tensorflow-cpu", "tf2onnx", "onnx", "onnxruntime", "numpy",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 if any model could not be exported; the page is then left as it was."""
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="measure these, no page")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    named = {(title, f.name): f for title, families in SECTIONS.items() for f in families}
    if options.here:
        (title, name) = options.families
        json.dump(_measured(named[title, name]), sys.stdout)
        return 0
    if find_spec("keras_hub") is None:
        parser.exit(1, f"needs Keras Hub: {install_hint('hub')}\n")
    chosen = [key for key in named if not options.families or key[1] in options.families]
    if not chosen:
        parser.error(f"no family {options.families[0]!r}")
    results = {key: _apart(*key) for key in chosen}
    if None in results.values():
        return 1
    if not options.families:
        sections = {
            title: [(family, results[title, family.name] or {}) for family in families]
            for title, families in SECTIONS.items()
        }
        PAGE.write_text(page(sections, _versions()), encoding="utf-8")
        print(f"wrote {PAGE}")
    return 0


def _measured(family: Family) -> dict[str, object]:
    results: dict[str, object] = {}
    for name, build in family.members.items():
        # Twice the memory and many times the time: one member shows it.
        reference = "keras" if results else "float64"
        results[name] = measure(build, reference).to_dict()
    return results


def _apart(title: str, name: str) -> Results | None:
    """What a fresh process measures; `None` if it fails, and why is printed."""
    command = [sys.executable, "-m", "conformance", "--here", title, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{title}, {name}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    found = json.loads(done.stdout.splitlines()[-1])
    results = {member: Measured.from_dict(data) for member, data in found.items()}
    worst = max(x.scaled for x in results.values())
    print(f"{title}, {name}: {len(results)} models, worst scaled error {worst:.1e}", flush=True)
    return results


def _versions() -> str:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return f"Python {sys.version.split()[0]}, {', '.join(found)}"


if __name__ == "__main__":
    sys.exit(main())
