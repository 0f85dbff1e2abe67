"""`open`, and what it gives: a `Model`, and the `Tap`s that fetch activations out of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from . import _cut
from ._cost import activation_costs
from ._index import read_index
from ._layer import Layer
from ._select import Selector, is_single, only, select
from ._session import Cache, Engine, Provider, Session, Settings
from ._source import BytesSource, FileSource
from ._table import as_text, shape_text
from ._wire import WireError
from .card import Card, TensorInfo
from .errors import ModelFileError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from .preprocessing import Preprocessing

Array: TypeAlias = "npt.NDArray[Any]"

SESSIONS = 4
"""How many prepared sessions a model keeps: those for the sets of layers asked for last. A `Tap`
keeps its own for as long as it lives."""

LARGEST = 2**31 - 1
"""Bytes of the largest model that protobuf reads; larger ones keep weights in other files."""


def open(  # noqa: A001 - the word that users know from every library that opens files
    source: str | os.PathLike[str] | bytes,
    *,
    device: str = "cpu",
    providers: Sequence[Provider] | None = None,
    session_options: Any = None,
    threads: int | None = None,
    copy_weights: bool = False,
    share_weights: bool = False,
) -> Model:
    """Open an ONNX file, exported by layertap or from elsewhere.

    Only its index is read: names, edges and the card, not the weights. The file is not kept open;
    when it has been changed by the time it is needed again, that is an error.

    Args:
        source: the `.onnx` file, or its contents.
        device: `cpu`; `cuda` or `cuda:1` (an NVIDIA card; an error if it does not work); or
            `auto`, which takes the card where it works, and else the CPU. `Model.device` says
            which.
        providers: onnxruntime's own list of execution providers, instead of `device`.
        session_options: an `onnxruntime.SessionOptions`, which is used as it is; or a dict of its
            attributes (`{"enable_profiling": True}`) and of configuration entries, which have a
            dot in their name (`{"session.disable_prepacking": "1"}`), set on top of layertap's.
        threads: how many threads one operation uses; by default the cores that this process may
            use.
        copy_weights: copy weights into memory, however large the file. By default those of files
            over 100 MB, and those that are in other files anyway, stay where they are: onnxruntime
            (1.21 or newer) maps them, which takes a fraction of the time and memory. Then nobody
            may write into such a file while the model lives: what is found out in time is an error,
            but a file that is cut short in the midst of a run ends the process, as the operating
            system has it. Replacing it (writing another, and renaming it) is safe, and all that
            layertap itself does. With `copy_weights=True` what happens to the file does not matter.
        share_weights: use weights as they stand in the file, without arranging them anew for the
            processor: processes that open the same file share its pages in memory, and sessions
            start in a fraction of the time. It works for files of any size, from onnxruntime 1.21
            on. Values may differ in the last digit.

    Raises:
        ModelFileError: the file is missing, cannot be read, or is not an ONNX model.
        CardVersionError: its card was written by a newer layertap.
        DeviceError: the device is not to be had; the message says why.
        DependencyError: onnxruntime is needed (for any device but `cpu`) and not installed.
        UsageError: settings that contradict each other.
    """
    settings = Settings(
        device,
        providers,
        session_options,
        threads,
        copy_weights=copy_weights,
        share_weights=share_weights,
    )
    if isinstance(source, (bytes, bytearray, memoryview)):
        if share_weights:
            raise UsageError("share_weights=True needs a file; bytes cannot be shared.")
        return Model(BytesSource(bytes(source)), settings)
    if not isinstance(source, (str, os.PathLike)):
        raise UsageError(f"a {type(source).__name__} cannot be opened. Give a path, or bytes.")
    return Model(FileSource(source), settings)


class Model:
    """An opened ONNX file: its layers, and their activations. Made by `layertap.open`.

    It may be used from any number of threads.
    """

    path: Path | None
    """The file; `None` for a model that was opened from bytes."""
    card: Card | None
    """What the file says about itself; `None` in a file that layertap did not export."""
    layers: tuple[Layer, ...]
    """All layers, in the order of Keras's `model.layers`. In a file without a card: every tensor
    that a node of the graph writes, in the order in which they are computed."""
    inputs: tuple[TensorInfo, ...]
    """The model's inputs, with their shapes (channels last, `None` for a free size) and dtypes."""
    outputs: tuple[TensorInfo, ...]
    """The model's own outputs; in a file without a card, the graph's."""
    metadata: Mapping[str, str]
    """The file's metadata beside the card."""

    def __init__(self, source: FileSource | BytesSource, settings: Settings) -> None:
        self.path = source.path
        self._source = source
        self._name = source.name
        index = read_index(source)
        self._graph = index.graph
        self.card, self.layers = index.card, index.layers
        self.inputs, self.outputs = index.inputs, index.outputs
        self.metadata = index.metadata
        self._engine = Engine(settings)
        self._sessions: Cache[Session] = Cache(SESSIONS)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{info.name} {shape_text(info.shape)}" for info in self.inputs)
        return (
            f"<layertap.Model {self._name}: {len(self.layers)} layers, "
            f"inputs {inputs or 'none'}, device {self.device}>"
        )

    @property
    def device(self) -> str:
        """Where the model runs: `cpu`, `cuda:0`, ..., or the first of `providers` in short."""
        return self._engine.device

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes, in the order of the output's last axis, if the card has them."""
        return self.card.labels if self.card else None

    @cached_property
    def preprocessing(self) -> Preprocessing | None:
        """How images become inputs, if the card says so.

        Raises:
            PreprocessingError: the card's recipe makes no sense to this layertap.
        """
        if self.card is None or self.card.preprocessing is None:
            return None
        return _recipe(self.card.preprocessing)

    def layer(self, what: str | int | Layer) -> Layer:
        """The layer with this exact name or index (negative ones count from the end).

        Raises:
            LayerNotFoundError: there is none, or the file does not expose it.
        """
        return only(self.layers, what)

    def select(
        self,
        what: Selector | Iterable[Selector] | None = None,
        type: str | Iterable[str] | None = None,  # noqa: A002 - the word that Keras users know
    ) -> list[Layer]:
        """The layers that `what` names and whose class is one of `type`.

        Args:
            what: an exact name, a glob (`conv5_*`), `re:PATTERN`, an index, a slice, a `Layer`, or
                a list of these; `None` takes all layers that the file exposes.
            type: a Keras class name (`Conv2D`) or several; in a file without a card op types.

        Returns:
            Each layer once, in the order asked for.

        Raises:
            LayerNotFoundError: something matches nothing.
        """
        return select(self.layers, what, type)

    def summary(self, size: Sequence[int] | None = None, batch: int = 1) -> str:
        """The table that Keras's `model.summary()` prints, and the MB that an activation costs.

        Args:
            size: the input's free sizes behind the batch axis, `(height, width)` for images; with
                it the MB of layers with free sizes are estimated (`~`).
            batch: how many samples the MB are for.
        """
        return as_text(self.layers, activation_costs(self.layers, self.card, size, batch))

    def tap(self, layers: Selector | Iterable[Selector] | None = None) -> Tap:
        """Prepare to fetch the activations of `layers`; see `select` for what may be asked.

        Raises:
            LayerNotFoundError: something matches nothing.
            ModelFileError: onnxruntime does not take the file, or it was changed.
            DependencyError: onnxruntime is not installed.
        """
        if layers is not None and not isinstance(layers, (str, int, slice, Layer)):
            layers = list(layers)
        chosen = self.select(layers)
        fetch = self._fetch([str(layer.tensor) for layer in chosen])
        return Tap(self, tuple(chosen), is_single(self.layers, layers), fetch)

    @overload
    def activations(
        self, inputs: Any, layers: int | Layer, preprocess: Recipe | None = None
    ) -> Array: ...
    @overload
    def activations(self, inputs: Any, layers: str, preprocess: Recipe | None = None) -> Any: ...
    @overload
    def activations(
        self,
        inputs: Any,
        layers: slice | Iterable[Selector] | None = None,
        preprocess: Recipe | None = None,
    ) -> dict[str, Array]: ...
    def activations(
        self,
        inputs: Any,
        layers: Selector | Iterable[Selector] | None = None,
        preprocess: Recipe | None = None,
    ) -> Any:
        """Fetch the activations of `layers` for `inputs`.

        The graph is cut down to the request before it runs; the prepared session is kept for the
        next call with the same layers (the last `SESSIONS` of them).

        Args:
            inputs: a batch `(n, h, w, c)`, as any array-like that has all axes; or an image or a
                list of images (paths, bytes, PIL images, uint8 or uint16 arrays `(h, w, c)`),
                to which the card's preprocessing is applied. Where the model has several inputs, a
                dict by input name, or a list in the order of `Model.inputs`; those that the layers
                do not depend on may be left out.
            layers: see `select`.
            preprocess: a recipe for images instead of the card's: a `Preprocessing`, a dict, or
                the path of a JSON file.

        Returns:
            For one exact name, index or `Layer`: the array, in the layer's Keras shape, channels
            last. Else a dict from layer names to arrays, in the order asked. They are views on the
            memory that onnxruntime hands over, often of a channels-first array: not contiguous.
            What is kept for long had better be copied (`numpy.ascontiguousarray`). The "activation"
            of an input is what was fed, uncopied.

        Raises:
            LayerNotFoundError: something matches nothing; nothing has been computed.
            InputError: an input is missing, or of the wrong rank, size or dtype.
            ImageError: an image cannot be read.
        """
        return self.tap(layers)(inputs, preprocess)

    def predict(self, inputs: Any, preprocess: Recipe | None = None) -> Any:
        """The model's own output for `inputs`; see `activations` for what these may be.

        Returns:
            An array; where the model has several outputs, a dict from their names to arrays.
        """
        names = [info.name for info in self.outputs]
        fetch = self._fetch(names)
        values = fetch(self._prepare(fetch.plan.needs, inputs, preprocess))
        return values[names[0]] if len(names) == 1 else values

    def _prepare(
        self, needed: Sequence[str], inputs: Any, preprocess: Recipe | None
    ) -> dict[str, Any]:
        from ._inputs import prepare  # it needs numpy, which the table of layers does not

        recipe = self.preprocessing if preprocess is None else _recipe(preprocess)
        return prepare(inputs, self._graph.inputs, needed, recipe, self._batch)

    @cached_property
    def _batch(self) -> str | None:
        """The name of the batch's size; files from elsewhere may use one name for many sizes."""
        kinds = self._graph.inputs.values() if self.card else ()
        sizes = [kind.dims[0] for kind in kinds if kind.dims]
        return next((size for size in sizes if isinstance(size, str)), None)

    def _fetch(self, tensors: Sequence[str]) -> _Fetch:
        try:
            plan = _cut.plan(self._graph, tensors)
        except KeyError as exc:
            raise ModelFileError(
                f"{self._name} has no tensor {exc.args[0]!r}, though its card names it. It was "
                "changed after the export; export it again."
            ) from exc
        session = None
        if plan.outputs:
            session = self._sessions.get(tuple(plan.outputs), lambda: self._start(plan))
        return _Fetch(self._name, plan, session)

    def _start(self, plan: _cut.CutPlan) -> Session:
        """Cut the file down to `plan` and make a session of it."""
        weights = self._source.place(self._graph.locations)
        place = weights.refer if self._engine.maps_weights else weights.load
        stay = weights.stay if self._engine.leaves_weights(self._source.size) else None
        with self._source.read() as buffer:
            try:
                model = _cut.write(buffer, self._graph, plan, place, stay=stay)
            except WireError as exc:  # in a part that the index passes over
                raise ModelFileError(
                    f"{self._name} is damaged ({exc}). Copy or export it again."
                ) from exc
        if len(model) > LARGEST:
            raise ModelFileError(
                f"what was asked for takes {len(model) / 1e9:.1f} GB of {self._name} and its "
                "weights, more than fits into one piece. From onnxruntime 1.21 on, weights stay "
                "in their files: upgrade it."
            )
        if not (weights.mapped or self._graph.locations):
            return self._engine.start(model, self._name, None)
        session = self._engine.start(model, self._name, weights.folder, weights.check)
        with self._source.read():  # what onnxruntime has mapped is still the file that was cut
            return session


class Tap:
    """Fetches the activations of some layers. Made by `Model.tap`; its session is ready to run.

    It may be used from any number of threads.
    """

    layers: tuple[Layer, ...]
    """The layers, in the order asked."""

    def __init__(
        self, model: Model, layers: tuple[Layer, ...], single: bool, fetch: _Fetch
    ) -> None:
        self.layers = layers
        self._model = model
        self._single = single
        self._fetch = fetch

    def __repr__(self) -> str:
        names = ", ".join(repr(layer.name) for layer in self.layers[:3])
        more = f" and {len(self.layers) - 3} more" if len(self.layers) > 3 else ""
        return f"<layertap.Tap {names}{more} of {self._model!r}>"

    def __call__(self, inputs: Any, preprocess: Recipe | None = None) -> Any:
        """Run the model as far as needed; see `Model.activations`."""
        feeds = self._model._prepare(self._fetch.plan.needs, inputs, preprocess)
        values = self._fetch(feeds)
        if self._single:
            return values[str(self.layers[0].tensor)]
        return {layer.name: values[str(layer.tensor)] for layer in self.layers}


Recipe: TypeAlias = "Preprocessing | Mapping[str, Any] | str | os.PathLike[str]"
"""A preprocessing recipe: as an object, as data, or in a JSON file."""


class _Fetch:
    """A plan and the session that carries it out; no session where nothing is computed."""

    def __init__(self, name: str, plan: _cut.CutPlan, session: Session | None) -> None:
        self.plan = plan
        self._name = name
        self._session = session

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The values of the requested tensors, in the order asked."""
        plan = self.plan
        values = {name: feeds[name] for name in plan.fed}
        if self._session is not None:
            read = {name: feeds[name] for name in plan.inputs}
            results = self._session.run(list(plan.outputs.values()), read)
            values.update(zip(plan.outputs, results, strict=True))
        try:
            return {
                tensor: _view(values[leaf.source], leaf.perms)
                for tensor, leaf in plan.leaves.items()
            }
        except (ValueError, AttributeError) as exc:
            raise ModelFileError(
                f"{self._name} has a Transpose that does not fit its tensor: {exc}."
            ) from exc


def _view(value: Any, perms: Sequence[_cut.Perm]) -> Any:
    for perm in perms:
        value = value.transpose(perm)
    return value


def _recipe(given: Recipe) -> Preprocessing:
    from .preprocessing import Preprocessing  # it needs Pillow, which arrays do not

    if isinstance(given, Preprocessing):
        return given
    if isinstance(given, (str, os.PathLike)):
        return Preprocessing.load(given)
    return Preprocessing.from_dict(given)
