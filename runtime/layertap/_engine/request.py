"""What is asked for, and fetching it: a request, and the plan and session that fulfil it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from layertap._cut.plan import Appended, CutPlan, Leaf, peel, view
from layertap._cut.reductions import append
from layertap._record import Record
from layertap.errors import ModelFileError
from layertap.format.graph import Graph, TensorType
from layertap.format.layer import Layer

from .devices import DeviceMemory
from .library import import_onnxruntime
from .session import Session

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Request(Record):
    """What is asked for of a graph."""

    results: Mapping[str, tuple[str, ...]]
    """By name of the result the tensor that it is; for a `TopChannels` there are two."""
    single: bool
    """Whether the result is one array, and not a dict of them."""
    appended: tuple[Appended, ...] = ()

    @property
    def tensors(self) -> list[str]:
        """The graph's own tensors among what is asked for."""
        new = {name for extra in self.appended for name in extra.writes}
        return [name for names in self.results.values() for name in names if name not in new]

    def collect(self, values: Mapping[str, Any]) -> Any:
        """The result, from the values of all tensors."""
        found = {
            name: values[names[0]]
            if len(names) == 1
            else TopChannels(channels=values[names[1]], values=values[names[0]])
            for name, names in self.results.items()
        }
        return next(iter(found.values())) if self.single else found


def request_outputs(names: Sequence[str]) -> Request:
    """A request for a model's own outputs."""
    return Request({name: (name,) for name in names}, len(names) == 1)


def request_layers(
    graph: Graph,
    layers: Mapping[Layer, str | None],
    single: bool,
    dtype: str | None,
    channels_last: bool,
    peeled: bool = True,
) -> Request:
    """A request for layers, each with its reduction.

    Args:
        peeled: whether Transposes at the end are left to numpy.

    Raises:
        KeyError: the graph has no such tensor.
        UsageError: a layer cannot be reduced in this way.
    """
    results: dict[str, tuple[str, ...]] = {}
    appended: dict[str, Appended] = {}
    changed = [layer for layer, how in layers.items() if how is not None or dtype is not None]
    leaves = peel(graph, [str(layer.tensor) for layer in changed])
    for layer, how in layers.items():
        tensor = str(layer.tensor)
        extra = None
        if tensor in leaves:
            opset = graph.opsets.get("", 0)
            leaf = leaves[tensor] if peeled or how is not None else Leaf(tensor, ())
            extra = append(layer, leaf, how, dtype, opset, channels_last)
        if extra is None:
            results[layer.name] = (tensor,)
        else:
            results[layer.name] = tuple(extra.writes)
            appended[results[layer.name][0]] = extra  # two layers may be one tensor
    return Request(results, single, tuple(appended.values()))


class Fetch:
    """A plan and the session that carries it out; no session where nothing is computed."""

    def __init__(
        self,
        name: str,
        plan: CutPlan,
        start: Callable[[], Session],
        place: DeviceMemory | None = None,
    ) -> None:
        """
        Args:
            name: what messages call the model.
            start: makes the session, or finds it.
            place: the device's memory, if the values are to stay there. The plan is not peeled
                then.
        """
        self.plan = plan
        self._name = name
        self._start = start
        self._place = place
        self._session = start() if plan.outputs else None
        # What each call needs, made once.
        self._read = (*plan.inputs, *plan.starts)
        self._outputs = list(plan.outputs.values())
        self._leaves = [(tensor, leaf.source, leaf.perms) for tensor, leaf in plan.leaves.items()]

    def output_type(self) -> TensorType:
        """The type of the one output, as onnxruntime knows it."""
        return self._session.output_type() if self._session else TensorType()

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The values of the requested tensors, in the order asked.

        Args:
            feeds: values of the sources that the plan needs, and of optional inputs.
        """
        plan = self.plan
        values = {name: self._handed_on(feeds[name]) for name in plan.fed}
        if self._session is not None:
            if self._session.lost:
                self._session = self._start()
            read = {name: feeds[name] for name in self._read}
            read |= {name: feeds[name] for name in plan.optional if name in feeds}
            results = self._session.run(self._outputs, read, self._place is not None)
            values.update(zip(plan.outputs, results, strict=True))
        try:
            return {tensor: view(values[source], perms) for tensor, source, perms in self._leaves}
        except (ValueError, AttributeError) as exc:
            raise ModelFileError(
                f"{self._name} has a Transpose that does not fit its tensor: {exc}."
            ) from exc

    def _handed_on(self, value: Any) -> Any:
        """What was fed, where the other values are."""
        from .on_device import keep, on_host

        if self._place is None:
            return on_host(value)
        return keep(import_onnxruntime(), value, self._place)


class TopChannels(NamedTuple):
    """What a reduction like `top5` gives: the channels with the largest means, largest first."""

    channels: npt.NDArray[np.int64]
    """Their indices, `(n, k)`."""
    values: npt.NDArray[Any]
    """Their means, `(n, k)`."""
