"""The best place to cut a model between a device and a server, for a bandwidth."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from layertap._arguments import number
from layertap._public import public
from layertap._record import Record
from layertap.errors import UsageError
from layertap.format.text import Readable, aligned, class_text, megabytes

from .layer_costs import LayerCosts

SERVER_SPEED = 10.0
"""How many times as fast as the device a server is, unless the caller says otherwise."""

SHOWN = 5
"""Number of places in a table."""


@public
class SplitPlace(Record):
    """What it takes to run a model that is cut at one place."""

    layers: tuple[str, ...]
    """The layers that are sent; none if the whole model runs in one place."""
    where: str
    """`after LAYER`, `all on the server`, `all on the device`."""
    nbytes: int
    """Bytes that are sent to the server."""
    device: float
    """Milliseconds on the device."""
    transfer: float
    """Milliseconds for sending."""
    server: float
    """Milliseconds on the server."""

    @property
    def total(self) -> float:
        """Milliseconds together."""
        return self.device + self.transfer + self.server

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-compatible values."""
        values = {name: getattr(self, name) for name in self._names}
        return {**values, "layers": list(self.layers), "total": self.total}


@public
class Split(Readable):
    """Where to cut a model between a device and a server.

        print(layertap.Split(model.cost(measure="random"), "10Mbit/s"))

    The device is the one on which the costs were measured. The time for the result to come back is
    not counted, nor is the time to set up a connection.
    """

    places: tuple[SplitPlace, ...]
    """The places at which the model can be cut, the fastest first."""
    uncut: tuple[SplitPlace, SplitPlace]
    """The whole model on the server, and on the device."""
    bandwidth: float
    """In bytes per second."""
    server_speed: float
    """How many times as fast as the device the server is taken to be."""

    def __init__(
        self, costs: LayerCosts, bandwidth: str | float, server_speed: float = SERVER_SPEED
    ) -> None:
        """Find the places.

        Args:
            costs: of the model, with measured times.
            bandwidth: `"10Mbit/s"`, `"1MB/s"`; or bytes per second.
            server_speed: how many times as fast as the device the server is.

        Raises:
            UsageError: no times were measured, or a number that is not more than 0.
        """
        self.bandwidth = bytes_per_second(bandwidth)
        self.server_speed = number("server_speed", server_speed)
        if not self.server_speed:
            raise UsageError("server_speed must be more than 0, got 0.")
        if not isinstance(costs, LayerCosts):
            raise UsageError(f"costs must be what `Model.cost` gives, got {class_text(costs)}.")
        if costs.milliseconds is None:
            raise UsageError(
                'a place to cut is found by measured times. Give measure="random", or an image.'
            )
        self._total, self.model = costs.milliseconds, costs.model
        found = {}
        for row in costs.all_rows:
            if row.cut is None or row.crossing is None or row.milliseconds_before is None:
                continue
            if row.cut not in found:
                found[row.cut] = self._place(
                    row.cut,
                    f"after {', '.join(row.cut)}",
                    row.crossing,
                    row.milliseconds_before,
                )
        self.places = tuple(sorted(found.values(), key=lambda place: place.total))
        self.uncut = (
            self._place((), "all on the server", costs.input_bytes, 0.0),
            self._place((), "all on the device", 0, self._total),
        )

    def _place(self, layers: tuple[str, ...], where: str, nbytes: int, device: float) -> SplitPlace:
        device = min(device, self._total)
        return SplitPlace(
            layers=layers,
            where=where,
            nbytes=nbytes,
            device=device,
            transfer=1000 * nbytes / self.bandwidth,
            server=(self._total - device) / self.server_speed,
        )

    @property
    def best(self) -> SplitPlace | None:
        """The fastest place at which the model can be cut; `None` if there is none."""
        return self.places[0] if self.places else None

    def commands(self, file: str) -> list[str]:
        """The commands that write both parts at the best place; none if there is no place.

        Args:
            file: the path of the model.
        """
        if self.best is None:
            return []
        base = file[:-5] if file.lower().endswith(".onnx") else file
        return [
            shlex.join(_command(file, way, self.best.layers, f"{base}.{part}.onnx"))
            for way, part in (("--to", "device"), ("--from", "server"))
        ]

    def __str__(self) -> str:
        """A table, and the best place."""
        rows: list[Sequence[str]] = [("cut", "MB sent", "device", "transfer", "server", "total ms")]
        shown = sorted((*self.places[:SHOWN], *self.uncut), key=lambda place: place.total)
        rows += [
            (
                place.where,
                megabytes(place.nbytes),
                *(
                    f"{one:.2f}"
                    for one in (place.device, place.transfer, place.server, place.total)
                ),
            )
            for place in shown
        ]
        rate = 8 * self.bandwidth / 1e6
        head = (
            f"At {rate:,.4g} Mbit/s, with a server {self.server_speed:g} times as fast as this "
            "device:"
        )
        return f"{head}\n\n{aligned(rows, range(1, 6))}\n\n{self._sentence}"

    @property
    def _sentence(self) -> str:
        if self.best is None:
            return (
                "The model cannot be cut in two: nowhere do 4 tensors or fewer cross that are all "
                "layers."
            )
        quickest = min(self.uncut, key=lambda place: place.total)
        if quickest.total <= self.best.total:
            return (
                f"No cut is faster than {quickest.where} ({quickest.total:.2f} ms). The best cut "
                f"is {self.best.where} ({self.best.total:.2f} ms)."
            )
        return f"The best place is {self.best.where}: {self.best.total:.2f} ms."

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-compatible values."""
        return {
            "bytes_per_second": self.bandwidth,
            "server_speed": self.server_speed,
            "places": [place.to_dict() for place in self.places],
            "uncut": [place.to_dict() for place in self.uncut],
        }


def _command(file: str, way: str, layers: Sequence[str], output: str) -> list[str]:
    return ["layertap", "cut", file, way, *layers, "-o", output]


_NUMBER = r"\s*([0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+)"
_RATE = re.compile(
    _NUMBER + r"\s*([kmgtKMGT]?)(i?)([bB][iI][tT]s?(?:/s)?|[bB]ps|[bB]/s|[bB]yte(?:s)?/s)\s*"
)
_BARE = re.compile(_NUMBER + r"\s*([kmgtKMGT]?)\s*")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def bytes_per_second(bandwidth: str | float) -> float:
    """A bandwidth such as `10Mbit/s` or `1MB/s` in bytes per second; a number is that already.

    `b`, `bit` and `bps` are bits, `B` is a byte of 8 bits. `k`, `M`, `G` and `T`, of either case,
    are powers of 1,000; `Ki`, `Mi` and so on are powers of 1,024.

    Raises:
        UsageError: it is something else, or not more than 0.
    """
    if isinstance(bandwidth, str):
        found = _RATE.fullmatch(bandwidth)
        if found is None:
            bare = _BARE.fullmatch(bandwidth)
            text = f"{bare[1]}{bare[2]}" if bare and bare[2] else f"{bare[1]}M" if bare else ""
            as_in = f"{text}bit/s or {text}B/s" if text else "10Mbit/s or 1MB/s"
            raise UsageError(
                f"the bandwidth {bandwidth!r} is not a number with a unit. Give it as in {as_in}."
            )
        _, prefix, binary, unit = found.groups()
        bits = unit.lower().startswith("bit") or unit in ("b/s", "bps")
        base = 1024.0 if binary else 1000.0
        rate = float(found[1]) * base ** _POWERS[prefix.lower()] / (8 if bits else 1)
        rate = number("the bandwidth", rate)
    else:
        rate = number("bandwidth", bandwidth)
    if not rate:
        raise UsageError("the bandwidth must be more than 0.")
    return rate
