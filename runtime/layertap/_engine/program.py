"""Programs: what a model file contains, and how requests for it are planned and run.

`Model` is the documented face of a program. The heat maps, the check and the cut to a file use the
program only.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol

from layertap._cut.guards import SUSPECTS, guarded, may_need_guards
from layertap._cut.means import NOTHING, spared_means
from layertap._cut.plan import Appended, CutPlan, MissingTensorError, plan_cut, view
from layertap._cut.reductions import check_dtype, check_name
from layertap._cut.write import write_cut
from layertap._log import log, wanted
from layertap.errors import LayertapWarning, ModelFileError, UsageError
from layertap.format.apart import ways
from layertap.format.axes import infer_axes, stated_axes
from layertap.format.graph import TensorType
from layertap.format.index import read_index
from layertap.format.layer import Axes, Layer, channel_or_last_axis
from layertap.format.limits import PROTOBUF_BYTES
from layertap.format.recipe import value_range
from layertap.format.references import without_references
from layertap.format.select import Selector, as_selectors, is_single, only, select
from layertap.format.source import BytesSource, FileSource
from layertap.format.text import number_of
from layertap.format.wire import Buffer, WireError

from .cache import Cache
from .constant_work import FOLDING, NESTED, SIZES, much_from_constants
from .engine import Engine
from .library import give_back_memory, import_onnxruntime, normalises_exactly
from .request import Asked, Request, request_layers, request_outputs
from .session import Session
from .settings import Settings

if TYPE_CHECKING:
    from layertap.format.card import Finished
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
        self._check_finished()
        self._channels_last = index.card is not None and index.card.channels_last
        self.engine = Engine(settings)
        self.gradient_starts: Cache[list[str]] = Cache(PLANS)
        """Tensors from which gradients can be computed, by the gradients' tensors."""
        recipe = self.card.preprocessing if self.card else None
        self.prepared = value_range(recipe) if recipe else None
        """The values of batches that the card's recipe prepared."""
        self.has_warned = False
        """Whether a batch was noticed that the recipe cannot have returned."""
        self.closed = False
        self._sessions: Cache[Session] = Cache(SESSIONS)
        self._plans: Cache[CutPlan] = Cache(PLANS)
        if wanted():
            log(
                f"opened {self.name}: {source.size} bytes, {len(self.graph.nodes)} nodes, "
                f"{number_of(len(self.layers), 'layer')}, on {self.engine.device}"
            )

    def _check_finished(self) -> None:
        """Check that what the card says of a finished file can be true.

        Raises:
            ModelFileError: it cannot.
        """
        facts, again = self.finished, "Finish the file that it was made from again."
        if facts is None:
            return
        for name in (facts.image, facts.target):
            if name is not None and name not in self.graph.inputs:
                raise ModelFileError(
                    f"{self.name} is damaged: its card names the input {name!r}, which the graph "
                    f"does not have. {again}"
                )
        if facts.image is not None and facts.image == facts.target:
            raise ModelFileError(
                f"{self.name} is damaged: its card names {facts.image!r} as picture and as class. "
                f"{again}"
            )
        if facts.heat_map is not None and None in (facts.scores, facts.layer, facts.method):
            raise ModelFileError(
                f"{self.name} is damaged: its card has a heat map without scores, layer or method. "
                f"{again}"
            )

    def close(self) -> None:
        """Free the sessions; the program cannot run afterwards."""
        self.closed = True
        self._sessions.clear()
        self._plans.clear()

    def check_open(self) -> None:
        """Raise UsageError if the program was closed."""
        if self.closed:
            raise UsageError(
                f"the model {self.name} is closed. Open the file again, or use it inside its "
                "`with` block."
            )

    @property
    def finished(self) -> Finished | None:
        """What a finished file takes and gives; `None` for any other file."""
        return self.card.finished if self.card else None

    @property
    def picture_input(self) -> str | None:
        """The input of a finished file for a picture; `None` for any other file."""
        return self.finished.image if self.finished else None

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

    def _apart(self) -> Mapping[str, str]:
        """By name of an output that may be no layer, how to get it."""
        return ways(self.outputs, self.card)

    @cached_property
    def batch(self) -> str | None:
        """The name of the free size that is the batch; `None` in a file without a card, which may
        use one name for several sizes."""
        kinds = self.graph.inputs.values() if self.card else ()
        sizes = [kind.dims[0] for kind in kinds if kind.dims]
        return next((size for size in sizes if isinstance(size, str)), None)

    @cached_property
    def _axes(self) -> Mapping[str, Axes]:
        """What the axes of tensors mean, as far as it is known; from the card, or from the graph
        if the card, of format 1.2 or older, says nothing."""
        stated = stated_axes(self.layers, (*self.inputs, *self.outputs))
        if stated:
            return stated
        with self.source.read(sparsely=True) as buffer:
            return infer_axes(buffer, self.graph, by_size=not self._channels_last)

    def axes(self, tensor: str, rank: int) -> Axes:
        """What each axis of a tensor means, in the notation of `Layer.axes`.

        Where it is not known, the channels are the last axis in a file from Keras, and the second
        in any other.

        Args:
            tensor: the name of a tensor in the graph.
            rank: the number of its axes.
        """
        known = self._axes.get(tensor, "")
        if len(known) == rank:
            return known
        rest = "?" * (rank - 2)
        if rank < 2:
            return "N"[:rank]
        return f"N{rest}C" if self._channels_last else f"NC{rest}"

    def known_axes(self, tensor: str) -> Axes:
        """What each axis of a tensor means, as `axes`, as far as the card states it or it follows
        from the operators; else empty."""
        return self._axes.get(tensor, "")

    def class_axis(self, output: str, rank: int) -> int:
        """The axis of the classes of an output: the last one in a model from Keras, and where the
        file of another framework has scores at several positions, that of the channels, as in
        `(n, classes, h, w)`."""
        if self.card is not None and self.card.channels_last:
            return rank - 1
        return self.channel_axis(output, rank)

    def channel_axis(self, tensor: str, rank: int) -> int:
        """The axis of the channels of a tensor, as far as it is known; else the last one."""
        return channel_or_last_axis(self.known_axes(tensor), rank)

    def fitted(self, recipe: Preprocessing, images: int = 0) -> Preprocessing:
        """A recipe for images in the order of axes of the model's first input of images.

        Args:
            recipe: a recipe.
            images: how many images will be prepared at once, if any.

        Raises:
            InputError: these images would not have the size of the input.
        """
        for name, kind in self.graph.inputs.items():
            if kind.dims is None or len(kind.dims) == 4:
                recipe = recipe.fitted(self.axes(name, 4))
                if images:
                    from .feeds import check_size

                    check_size(f"input {name!r}", images, kind, recipe)
                break
        return recipe

    # --- Requests -------------------------------------------------------------------------------

    def layer(self, what: str | int | Layer) -> Layer:
        """See `Model.layer`."""
        return only(self.layers, what, self._apart)

    def select(
        self,
        what: Selector | Iterable[Selector] | None = None,
        type: str | Iterable[str] | None = None,  # noqa: A002 - as in `Model.select`
    ) -> list[Layer]:
        """See `Model.select`."""
        return select(self.layers, what, type, self._apart)

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
            asked = as_selectors(asked)
            single = is_single(self.layers, asked)
            layers = select(self.layers, asked, outputs=self._apart)
        target = None if dtype is None else check_dtype(dtype)
        try:
            return request_layers(self.graph, layers, reductions, single, target, self.axes, peeled)
        except MissingTensorError as exc:
            raise self.missing_tensor(exc.tensor) from exc

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
        except MissingTensorError as exc:
            raise self.missing_tensor(exc.tensor) from exc

    def missing_tensor(self, name: str) -> ModelFileError:
        """The error for a tensor that the card names and the graph lacks."""
        return MissingTensorError(name, self.name)

    def fetch(
        self,
        tensors: Sequence[str],
        feeds: Mapping[str, Any] | None = None,
        given: Sequence[str] = (),
        appended: Sequence[Appended] = (),
        *,
        peeled: bool = True,
        on_device: bool = False,
        fused: bool = False,
        kept: bool = True,
    ) -> Fetch:
        """Prepare to compute `tensors` and the appended nodes, starting from `given`.

        Args:
            feeds: values by source; only their dtypes are used here.
            peeled: whether Transposes at the end are left to numpy.
            on_device: whether the values stay on the device; they are not peeled then.
            fused: whether a quantised model may be computed in integers, see `_quantised`.
            kept: whether the session is kept for the next request of the same kind.
        """
        self.check_open()
        in_float = self._quantised and not fused
        plan = self.plan(tensors, given, appended, peeled)
        dtypes = _dtypes(feeds or {}, plan.starts) if plan.starts else {}
        key = (*plan.key, *dtypes.values(), in_float)
        engine = self.engine.in_float() if in_float else self.engine
        start: Callable[[], Session] = partial(self._start, engine, plan, dtypes)
        if kept:
            start = partial(self._sessions.get, key, start)
        guarded = partial(
            self._sessions.get,
            (*key, "guarded"),
            partial(self._start, engine, plan, dtypes, may_be_empty=True),
        )
        memory = self.engine.memory if on_device else None
        session = start() if plan.outputs else None
        return Fetch(self.name, plan, start, guarded, session, memory, self._defaults(plan))

    def _defaults(self, plan: CutPlan) -> dict[str, Any]:
        """Values for the optional inputs of a plan that have no initializer in the file."""
        from .feeds import ones  # needs numpy, which the table of layers does not

        graph = self.graph
        names = (name for name in plan.optional if name not in graph.initializers)
        return {name: ones(graph.optional[name]) for name in names}

    @cached_property
    def _quantised(self) -> bool:
        """Whether the file has pairs of QuantizeLinear and DequantizeLinear.

        onnxruntime fuses the operators between such pairs into operators on integers, which round
        differently. But it cannot fuse across a tensor that is an output: a layer's values, and
        those of all layers after it, would depend on what else is requested. So layers are computed
        without these fusions, as the file defines them, and only predictions with them.
        """
        return any(node.op_type == "DequantizeLinear" for node in self.graph.nodes)

    @cached_property
    def _disabled(self) -> tuple[str, ...]:
        """The optimizations of onnxruntime that are left out, because nothing could stop them."""
        graph, known = self.graph, self.graph.initializers.__contains__
        some = NESTED | SIZES
        folds = any(all(map(known, node.reads)) or node.op_type in some for node in graph.nodes)
        if not (folds or graph.functions):  # as in most files
            return ()
        return (FOLDING,) if much_from_constants(self.source, graph) else ()

    @contextmanager
    def reading(self) -> Iterator[Buffer]:
        """The bytes of the file, to parse what the index skips.

        Raises:
            ModelFileError: they are damaged.
        """
        with self.source.read(sparsely=True) as buffer:
            try:
                yield buffer
            except WireError as exc:
                raise self._damaged(exc) from exc

    def _damaged(self, exc: WireError) -> ModelFileError:
        return ModelFileError(f"{self.name} is damaged ({exc}). Copy or export it again.")

    def _start(
        self,
        engine: Engine,
        plan: CutPlan,
        dtypes: Mapping[str, str],
        *,
        may_be_empty: bool = False,
    ) -> Session:
        """Cut the file down to `plan` and make a session of it.

        Args:
            dtypes: of given tensors, by source, used if the file does not state them.
            may_be_empty: whether some of the values that are fed may be empty.
        """
        graph, suspects = self.graph, plan.nodes
        disabled, locations = self._disabled, graph.locations
        normalises = any(graph.nodes[at].op_type == "LayerNormalization" for at in plan.nodes)
        if not graph.functions:
            suspects = tuple(at for at in suspects if graph.nodes[at].op_type in SUSPECTS)
        leaves = engine.leaves_weights(self.source.size)
        locate = stay = weights = None
        if leaves or locations:
            from layertap.format.external import find_weights  # needs pathlib

            weights = find_weights(self.source, locations)
            locate = weights.refer if engine.maps_weights else weights.load
            stay = weights.stay if leaves else None
        lean = normalises and self.card is not None and normalises_exactly()
        spared = spared_means(graph, plan) if lean else NOTHING
        with self.source.read(sparsely=stay is not None) as buffer:
            try:
                model = write_cut(buffer, graph, plan, locate, dtypes, stay, spared)
                if suspects and may_need_guards(graph, suspects):
                    model = guarded(model, may_be_empty)
                model = without_references(
                    model,
                    weights.referred if weights else (),
                    weights.load if weights else None,
                )
            except WireError as exc:  # in bytes that the index skips
                raise self._damaged(exc) from exc
        if wanted():
            log(
                f"cut {self.name}: {len(plan.nodes)} of {len(graph.nodes)} nodes, "
                f"{len(model)} bytes, for {number_of(len(plan.outputs), 'tensor')}"
            )
        if len(model) > PROTOBUF_BYTES:
            raise ModelFileError(
                f"the request needs {len(model) / 1e9:.1f} GB of {self.name} and its weights, more "
                f"than onnxruntime can load from memory. {engine.large_remedy}"
            )
        if weights is None or not (weights.mapped or locations):
            return engine.start(model, self.name, None, disabled=disabled)
        session = engine.start(model, self.name, weights.folder, weights.check, disabled=disabled)
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
                order = tuple(reversed(range(len(dims)))) if perm is None else perm
                if sorted(order) != list(range(len(dims))):
                    return TensorType(kind.dtype)
                dims = tuple(dims[axis] for axis in order)
        return TensorType(kind.dtype, dims)

    # --- Running it -----------------------------------------------------------------------------

    def prepare(
        self,
        needed: Sequence[str],
        inputs: Any,
        preprocess: Recipe | None,
        *,
        watch: bool = True,
    ) -> dict[str, Any]:
        """Convert the caller's inputs into values by input name; see `feeds.prepare`.

        Args:
            needed: the inputs that are required.
            inputs: see `Model.activations`.
            preprocess: a recipe for images instead of the card's.
            watch: warn of batches that no image can have become.
        """
        # It needs numpy, which the table of layers does not.
        from .feeds import as_recipe, prepare, unprepared

        recipe = self.preprocessing if preprocess is None else as_recipe(preprocess)
        if recipe is not None:
            recipe = self.fitted(recipe)
        if self.finished is not None:
            inputs = self._pictured(self.finished, inputs, needed, preprocess)
        graph, memory = self.graph, self.engine.memory
        feeds = prepare(inputs, graph.inputs, needed, recipe, self.batch, graph.optional, memory)
        if self.finished is not None and self.finished.target in feeds:
            self._check_classes(self.finished, feeds)
        used = self.prepared
        if preprocess is not None and recipe is not None:
            used = value_range(recipe.to_dict())
        if watch and used is not None and not self.has_warned:
            problems = (unprepared(x, feeds[x], graph.inputs[x], used) for x in needed)
            self.warn_once(next(filter(None, problems), ""))
        return feeds

    def warn_once(self, problem: str) -> None:
        """Warn of a batch; nothing happens for an empty text, or after the first."""
        if problem and not self.has_warned:
            self.has_warned = True
            warnings.warn(problem, LayertapWarning, stacklevel=outside())

    def _pictured(
        self, finished: Finished, inputs: Any, needed: Sequence[str], preprocess: Recipe | None
    ) -> Mapping[str, Any]:
        """The inputs of a finished file, with pictures as arrays."""
        from .pictures import with_pictures

        if preprocess is not None and self.picture_input is not None:
            raise UsageError(
                f"{self.name} is a finished file: it prepares pictures itself, so it takes no "
                "preprocessing."
            )
        return with_pictures(finished, inputs, self.graph.inputs, needed)

    def _check_classes(self, finished: Finished, feeds: Mapping[str, Any]) -> None:
        """Check the classes of a finished file that a caller gives."""
        from .on_device import on_host
        from .pictures import check_classes

        name = str(finished.target)
        shapes = [x.shape for x in self.outputs if x.name == finished.scores]
        shape = shapes[0] if shapes else ()
        known = shape[self.class_axis(str(finished.scores), len(shape))] if shape else None
        binary = known == 1 and len(self.labels or ()) == 2
        # A picture without an axis of samples has three axes.
        images = [on_host(value) for key, value in feeds.items() if key != name]
        samples = next((len(image) for image in images if image.ndim == 4), 1)
        check_classes(name, on_host(feeds[name]), 2 if binary else known, samples)

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
        # A single layer's activation is one allocation, for which nothing has to be freed.
        if len(request.layers) > 1 and sum(x.nbytes() or 0 for x in request.layers) > MUCH:
            give_back_memory()
        return runner


class Runner:
    """A request that is ready to run. It is safe to use from several threads."""

    def __init__(self, program: Program, request: Request, peeled: bool, on_device: bool) -> None:
        from .feeds import is_ready, unprepared

        self._program = program
        self._request = request
        self._is_ready, self._unprepared = is_ready, unprepared
        self.fetch = program.fetch(
            request.tensors,
            appended=request.appended,
            peeled=peeled,
            on_device=on_device,
            fused=not request.layers,
        )
        self._needs = self.fetch.plan.needs

    def __call__(self, inputs: Any, preprocess: Recipe | None) -> Any:
        """Compute the result for `inputs`; see `Model.activations` for what these may be."""
        program = self._program
        if program.closed:
            self.fetch.session = None
            program.check_open()
        known = program.graph.inputs
        if len(known) == len(self._needs) == 1 and self._is_ready(inputs, known[self._needs[0]]):
            (name,) = self._needs
            feeds = {name: inputs}
            if preprocess is None and program.prepared is not None and not program.has_warned:
                problem = self._unprepared(name, inputs, known[name], program.prepared)
                if problem:
                    program.warn_once(problem)
        else:
            feeds = program.prepare(self._needs, inputs, preprocess)
        return self._request.collect(self.fetch(feeds))


class Fetch:
    """A plan and the session that runs it; no session if nothing is computed."""

    def __init__(
        self,
        name: str,
        plan: CutPlan,
        start: Callable[[], Session],
        guarded: Callable[[], Session],
        session: Session | None,
        memory: DeviceMemory | None,
        defaults: Mapping[str, Any],
    ) -> None:
        """
        Args:
            name: the model's name in messages.
            start: makes or finds the session.
            guarded: makes or finds one that may be fed empty arrays.
            session: the result of `start`; `None` if nothing is computed.
            memory: the device's memory, if the values stay there. The plan must not be peeled
                then.
            defaults: values for the optional inputs that the file has no value for.
        """
        self.plan = plan
        self._name = name
        self._start = start
        self._guarded = guarded
        self._memory = memory
        self._defaults = defaults
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
            read |= self._defaults
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
        """Run the session; but not on empty arrays, which it may not be guarded for."""
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

        run = partial(session.run, self.outputs)
        found = run_empty(run, feeds, lambda: partial(self._guarded().run, self.outputs))
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


def outside() -> int:
    """The `stacklevel` of the first caller outside this package, for a warning of the caller."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and (frame.f_globals.get("__package__") or "").startswith("layertap"):
        frame, level = frame.f_back, level + 1
    return level


def _dtypes(feeds: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    return {name: dtype_name(feeds[name]) for name in names}


def dtype_name(value: Any) -> str:
    """The dtype of an array, as the file format calls it; empty for other values."""
    name = str(getattr(value, "dtype", ""))
    return "string" if name == "object" or name.startswith(("<U", "str")) else name
