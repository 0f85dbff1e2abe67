"""`layertap features`: what a collection holds; tables of it; its shards joined."""

from __future__ import annotations

import argparse
import json
import os

from layertap._escaping import one_line
from layertap.errors import UsageError
from layertap.extract.features import Features, features
from layertap.extract.merge import merge

from . import OK, OWN, PARTLY_FAILED, Command
from .printing import show, tell

MERGE = "merge"
"""The word in front of the folders that are joined."""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "collections",
        metavar="OUT",
        nargs="+",
        help="the collection; or `merge` and the collections that hold the shards",
    )
    parser.add_argument("-o", "--output", metavar="OUT2", help="of merge: the joined collection")
    parser.add_argument(
        "--layers", action="extend", nargs="+", metavar="LAYER", help="only these columns"
    )
    parser.add_argument("--parquet", metavar="FILE.parquet", help="write a table for data frames")
    parser.add_argument("--csv", metavar="FILE.csv", help="write a table as text")
    parser.add_argument(
        "--tsv",
        metavar="FOLDER",
        help="write vectors.tsv and metadata.tsv, for the Embedding Projector",
    )
    parser.add_argument(
        "--check", action="store_true", help="compare all rows with their checksums"
    )
    parser.add_argument("--failed", action="store_true", help="list the images that failed")
    parser.add_argument("--json", action="store_true", help="print a description as JSON")
    parser.add_argument("--overwrite", action="store_true", help="of merge: replace OUT2")
    parser.add_argument(
        "--strict", action="store_true", help="of merge: refuse shards of other versions"
    )


def _run(args: argparse.Namespace) -> int:
    first, *others = args.collections
    if first == MERGE and (others or args.output):
        return _merge(args, others)
    if others:
        raise UsageError(f"one collection is printed at a time; `{MERGE}` joins several.")
    for option, given in (("-o", args.output), ("--overwrite", args.overwrite)):
        if given:
            raise UsageError(f"{option} belongs to `layertap features {MERGE}`.")
    if args.json and (args.check or args.failed):
        raise UsageError("--json prints the description only. Leave out --check and --failed.")
    found = features(first)
    for key in args.layers or ():
        found.column(key)  # before anything is written
    layers = args.layers
    tables = [os.path.realpath(path) for path in (args.parquet, args.csv, args.tsv) if path]
    if len(set(tables)) < len(tables):
        raise UsageError("two tables would be written to one place. Give each its own name.")
    if args.tsv and len(layers or found.keys()) > 1:
        raise UsageError("--tsv writes the vectors of one layer. Give it with --layers.")
    written: list[str] = []
    if args.parquet:
        found.to_parquet(args.parquet, layers)
        written.append(args.parquet)
    if args.csv:
        found.to_csv(args.csv, layers)
        written.append(args.csv)
    if args.tsv:
        found.to_tsv(args.tsv, layers[0] if layers else None)
        written.append(args.tsv)
    for path in written:
        tell(f"wrote {path}: {len(found):,} rows")
    code = OK
    if args.check:
        verified = found.verify()
        show(str(verified))
        code = OK if verified.ok else PARTLY_FAILED
    if args.failed:
        for row, reason in found.errors.items():
            show(f"{one_line(found.ids[row])} (row {row}): {one_line(reason)}")
    if args.json:
        show(json.dumps(_description(found)))
    elif not (args.parquet or args.csv or args.tsv or args.check or args.failed):
        show(str(found))
    return code


def _merge(args: argparse.Namespace, folders: list[str]) -> int:
    if not args.output:
        raise UsageError("`layertap features merge` needs the name of the result: -o OUT2.")
    if not folders:
        raise UsageError("there is nothing to merge: give the collections of the shards.")
    unused = [
        f"--{name}"
        for name in ("layers", "parquet", "csv", "tsv", "check", "failed", "json")
        if getattr(args, name)
    ]
    if unused:
        raise UsageError(f"{unused[0]} does not belong to merge. Run it on the joined collection.")
    found = merge(folders, args.output, overwrite=args.overwrite, strict=args.strict)
    tell(f"wrote {args.output}: {len(found):,} rows, {found.failed_rows:,} failed")
    return PARTLY_FAILED if found.failed_rows else OK


def _description(found: Features) -> dict[str, object]:
    return {
        "rows": len(found),
        "done": found.done_rows,
        "failed": found.failed_rows,
        "complete": found.complete,
        "columns": {
            column.key: {
                "dtype": column.dtype,
                "shape": list(column.shape),
                "dims": list(column.dims),
                "nonfinite": found.nonfinite.get(column.key, 0),
            }
            for column in found.columns
        },
        "made_with": dict(found.identity.made_with),
    }


COMMAND = Command(
    OWN["features"],
    _configure,
    _run,
    examples=(
        "layertap features out",
        "layertap features out --check",
    ),
)
