"""Programs: what a model file contains, and how requests for it are planned and run.

`Model` is the documented face of a program. The heat maps, the check and the cut to a file use the
program only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol

from layertap._cut.plan import Appended, CutPlan, plan_cut, view
from layertap._cut.reductions import check_dtype, check_name
from layertap._cut.write import write_cut
from layertap.errors import ModelFileError, UsageError
from layertap.format.graph import TensorType
from layertap.format.index import read_index
from layertap.format.layer import Layer
from layertap.format.limits import PROTOBUF_BYTES
from layertap.format.select import Selector, is_single, only, select
from layertap.format.source import BytesSource, FileSource
from layertap.format.wire import WireError

from .cache import Cache
from .engine import Engine
from .library import give_back_memory, import_onnxruntime
from .request import Asked, Request, request_layers, request_outputs
from .session import Session
from .settings import Settings

if TYPE_CHECKING:
    from layertap.images.preprocessing import Preprocessing

    from .devices import DeviceMemory
    from .feeds import Recipe

SESSIONS = 4
"""Number of sessions that a program keeps: those for the latest requests. A `Runner` keeps its own
session as long as it exists."""

PLANS = 64
"""Number of plans that a program keeps; they are small."""

MUCH = 100_000_000
"""Bytes of activations from which on it is worth some milliseconds to free memory first."""


class Program:
    """What a file contains, and how it is run. It is safe to use from several threads."""

    def __init__(self, source: FileSource | BytesSource, settings: Settings) -> None:
        """Read the file's index, and find the device.

        Raises:
            ModelFileError: the source is not an ONNX model, or its card is damaged.
            CardVersionError: the card was written by a newer layertap.
            DeviceError: the device is not available.
        """
        self.source = source
        self.settings = settings
        self.name = source.name
        """The model's name in messages."""
        index = read_index(source)
        self.graph = index.graph
        self.card = index.card
        self.layers = index.layers
        self.inputs = index.inputs
        self.outputs = index.outputs
        self.metadata = index.metadata
        self.changed = index.changed
        """Whether the graph is not the one that was verified, as far as the index says."""
        self.channels_last = index.card is not None and index.card.channels_last
        """Whether channels are the last axis of the layers' shapes, as in Keras; otherwise they
        are the axis after the batch, as in ONNX."""
        self.engine = Engine(settings)
        self.gradient_starts: Cache[list[str]] = Cache(PLANS)
        """Tensors from which gradients can be computed, by the gradients' tensors."""
        self._sessions: Cache[Session] = Cache(SESSIONS)
        self._plans: Cache[CutPlan] = Cache(PLANS)

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes, if the card has them."""
        return self.card.labels if self.card else None

    @cached_property
    def preprocessing(self) -> Preprocessing | None:
        """The card's recipe for images, if it has one.

        Raises:
            PreprocessingError: the recipe is invalid.
        """
        if self.card is None or self.card.preprocessing is None:
            return None
        from .feeds import as_recipe

        return as_recipe(self.card.preprocessing)

    @cached_property
    def batch(self) -> str | None:
        """The name of the free size that is the batch; `None` in a file without a card, which may
        use one name for several sizes."""
        kinds = self.graph.inputs.values() if self.card else ()
        sizes = [kind.dims[0] for kind in kinds if kind.dims]
        return next((size for size in sizes if isinstance(size, str)), None)

    # --- Requests -------------------------------------------------------------------------------

    def layer(self, what: str | int | Layer) -> Layer:
        """See `Model.layer`."""
        return only(self.layers, what)

    def select(
        self,
        what: Selector | Iterable[Selector] | None = None,
        type: str | Iterable[str] | None = None,  # noqa: A002 - as in `Model.select`
    ) -> list[Layer]:
        """See `Model.select`."""
        return select(self.layers, what, type)

    def request_outputs(self) -> Request:
        """A request for the model's own outputs."""
        return request_outputs([info.name for info in self.outputs])

    def request(self, asked: Asked, dtype: Any = None, peeled: bool = True) -> Request:
        """A request for layers, or for reductions of them.

        Args:
            asked: see `Model.tap`.
            dtype: what floating-point results are cast to.
            peeled: whether Transposes at the end are left to numpy.

        Raises:
            LayerNotFoundError: a selector matches nothing.
            UsageError: unknown reduction or dtype, or a layer without channels.
            ModelFileError: the graph lacks a tensor that the card names.
        """
        reductions: dict[str, str | None] = {}
        if isinstance(asked, Mapping):
            single = False
            found: dict[str, Layer] = {}
            for selector, reduction in asked.items():
                name = None if reduction is None else check_name(reduction)
                matching = {layer.name: layer for layer in self.select(selector)}
                found |= matching
                reductions |= dict.fromkeys(matching, name)
            layers = list(found.values())
            if not layers:
                raise UsageError("the dict of reductions is empty.")
        else:
            if asked is not None and not isinstance(asked, (str, int, slice, Layer)):
                asked = list(asked)
            single = is_single(self.layers, asked)
            layers = select(self.layers, asked)
        target = None if dtype is None else check_dtype(dtype)
        try:
            return request_layers(
                self.graph, layers, reductions, single, target, self.channels_last, peeled
            )
        except KeyError as exc:
            raise self.missing_tensor(exc.args[0]) from exc

    # --- Plans and sessions ---------------------------------------------------------------------

    def plan(
        self,
        tensors: Sequence[str],
        given: Sequence[str] = (),
        appended: Sequence[Appended] = (),
        peeled: bool = True,
    ) -> CutPlan:
        """The part of the graph that computes `tensors` and the appended nodes; see `plan_cut`.

        Raises:
            ModelFileError: the graph lacks a tensor.
        """
        new = tuple(name for extra in appended for name in extra.writes)
        key = tuple(tensors), tuple(given), new, peeled
        make = partial(plan_cut, self.graph, tensors, given, appended, peeled)
        try:
            return self._plans.get(key, make)
        except KeyError as exc:
            raise self.missing_tensor(exc.args[0]) from exc

    def missing_tensor(self, name: str) -> ModelFileError:
        """The error for a tensor that the card names and the graph lacks."""
        return ModelFileError(
            f"{self.name} has no tensor {name!r}, though its card names it. It was "
            "changed after the export; export it again."
        )

    def fetch(
        self,
        tensors: Sequence[str],
        feeds: Mapping[str, Any] | None = None,
        given: Sequence[str] = (),
        appended: Sequence[Appended] = (),
        *,
        peeled: bool = True,
        on_device: bool = False,
    ) -> Fetch:
        """Prepare to compute `tensors` and the appended nodes, starting from `given`.

        Args:
            feeds: values by source; only their dtypes are used here.
            peeled: whether Transposes at the end are left to numpy.
            on_device: whether the values stay on the device; they are not peeled then.
        """
        plan = self.plan(tensors, given, appended, peeled)
        dtypes = _dtypes(feeds or {}, plan.starts) if plan.starts else {}
        key = (*plan.key, *dtypes.values())
        start = partial(self._sessions.get, key, partial(self._start, plan, dtypes))
        memory = self.engine.memory if on_device else None
        session = start() if plan.outputs else None
        return Fetch(self.name, plan, start, session, memory, partial(self._divides, plan))

    def _divides(self, plan: CutPlan) -> bool:
        """Whether an operator that must not get empty arrays is in a plan, or may be: in a function
        or a subgraph."""
        from .empty import DIVIDING

        spans = [*self.graph.head, *(self.graph.nodes[at].span for at in plan.nodes)]
        with self.source.read(sparsely=True) as buffer:
            return any(DIVIDING in buffer[start:end] for start, end in spans)

    def _start(self, plan: CutPlan, dtypes: Mapping[str, str]) -> Session:
        """Cut the file down to `plan` and make a session of it."""
        engine, locations = self.engine, self.graph.locations
        leaves = engine.leaves_weights(self.source.size)
        locate = stay = weights = None
        if leaves or locations:
            from layertap.format.external import find_weights  # needs pathlib

            weights = find_weights(self.source, locations)
            locate = weights.refer if engine.maps_weights else weights.load
            stay = weights.stay if leaves else None
        with self.source.read(sparsely=stay is not None) as buffer:
            try:
                model = write_cut(buffer, self.graph, plan, locate, dtypes, stay)
            except WireError as exc:  # in bytes that the index skips
                raise ModelFileError(
                    f"{self.name} is damaged ({exc}). Copy or export it again."
                ) from exc
        if len(model) > PROTOBUF_BYTES:
            raise ModelFileError(
                f"the request needs {len(model) / 1e9:.1f} GB of {self.name} and its weights, more "
                f"than onnxruntime can load from memory. {engine.large_remedy}"
            )
        if weights is None or not (weights.mapped or locations):
            return engine.start(model, self.name, None)
        session = engine.start(model, self.name, weights.folder, weights.check)
        with self.source.read():  # checks that onnxruntime mapped the file that was cut
            return session

    def infer(self, tensor: str) -> TensorType:
        """The type of a tensor as onnxruntime infers it, for files that do not state it."""
        fetch = self.fetch([tensor])
        leaf = fetch.plan.leaves[tensor]
        kind = self.graph.inputs[leaf.source] if fetch.plan.fed else fetch.output_type()
        dims = kind.dims
        for perm in leaf.perms:
            if dims is not None:
                dims = dims[::-1] if perm is None else tuple(dims[axis] for axis in perm)
        return TensorType(kind.dtype, dims)

    # --- Running it -----------------------------------------------------------------------------

    def prepare(
        self, needed: Sequence[str], inputs: Any, preprocess: Recipe | None
    ) -> dict[str, Any]:
        """Convert the caller's inputs into values by input name; see `feeds.prepare`.

        Args:
            needed: the inputs that are required.
            inputs: see `Model.activations`.
            preprocess: a recipe for images instead of the card's.
        """
        from .feeds import as_recipe, prepare  # needs numpy, which the table of layers does not

        recipe = self.preprocessing if preprocess is None else as_recipe(preprocess)
        graph, memory = self.graph, self.engine.memory
        return prepare(inputs, graph.inputs, needed, recipe, self.batch, graph.optional, memory)

    def prepare_arrays(
        self, needed: Sequence[str], inputs: Any, preprocess: Recipe | None
    ) -> dict[str, Any]:
        """The same, with values on a device copied into numpy arrays."""
        from .on_device import on_host

        feeds = self.prepare(needed, inputs, preprocess)
        return {name: on_host(value) for name, value in feeds.items()}

    def runner(self, request: Request, *, peeled: bool = True, on_device: bool = False) -> Runner:
        """Prepare to compute `request` from inputs."""
        runner = Runner(self, request, peeled, on_device)
        size = 0
        for layer in request.layers:
            size += layer.nbytes() or 0
        if size > MUCH:
            give_back_memory()
        return runner


class Runner:
    """A request that is ready to run. It is safe to use from several threads."""

    def __init__(self, program: Program, request: Request, peeled: bool, on_device: bool) -> None:
        from .feeds import is_ready

        self._program = program
        self._request = request
        self._is_ready = is_ready
        self.fetch = program.fetch(
            request.tensors, appended=request.appended, peeled=peeled, on_device=on_device
        )
        self._needs = self.fetch.plan.needs

    def __call__(self, inputs: Any, preprocess: Recipe | None) -> Any:
        """Compute the result for `inputs`; see `Model.activations` for what these may be."""
        known = self._program.graph.inputs
        if len(known) == len(self._needs) == 1 and self._is_ready(inputs, known[self._needs[0]]):
            feeds = {self._needs[0]: inputs}
        else:
            feeds = self._program.prepare(self._needs, inputs, preprocess)
        return self._request.collect(self.fetch(feeds))


class Fetch:
    """A plan and the session that runs it; no session if nothing is computed."""

    def __init__(
        self,
        name: str,
        plan: CutPlan,
        start: Callable[[], Session],
        session: Session | None,
        memory: DeviceMemory | None,
        divides: Callable[[], bool],
    ) -> None:
        """
        Args:
            name: the model's name in messages.
            start: makes or finds the session.
            session: the result of `start`; `None` if nothing is computed.
            memory: the device's memory, if the values stay there. The plan must not be peeled
                then.
            divides: see `empty.run_empty`.
        """
        self.plan = plan
        self._name = name
        self._start = start
        self._memory = memory
        self._divides = divides
        self.session = session
        # Computed once, used by each call.
        self._read = (*plan.inputs, *plan.starts)
        self.outputs = list(plan.outputs.values())
        self._leaves = [(tensor, leaf.source, leaf.perms) for tensor, leaf in plan.leaves.items()]

    def output_type(self) -> TensorType:
        """The type of the one output, as onnxruntime knows it."""
        return self.session.output_type() if self.session else TensorType()

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Compute the requested tensors, in the order requested.

        Args:
            feeds: values of the sources that the plan needs, and of optional inputs, by name.
        """
        plan = self.plan
        values = {name: self._returned(feeds[name]) for name in plan.fed}
        if self.session is not None:
            if self.session.lost:
                self.session = self._start()
            read = {name: feeds[name] for name in self._read}
            read |= {name: feeds[name] for name in plan.optional if name in feeds}
            values.update(zip(plan.outputs, self._compute(self.session, read), strict=True))
        results = {}
        try:
            for tensor, source, perms in self._leaves:
                results[tensor] = view(values[source], perms)
        except (ValueError, AttributeError) as exc:
            raise ModelFileError(
                f"{self._name} has a Transpose that does not fit its tensor: {exc}."
            ) from exc
        return results

    def _compute(self, session: Session, feeds: Mapping[str, Any]) -> Sequence[Any]:
        """Run the session; but not on empty arrays, which may end the process."""
        on_device = self._memory is not None
        for value in feeds.values():
            shape = getattr(
                value, "shape", ()
            )  # a sequence has none, that of an OrtValue is a method
            if 0 in (shape() if callable(shape) else shape):
                break
        else:
            return session.run(self.outputs, feeds, on_device)
        from .empty import run_empty
        from .on_device import keep

        found = run_empty(partial(session.run, self.outputs), feeds, self._name, self._divides)
        if self._memory is None:
            return found
        return [keep(import_onnxruntime(), value, self._memory) for value in found]

    def _returned(self, value: Any) -> Any:
        """A fed value, moved to the memory of the other values."""
        from .on_device import keep, on_host

        if self._memory is None:
            return on_host(value)
        return keep(import_onnxruntime(), value, self._memory)


class HasProgram(Protocol):
    """A `layertap.Model`, as seen by modules that must not import it."""

    @property
    def _program(self) -> Program: ...


def program_of(model: HasProgram) -> Program:
    """The program of an opened model."""
    return model._program


def _dtypes(feeds: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    return {name: dtype_name(feeds[name]) for name in names}


def dtype_name(value: Any) -> str:
    """The dtype of an array, as the file format calls it; empty for other values."""
    name = str(getattr(value, "dtype", ""))
    return "string" if name == "object" or name.startswith(("<U", "str")) else name
