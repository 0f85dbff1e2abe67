"""Runs a program with onnxruntime's profile: which node ran, for how long, on which shapes."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from layertap._engine.library import import_onnxruntime
from layertap._engine.program import Program
from layertap.errors import UsageError
from layertap.format.layer import ITEM_BYTES

SUFFIX = "_kernel_time"

_DTYPES = {"float": "float32", "double": "float64"}


class Tensor(NamedTuple):
    """What a node read or wrote."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its size; 0 for strings."""
        return ITEM_BYTES.get(self.dtype, 0) * self.elements

    @property
    def elements(self) -> int:
        """The number of its values."""
        return math.prod(self.shape)


class Ran(NamedTuple):
    """One run of one node."""

    name: str
    """The node's name, as onnxruntime has it after its optimizations."""
    op_type: str
    number: int
    """The node's index in onnxruntime's graph."""
    microseconds: int
    reads: tuple[Tensor, ...]
    writes: tuple[Tensor, ...]
    inside: tuple[Ran, ...]
    """The nodes of its subgraphs that ran."""


class Profile(NamedTuple):
    """Several runs."""

    runs: tuple[tuple[Ran, ...], ...]
    """The nodes of the main graph, in the order in which they ran, for each run."""
    seconds: tuple[float, ...]
    """The times of as many whole runs without a profile."""


def profiled(
    program: Program,
    tensors: Sequence[str],
    inputs: Mapping[str, Any],
    *,
    runs: int,
    unoptimized: bool = False,
) -> Profile:
    """Run a program with a profile.

    Args:
        program: it is run by a session of its own.
        tensors: what is computed.
        inputs: what is fed, see `Program.prepare`.
        runs: the number of runs that count; one more comes before them, if their time is measured.
            After each comes a run without a profile, whose time is that of the whole.
        unoptimized: run the graph as it is in the file, node by node, and measure no time.

    Raises:
        UsageError: the program has an `onnxruntime.SessionOptions`, which is used unchanged.
        InputError: the model cannot be run.
    """
    ort = import_onnxruntime()
    with tempfile.TemporaryDirectory(prefix="layertap-") as folder:
        own = Program(program.source, _settings(program, ort, folder, unoptimized))
        try:
            fetch = own.fetch(tensors, fused=True)
            plain = None if unoptimized else program.fetch(tensors, fused=True)
            feeds = own.prepare(fetch.plan.needs, inputs, None, watch=False)
            seconds = []
            before = 0 if unoptimized else 1
            for _ in range(before + runs):
                fetch(feeds)
                start = time.perf_counter()
                if plain is not None:  # in turn, so that both meet the same other programs
                    plain(feeds)
                seconds.append(time.perf_counter() - start)
            if fetch.session is None:
                return Profile(((),) * runs, tuple(seconds[before:]))
            events = json.loads(Path(fetch.session.inner.end_profiling()).read_text("utf-8"))
        finally:
            own.close()
    found = list(_runs(events))
    return Profile(tuple(found[before:]), tuple(seconds[before:]))


def _settings(program: Program, ort: Any, folder: str, unoptimized: bool) -> Any:
    given = program.settings.session_options
    if not (given is None or isinstance(given, Mapping)):
        raise UsageError(
            "the cost of layers is read from a profile, which is a session option, and an "
            "onnxruntime.SessionOptions is used unchanged. Give session_options as a dict."
        )
    options: dict[str, Any] = {
        **(given or {}),
        "enable_profiling": True,
        "profile_file_prefix": str(Path(folder) / "profile"),
    }
    if unoptimized:
        options["graph_optimization_level"] = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options["session.disable_prepacking"] = "1"  # packed weights have no shape
    return replace(program.settings, session_options=options)


def _runs(events: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Ran, ...]]:
    """The nodes of each run, in order."""
    spans = sorted(
        (event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("name") == "model_run"
    )
    nodes = [
        event
        for event in events
        if event.get("cat") == "Node" and str(event.get("name")).endswith(SUFFIX)
    ]
    nodes.sort(key=lambda event: (event["ts"], -event["dur"]))
    at = 0
    for _, end in spans:
        own = []
        while at < len(nodes) and nodes[at]["ts"] <= end:
            own.append(nodes[at])
            at += 1
        yield _nested(own)


def _nested(events: Sequence[Mapping[str, Any]]) -> tuple[Ran, ...]:
    """The nodes of the main graph, with those of their subgraphs inside."""
    found: list[Ran] = []
    at = 0
    while at < len(events):
        event = events[at]
        end, stop = event["ts"] + event["dur"], at + 1
        if event["args"].get("op_name") in ("If", "Loop", "Scan", "SequenceMap"):
            while stop < len(events) and events[stop]["ts"] + events[stop]["dur"] <= end:
                stop += 1
        args = event["args"]
        found.append(
            Ran(
                str(event["name"]).removesuffix(SUFFIX),
                str(args.get("op_name", "")),
                int(args.get("node_index", -1)),
                int(event["dur"]),
                _tensors(args.get("input_type_shape", ())),
                _tensors(args.get("output_type_shape", ())),
                _nested(events[at + 1 : stop]),
            )
        )
        at = stop
    return tuple(found)


def _tensors(items: Sequence[Mapping[str, Sequence[int]]]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(_DTYPES.get(dtype, dtype), tuple(shape))
        for item in items
        for dtype, shape in item.items()
    )
