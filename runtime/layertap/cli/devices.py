"""`layertap devices`: the devices of the installed onnxruntime, and why others do not work."""

from __future__ import annotations

import argparse
import json
import textwrap
from typing import Any

from layertap._engine.devices import CPU, Device, offers
from layertap._engine.library import available_threads, import_onnxruntime
from layertap._engine.probe import find_problem, is_built, wheels

from . import OK, OWN, Command
from .printing import show


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def _run(args: argparse.Namespace) -> int:
    ort = import_onnxruntime()
    rows = [
        _row(ort, device, unit)
        for device in offers(ort.get_available_providers())
        for unit in (device.units if is_built(ort, device) else ()) or ("",)
    ]
    if args.json:
        found = {"onnxruntime": ort.__version__, "wheels": wheels(), "devices": rows}
        show(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        show(f"onnxruntime {ort.__version__}, from {' and '.join(wheels()) or 'no wheel'}\n")
        width = max(len(row["device"]) for row in rows)
        show("\n".join(_text(row, width) for row in rows))
    return OK


def _row(ort: Any, device: Device, unit: str) -> dict[str, Any]:
    found = find_problem(ort, device, unit)
    return {
        "device": device.label(unit),
        "provider": device.provider,
        "what": device.what,
        "available": found is None,
        "reason": found.reason if found else None,
        "remedy": found.remedy or None if found else None,
        "note": device.note or None,
    }


def _text(row: dict[str, Any], width: int) -> str:
    if row["available"]:
        threads = f"{available_threads()} threads" if row["device"] == CPU.name else ""
        words = "; ".join(filter(None, (row["what"], threads, row["note"])))
    else:
        words = ". ".join(filter(None, (row["reason"], row["remedy"])))
    start = f"{row['device']:{width}}  {'yes' if row['available'] else 'no':3}  "
    return textwrap.fill(
        words,
        width=100,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )


COMMAND = Command(
    OWN["devices"],
    _configure,
    _run,
    examples=("layertap devices",),
)
