"""The public API: `open`, `Model` and `Tap`. All work is done by the program inside a model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from ._arguments import flag
from ._engine.devices import canonical
from ._engine.program import Program
from ._engine.settings import Provider, Settings
from ._engine.stopping import time_limit
from ._escaping import one_line
from ._public import public
from .errors import LayertapWarning, UsageError
from .format.card import Card, TensorInfo
from .format.cost import activation_costs
from .format.digest import change_text
from .format.layer import Layer
from .format.select import Selector
from .format.source import BytesSource, FileSource
from .format.table import as_text
from .format.text import Text, as_html, class_text, number_of, shape_text, shortened

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

    from ._engine.feeds import Recipe
    from ._engine.request import Asked
    from .cam.places import At
    from .cam.targets import Target
    from .comparing.check import CheckReport
    from .comparing.comparison import Comparison
    from .extract.progress import Progress
    from .extract.stream import Batch
    from .images.load import ImageSource
    from .images.preprocessing import Preprocessing
    from .measuring.layer_costs import LayerCosts
    from .measuring.layer_statistics import LayerStatistics

Array: TypeAlias = "npt.NDArray[Any]"


@public
def open(  # noqa: A001 - the usual name for opening a file
    source: str | os.PathLike[str] | bytes,
    *,
    device: str = "cpu",
    providers: Sequence[Provider] | None = None,
    session_options: Any = None,
    threads: int | None = None,
    copy_weights: bool = False,
    share_weights: bool = False,
    reproducible: bool = False,
    tf32: bool = False,
    prefer_nhwc: bool = False,
) -> Model:
    """Open an ONNX file, exported by layertap or from elsewhere.

    Only its index is read: names, edges and the card, not the weights. The file does not stay open;
    if it has changed by the time it is read again, that is an error. If another program has changed
    the graph since layertap verified it, a `LayertapWarning` says so; changed weights are noticed
    by `layertap info` and `layertap check`, which read all of them.

    Args:
        source: the `.onnx` file, or its contents.
        device: `cpu`; `cuda` or `cuda:1` (an NVIDIA card; also `gpu`); `auto`, which uses the card
            if it works, and otherwise the CPU; or another device that the installed onnxruntime
            supports: `openvino` (`openvino:gpu`, `openvino:npu`), `coreml`, `directml`, `webgpu`,
            `tensorrt`, `migraphx`, `rocm`, `qnn`, `xnnpack`. A device that does not work is an
            error; `layertap devices` lists which devices work, and why the others do not.
            `Model.device` says which one is in use. All devices compute in float32 where they can.
        providers: onnxruntime's own list of execution providers, instead of `device`.
        session_options: an `onnxruntime.SessionOptions`, which is used unchanged; or a dict of its
            attributes (`{"enable_profiling": True}`) and of configuration entries, which have a
            dot in their name (`{"session.disable_prepacking": "1"}`). A dict is applied on top of
            layertap's own options.
        threads: number of threads for one operation; by default the number of cores that this
            process may use.
        copy_weights: copy the weights into memory, however large the file. By default the weights
            of files over 100 MB, and weights in external files, stay in their files: onnxruntime
            (1.21 or newer) maps them, which takes a fraction of the time and memory. Such a file
            must not be written to while the model is in use. layertap raises an error if it notices
            a change, but if a file is truncated during a run, the operating system ends the
            process. Replacing a file (writing a new one and renaming it) is safe, and is what
            layertap itself does. With `copy_weights=True` later changes of the file have no effect.
        share_weights: use the weights as they are stored in the file, without rearranging them for
            the processor: processes that open the same file share its pages in memory, and sessions
            start in a fraction of the time. Works for files of any size; needs onnxruntime 1.21 or
            newer. Values may differ in the last digit.
        reproducible: run the graph unoptimized, on one thread. Then a layer's values do not depend
            on which other layers are requested, and a run that is resumed from a layer gives the
            same bits as the whole run (on one machine with one version of onnxruntime). Otherwise
            values may differ by about 1e-6 of the layer's scale, because onnxruntime fuses
            operators differently when other tensors are outputs. It takes about a quarter more
            time, in addition to the effect of using one thread.
        tf32: let an NVIDIA card round float32 to TF32, which has 10 bits of mantissa: faster on
            Ampere cards and newer, with errors of about 1e-3 of an activation's scale. For
            `device="cuda"` and `auto`.
        prefer_nhwc: let an NVIDIA card run convolutions with channels last, the layout that its
            tensor cores prefer; onnxruntime converts the graph. Whether that is faster depends on
            the card and the network; `python -m benchmarks.gpu` measures it. For `device="cuda"`
            and `auto`.

    Raises:
        ModelFileError: the file is missing, cannot be read, or is not an ONNX model.
        CardVersionError: its card was written by a newer layertap.
        DeviceError: the device is not available; the message says why.
        DependencyError: onnxruntime is needed (for any device but `cpu`) and not installed.
        UsageError: options that contradict each other.
    """
    settings = Settings(
        canonical(device) if isinstance(device, str) else device,
        providers,
        session_options,
        threads,
        copy_weights=copy_weights,
        share_weights=share_weights,
        reproducible=reproducible,
        tf32=tf32,
        prefer_nhwc=prefer_nhwc,
    )
    if isinstance(source, (bytes, bytearray, memoryview)):
        if share_weights:
            raise UsageError("share_weights=True needs a file; bytes cannot be shared.")
        return _warned(Program(BytesSource(bytes(source)), settings))
    if not isinstance(source, (str, os.PathLike)):
        raise UsageError(f"cannot open {class_text(source)}. Give a path, or bytes.")
    return _warned(Program(FileSource(source), settings))


@public
def compare(
    a: Model | str | os.PathLike[str],
    b: Model | str | os.PathLike[str],
    inputs: Any = None,
    layers: Selector | Iterable[Selector] | None = None,
    *,
    tolerance: float | None = None,
    born: bool = True,
    preprocess: Recipe | None = None,
    timeout: float | None = None,
) -> Comparison:
    """Compare two files of one model, layer by layer: which layer differs, and where it starts.

        comparison = layertap.compare("float.onnx", "int8.onnx", "images")
        print(comparison)
        comparison.first  # the first layer that differs by more than is allowed
        comparison.born_in  # the layer in which the largest error is born

    Layers are matched by name, and by their order where only Keras's counters differ. Only some
    layers of some samples are in memory at a time. To compare one file on two devices, open it
    twice.

    Args:
        a: the file whose values are expected: a model, or a path. A model runs on its own device.
            A path that ends in `.npz` is a record, see `Model.record`.
        b: the file that is judged, or a record.
        inputs: see `Model.activations`; each file prepares images by its own recipe. By default the
            inputs of the record, or the seeded inputs of the golden sample, which fit the model but
            are no images.
        layers: which layers of the first file, see `Model.select`; by default all but scores of
            attention, and outputs that are no layers.
        tolerance: largest scaled error that passes; by default what `check` allows: the tolerance
            of the export, or more for layers that one of the files computes in 16 bits.
        born: whether to measure, too, how much of each error is born in its layer. It takes one
            more run of the second file.
        preprocess: a recipe for images, for both files instead of their own.
        timeout: time in seconds for all runs together, see `Model.activations`.

    Returns:
        A `Comparison`: true if every compared layer passed. Its `layers` are rows, in the order in
        which they are computed; `str` of it is a table.

    Raises:
        UsageError: the files share no layer, or no inputs are given and there is no golden sample.
        LayerNotFoundError: a selector matches nothing.
        InputError: the inputs do not fit one of the files, or are not those of the record; or a
            record is damaged.
        ImageError: see `Model.activations`.
        ModelFileError: see `open`.
    """
    from .comparing.record_file import is_record, read
    from .comparing.sides import compare_sides

    born = flag("born", born)

    def side(given: Any) -> Any:
        if isinstance(given, Model):
            return given._program
        return read(given) if is_record(given) else open(given)._program

    one, other = side(a), side(b)
    with time_limit(timeout):
        return compare_sides(
            one,
            other,
            inputs,
            layers,
            tolerance=tolerance,
            born=born,
            preprocess=preprocess,
        )


def _may_be_many(inputs: Any) -> bool:
    """Whether inputs may be more images than should be run at once."""
    if isinstance(inputs, (list, tuple, str, os.PathLike, Iterator)):
        return True
    kind = getattr(getattr(inputs, "dtype", None), "kind", "")
    return kind in ("U", "O") or hasattr(inputs, "to_numpy")


def _warned(program: Program) -> Model:
    """The model; with a warning if its file was changed after it was verified."""
    if program.changed:
        warnings.warn(
            f"{program.name}: {change_text(['graph'])}. What its card says about accuracy is about "
            "the file before that. `layertap check` compares its results with those of Keras.",
            LayertapWarning,
            stacklevel=3,
        )
    return Model(program)


@public
class Model:
    """An opened ONNX file: its layers, and their activations. Made by `layertap.open`.

    It is safe to use from several threads.
    """

    card: Card | None
    """The file's description of itself; `None` in a file that layertap did not export."""
    layers: tuple[Layer, ...]
    """All layers, in the order of Keras's `model.layers`. In a file without a card: every tensor
    that a node of the graph writes, in the order in which they are computed."""
    inputs: tuple[TensorInfo, ...]
    """The model's inputs, with their shapes (channels last, `None` for a free size) and dtypes."""
    outputs: tuple[TensorInfo, ...]
    """The model's own outputs; in a file without a card, the graph's."""
    metadata: Mapping[str, str]
    """The file's metadata other than the card."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.card, self.layers = program.card, program.layers
        self.inputs, self.outputs = program.inputs, program.outputs
        self.metadata = program.metadata

    @property
    def path(self) -> Path | None:
        """The file; `None` for a model that was opened from bytes."""
        return self._program.source.path

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the file's path, or the bytes; the copy opens it again."""
        settings = self._program.settings
        options = settings.session_options
        if not (options is None or isinstance(options, Mapping)):
            raise UsageError(
                "a model with an onnxruntime.SessionOptions cannot be pickled. Give "
                "session_options as a dict."
            )
        source = self._program.source
        given = source.data if isinstance(source, BytesSource) else source.path.absolute()
        return partial(open, **vars(settings)), (given,)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{one_line(x.name)} {shape_text(x.shape)}" for x in self.inputs)
        return (
            f"<layertap.Model {self._program.name}: {number_of(len(self.layers), 'layer')}, "
            f"inputs {shortened(inputs, 200) or 'none'}, device {self.device}>"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: this line, and the table of layers."""
        return as_html(f"{self!r}\n\n{self.summary()}")

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the sessions and their memory. The model and its taps cannot run afterwards.

        This happens by itself when a model is no longer referenced. Closing it twice is allowed.
        """
        self._program.close()

    @property
    def device(self) -> str:
        """Where the model runs: `cpu`, `cuda:0`, ..., or the first of `providers` in lower case."""
        return self._program.engine.device

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes, in the order of the output's last axis, if the card has them."""
        return self._program.labels

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How images become inputs, if the card contains that.

        Raises:
            PreprocessingError: the card's recipe is invalid for this version of layertap.
        """
        return self._program.preprocessing

    def layer(self, what: str | int | Layer) -> Layer:
        """The layer with this exact name or index (negative ones count from the end).

        Raises:
            LayerNotFoundError: no layer has it, or the file does not expose the layer.
        """
        return self._program.layer(what)

    def select(
        self,
        what: Selector | Iterable[Selector] | None = None,
        type: str | Iterable[str] | None = None,  # noqa: A002 - Keras's own word
    ) -> list[Layer]:
        """The layers that `what` selects, with a class in `type`.

        Args:
            what: an exact name, a glob (`conv5_*`), `re:PATTERN`, an index, a slice, a `Layer`, or
                a list of these; `None` selects all layers that the file exposes.
            type: a Keras class name (`Conv2D`) or several; in a file without a card, ONNX op types.

        Returns:
            Each layer once, in the order requested.

        Raises:
            LayerNotFoundError: a selector matches nothing.
        """
        return self._program.select(what, type)

    def summary(self, size: Sequence[int] | None = None, batch: int = 1) -> str:
        """The table that Keras's `model.summary()` prints, with the size of each activation in MB.

        Args:
            size: the input's free sizes after the batch axis, `(height, width)` for images; with
                it, the MB of layers with free sizes are estimated (`~`).
            batch: number of samples that the MB are for.

        Returns:
            A string; a notebook shows it as a table, and so does a Python prompt.
        """
        return Text(as_text(self.layers, activation_costs(self.layers, self.card, size, batch)))

    def tap(
        self,
        layers: Asked = None,
        *,
        dtype: Any = None,
        contiguous: bool = False,
        on_device: bool = False,
    ) -> Tap:
        """Prepare to fetch the activations of `layers`, or reductions of them.

        Args:
            layers: see `select`; or a dict from such a selector to the name of a reduction (or
                `None`, for the whole activation), as in `{"bn": "mean", "conv5_*": "max"}`. If
                several selectors match one layer, the last one applies. Reductions are computed in
                the graph, so that only their small result leaves the session:

                - `mean`, `max`: over all axes except batch and channels, `(n, c)`;
                - `mean_l2`: the mean, divided by its Euclidean norm (zeros stay zeros), `(n, c)`;
                - `flatten`: all axes except the batch in one, in their order, `(n, h * w * c)`;
                - `top5`, or any other number: a `TopChannels` of the channels with the largest
                  means, `.channels` and `.values`, each `(n, 5)`, the largest first.

                Which axis the channels are is in the card, or follows from the operators. Where
                neither tells, they are the last axis in a file from Keras, and the axis after the
                batch in any other.
            dtype: `float16`, `float32` or `float64`; floating-point results are cast to it in the
                graph, which is many times faster than in numpy, with the same result.
            contiguous: return C-contiguous arrays: the graph transposes them to Keras's order of
                axes, which is cheaper than a copy.
            on_device: leave results in the memory of the model's device, and return them as
                `onnxruntime.OrtValue`s, in Keras's order of axes. Other libraries read these by
                DLPack without a copy (`torch.from_dlpack(value)`, `cupy.from_dlpack(value)`, on the
                CPU `numpy.from_dlpack(value)`; onnxruntime 1.21 and newer). `value.numpy()` copies
                them into an array.

        Raises:
            LayerNotFoundError: a selector matches nothing.
            UsageError: unknown reduction or dtype, or a layer without channels.
            ModelFileError: onnxruntime rejects the file, or it was changed.
            DependencyError: onnxruntime is not installed.
        """
        return Tap(self, layers, dtype, contiguous, on_device)

    @overload
    def activations(
        self,
        inputs: Any,
        layers: int | Layer,
        preprocess: Recipe | None = None,
        *,
        dtype: Any = None,
        contiguous: bool = False,
        on_device: bool = False,
        batch_size: int | None = None,
        timeout: float | None = None,
    ) -> Array: ...
    @overload
    def activations(
        self,
        inputs: Any,
        layers: str,
        preprocess: Recipe | None = None,
        *,
        dtype: Any = None,
        contiguous: bool = False,
        on_device: bool = False,
        batch_size: int | None = None,
        timeout: float | None = None,
    ) -> Any: ...
    @overload
    def activations(
        self,
        inputs: Any,
        layers: slice | Iterable[Selector] | None = None,
        preprocess: Recipe | None = None,
        *,
        dtype: Any = None,
        contiguous: bool = False,
        on_device: bool = False,
        batch_size: int | None = None,
        timeout: float | None = None,
    ) -> dict[str, Array]: ...
    @overload
    def activations(
        self,
        inputs: Any,
        layers: Mapping[Any, str | None],
        preprocess: Recipe | None = None,
        *,
        dtype: Any = None,
        contiguous: bool = False,
        on_device: bool = False,
        batch_size: int | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]: ...
    def activations(
        self,
        inputs: Any,
        layers: Asked = None,
        preprocess: Recipe | None = None,
        *,
        dtype: Any = None,
        contiguous: bool = False,
        on_device: bool = False,
        batch_size: int | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Fetch the activations of `layers` for `inputs`.

        The graph is cut down to the request before it runs. The session is kept for the next call
        with the same layers; a model keeps the last four.

        Args:
            inputs: a batch `(n, h, w, c)`, as any array-like that has all axes; or an image or a
                list of images (paths, bytes, PIL images, uint8 or uint16 arrays `(h, w, c)`), a
                folder, an iterator or a pandas Series of images, to which the card's preprocessing
                is applied. If the model has several inputs: a
                dict by input name, or a list in the order of `Model.inputs`; inputs that the layers
                do not depend on may be omitted. A dict may also name inputs with a default value
                (initializers that the file lists as inputs), which are not in `Model.inputs`.
                An `onnxruntime.OrtValue`, or an object that supports DLPack (a CUDA tensor of
                torch, a cupy array), is used without a copy if it is on the model's device; it must
                have the input's dtype.
            layers: see `select`; or a dict of reductions, see `tap`.
            preprocess: a recipe for images instead of the card's: a `Preprocessing`, a dict, the
                path of a JSON file, or a name, see `Preprocessing.of`.
            dtype: what to cast floating-point results to, see `tap`.
            contiguous: return C-contiguous arrays, see `tap`.
            on_device: return `onnxruntime.OrtValue`s, see `tap`.
            batch_size: number of samples that are run at once, so that besides the results only
                their inputs are in memory. By default lists, folders and iterators of images are
                run in batches of 16, and arrays at once.
            timeout: time in seconds after which the run is stopped; by default it takes as long as
                it takes. onnxruntime stops between two operators, usually within milliseconds.
                Ctrl-C stops a run in the same way. The model can be used again afterwards.

        Returns:
            For one exact name, index or `Layer`: the array, in the layer's Keras shape, channels
            last. Otherwise a dict from layer names to arrays, in the order requested. The arrays
            are views of memory that onnxruntime allocated, often of a channels-first array, and so
            are not contiguous unless `contiguous` is given. A view keeps that memory alive: copy
            (`numpy.array`) what you keep for long. The "activation" of an input is the array that
            was fed, not a copy.

        Raises:
            LayerNotFoundError: a selector matches nothing; nothing has been computed.
            InputError: an input is missing, or of the wrong rank, size or dtype.
            ImageError: an image cannot be read.
            RunTimeoutError: the run took longer than `timeout`.
        """
        if timeout is not None:
            with time_limit(timeout):
                fetch: Any = self.activations
                return fetch(
                    inputs,
                    layers,
                    preprocess,
                    dtype=dtype,
                    contiguous=contiguous,
                    on_device=on_device,
                    batch_size=batch_size,
                )
        tap = self.tap(layers, dtype=dtype, contiguous=contiguous, on_device=on_device)
        if batch_size is None and not _may_be_many(inputs):
            return tap(inputs, preprocess)
        from .extract.batched import run_in_batches

        run = partial(tap, preprocess=preprocess)
        return run_in_batches(self._program, run, inputs, batch_size, tap.layers, on_device)

    def predict(
        self,
        inputs: Any,
        preprocess: Recipe | None = None,
        *,
        on_device: bool = False,
        batch_size: int | None = None,
        timeout: float | None = None,
    ) -> Any:
        """The model's own output for `inputs`; see `activations` for what these may be.

        Args:
            batch_size: number of samples that are run at once, see `activations`.
            on_device: return `onnxruntime.OrtValue`s, see `tap`.
            timeout: see `activations`.

        Returns:
            An array; if the model has several outputs, a dict from their names to arrays.
        """
        program = self._program
        asked = program.request_outputs()
        on_device = flag("on_device", on_device)
        with time_limit(timeout):
            run = program.runner(asked, peeled=not on_device, on_device=on_device)
            if batch_size is None and not _may_be_many(inputs):
                return run(inputs, preprocess)
            from .extract.batched import run_in_batches

            part = partial(run, preprocess=preprocess)
            return run_in_batches(program, part, inputs, batch_size, (), on_device)

    def decode(self, scores: Any, top: int = 5) -> list[list[tuple[str, float]]]:
        """The best classes of each sample, as Keras's `decode_predictions` lists them.

            >>> model.decode(model.predict("chest.png"), top=2)
            [[('Hernia', 0.71), ('Mass', 0.12)]]

        Args:
            scores: what `predict` returned for a model with one output, `(n, classes)`; of a model
                with several, the output with the classes. A file with two labels may have one
                score, that of the second.
            top: the most classes that are listed for each sample.

        Returns:
            For each sample a list of pairs, a label and its score, the highest score first. In a
            file without labels the classes are named by their numbers: `'0'`, `'1'`, ...

        Raises:
            UsageError: these are not scores of the file's classes, or `top` is no count.
        """
        from .cam.decoding import decode

        return decode(self._program, scores, top)

    def gradients(
        self,
        inputs: Any,
        layers: Selector | Iterable[Selector] | None = None,
        target: Target = "top",
        preprocess: Recipe | None = None,
        *,
        at: At | None = None,
        timeout: float | None = None,
    ) -> Any:
        """The gradient of a class's score with respect to layers, computed by the file itself.

        This needs a file with gradients, and works for the layers that were named when they were
        added: `layertap export --gradients LAYER`, or `layertap gradients FILE --layers LAYER`. The
        score is the input of the final sigmoid or softmax (the logit), unless the file was made
        differently; see `model.card.gradients`.

        Args:
            inputs: see `activations`.
            layers: see `select`; also the name of an input. `None`, patterns and slices select the
                layers that have a gradient.
            target: the class, or classes, to explain. One target: a label, the index of a class, or
                `"top"`, each image's class with the highest score. Several targets: a list of
                these, or `"all"`, every class. Different targets for each image: a list of lists,
                one per image, all of the same length. A weighted sum of scores: an array of
                floats, `(classes,)` or `(n, classes)`, or `(n, targets, classes)` for several
                sums. If there are scores at many positions, as in a segmentation, they are summed;
                an array is then `(classes,)` or has the shape of the output, with or without the
                axis of the samples, or `(n, targets, ...)`: a weight, or a truth value, for each
                score. In a file whose score is a layer, the classes are its channels.
            preprocess: a recipe for images instead of the card's.
            at: for scores at many positions, which of them: a point, `(row, column)`; a box,
                `(top, left, bottom, right)`, without the last two; or an array of the positions'
                shape, `(h, w)`: a mask, or weights. The scores are summed there, and `"top"` is the
                best class there. By default all of them.
            timeout: see `activations`.

        Returns:
            For one exact name, index or `Layer`: an array of the layer's shape, channels last,
            `(n, h, w, c)`; for a list of targets (also a list of one) `(n, targets, h, w, c)`.
            Otherwise a dict of such arrays, in the order requested.

        Raises:
            ModelFileError: the file has no gradients.
            LayerNotFoundError: a selector matches nothing, or only layers without a gradient.
            UsageError: unknown class, targets that do not fit the batch, or places that the scores
                do not have.
            InputError: see `activations`.
            ImageError: see `activations`.
        """
        from .cam.gradients import layer_gradients

        with time_limit(timeout):
            return layer_gradients(self._program, inputs, layers, target, preprocess, at)

    def jacobian(
        self,
        inputs: Any,
        layers: Selector | Iterable[Selector] | None = None,
        rows: Any = None,
        preprocess: Recipe | None = None,
        *,
        batch_size: int = 32,
        max_gb: float = 2.0,
        timeout: float | None = None,
    ) -> Any:
        """The Jacobian: the derivative of every score with respect to every value of a layer.

            model.jacobian(x)  # (n, 3, 8) for 3 outputs of 8 inputs
            model.jacobian(x, "dense_1", rows=[0, 2])  # (n, 2, 64)

        This needs a file with gradients, see `gradients`, and computes what
        `tf.GradientTape.batch_jacobian` does. The scores are those that the file differentiates:
        the model's output, or the logits in front of a final sigmoid or softmax; see
        `model.card.gradients.score`.

        Args:
            inputs: see `activations`.
            layers: see `select`; also the name of an input. By default the inputs that the file has
                a gradient for: `layertap export --gradients input`.
            rows: which scores: an index or a label, or a list of these; where there are scores at
                many positions, tuples of indices, `(row, column, class)`. By default all.
            preprocess: a recipe for images instead of the card's.
            batch_size: number of rows that are computed in one run. The file is run once up to the
                layer for each sample, and from there on for each batch of rows. Some files take one
                row in a run.
            max_gb: the largest size of one result in GB (10^9 bytes) that is not refused.
            timeout: see `activations`.

        Returns:
            For one exact name, index or `Layer`, and for one input: an array
            `(n, *scores, *layer)`: the shape of one sample's scores, classes last, then that of
            the layer without its samples. With a list in `rows` `(n, rows, *layer)`, with one score
            `(n, *layer)`. Otherwise a dict of such arrays, in the order requested.

        Raises:
            ModelFileError: the file has no gradients.
            LayerNotFoundError: a selector matches nothing, or a layer without a gradient.
            UsageError: there is no such score, or the result would be larger than `max_gb`.
            InputError: see `activations`.
            ImageError: see `activations`.
        """
        from .cam.jacobians import jacobian

        with time_limit(timeout):
            return jacobian(
                self._program,
                inputs,
                layers,
                rows,
                preprocess,
                batch_size=batch_size,
                max_gb=max_gb,
            )

    def cam(
        self,
        inputs: Any,
        layer: str | int | Layer | None = None,
        target: Target = "top",
        *,
        method: str | None = None,
        normalize: bool = True,
        resize: bool | Sequence[int] = True,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
        mask: str = "layer",
        channels: int | None = None,
        window: Any = None,
        stride: Any = None,
        samples: int | None = None,
        cells: Any = None,
        keep: float | None = None,
        baseline: Any = None,
        seed: int = 0,
        batch_size: int = 32,
        output: str | None = None,
        reshape: Callable[[Any], Any] | None = None,
        preprocess: Recipe | None = None,
        at: At | None = None,
        heads: str | None = None,
        timeout: float | None = None,
    ) -> npt.NDArray[np.float32]:
        """Heat maps: which parts of an image the score of a class depends on.

        `layertap.cam.methods` contains the formulas and the papers.

        - `gradcam`, `gradcam++`, `xgradcam`, `layercam`, `hirescam`, `gradcamelementwise` and
          `eigengradcam` need a file with gradients, see `gradients`. Activations, gradients and
          prediction come from one run if the graph allows it.
        - `eigencam` and `kpcacam` use the activations only, and give one map for all targets.
        - `scorecam` and `ablationcam` run the network again for each channel of the layer, in
          batches, and use the score before a final sigmoid or softmax. Only the part after the
          layer is run again: the masks are applied to its activations. The paper of Score-CAM masks
          the image, which runs the whole network for each channel: that is `mask="input"`.
        - `occlusion`, `rise`, `reciprocam` and `kernelshap` need no gradient either. They run the
          network again with positions masked: with a window removed, with random masks, with one
          position alone, and with coalitions of patches. With a layer, its positions are masked,
          and only the part after it is run again; without, the positions of the image are
          (`reciprocam` needs a layer). `rise` and `reciprocam` read the model's output, such as a
          probability, as their papers do; the others the score before a final sigmoid or softmax.
          `layertap.cam.masking` contains these formulas.
        - `rollout` and `gradientrollout` need a vision transformer whose file has the scores of its
          attention layers, and take no layer: they join all of them. `rollout` gives one map for
          all targets; `gradientrollout` needs gradients of the scores,
          `gradients=["attention"]` at the export. `layertap.cam.rollout` contains these formulas.

        Args:
            inputs: see `activations`.
            layer: the name, index or `Layer` of a layer with feature maps, or of one with the
                tokens of a vision transformer, see `Layer.tokens`; or `"last-conv"` for the last of
                them (of a transformer, for what its last attention layer reads). By default the
                last layer that the file has a gradient for. Without a layer, `occlusion`, `rise`
                and `kernelshap` mask the image. For the rollouts: one layer of scores, for a map of
                this layer alone.
            target: the class, or classes, to explain; see `gradients`. Where it has no meaning
                (`eigencam`, `kpcacam`, `rollout`), a warning says so.
            method: the method's name; case, hyphens and underscores are ignored. By default
                `gradcam`, and in a finished file the method that it computes.
            normalize: set negative values to 0, resize, and divide by the maximum, so that the
                largest value is 1; a map of zeros stays 0. The least value of `rise`,
                `reciprocam` and the rollouts is subtracted first. Otherwise the map is the result
                of the formula, which can only be compared with maps of the same method.
            resize: whether to enlarge the map to the size of the model's input, with OpenCV's
                bilinear interpolation; or a size, `(height, width)`.
            aug_smooth: average the maps of six versions of the image: as given, darker and brighter
                (0.9 and 1.1 times the model's input), and all three mirrored. Takes six times as
                long.
            eigen_smooth: use the first principal component of the weighted activations instead of
                their sum.
            mask: what `scorecam` masks: `layer` or `input`.
            channels: number of channels that `scorecam` and `ablationcam` try, those with the
                largest mean absolute activation; by default all.
            window: number of positions, one or one for each axis, of a window of `occlusion` or a
                patch of `kernelshap`; by default an eighth of each axis.
            stride: for `occlusion`: by how many positions the window moves, at most its size; by
                default half of it.
            samples: for `rise`: number of masks, by default 1,000. For `kernelshap`: the largest
                number of coalitions, by default 2,048 and twice the number of patches; if there are
                no more coalitions than that, the values are exact.
            cells: for `rise`: number of cells of a mask, one or one for each axis; by default 7.
            keep: for `rise`: the probability that a cell is kept, by default 0.5.
            baseline: what replaces masked positions: a number, 0 by default; an array that fits; or
                `"zero"`, `"mean"` (of each channel) or `"blur"`. It is in the units of the layer,
                or of the model's input, where 0 is the mean image if images are standardized.
            seed: for `rise` and `kernelshap`: the same seed and numpy version give the same masks,
                however images are batched.
            batch_size: number of images, and of channels or masks for methods that try them, that
                are run at once.
            output: name of the output that contains the classes, for methods without gradients, if
                the model has several outputs.
            reshape: converts the layer's values, and the gradient's, into feature maps
                `(n, h, w, c)`, for layers without feature maps. Tokens of which the file states
                the grid need none.
            preprocess: a recipe for images instead of the card's.
            at: the places of the scores, see `gradients`. Methods without gradients take the mean
                of the scores there.
            heads: for `rollout`: how the scores of all heads become one matrix, `mean` (default),
                `max` or `min`.
            timeout: time in seconds for all runs together, see `activations`.

        Returns:
            float32. `(h, w)` if one image (not a list, or an array with a batch axis) and one
            target (not a list) were given; otherwise always `(n, targets, h, w)`. If the layer has
            not two but another number of axes between batch and channels, so has the map.

        Raises:
            ModelFileError: the method needs gradients, and the file has none.
            LayerNotFoundError: unknown layer, or the method needs its gradient, and the file does
                not have it.
            UsageError: unknown class or method; a layer without feature maps; a score that does not
                depend on the layer.
            InputError: see `activations`.
            ImageError: see `activations`.
        """
        from .extract.batched import cam_in_batches

        with time_limit(timeout):
            maps: npt.NDArray[np.float32] = cam_in_batches(
                self,
                inputs,
                layer,
                target,
                batch_size,
                method=method,
                normalize=normalize,
                resize=resize,
                aug_smooth=aug_smooth,
                eigen_smooth=eigen_smooth,
                mask=mask,
                channels=channels,
                window=window,
                stride=stride,
                samples=samples,
                cells=cells,
                keep=keep,
                baseline=baseline,
                seed=seed,
                output=output,
                reshape=reshape,
                preprocess=preprocess,
                at=at,
                heads=heads,
            )
            return maps

    def attribute(
        self,
        inputs: Any,
        method: str = "saliency",
        target: Target = "top",
        *,
        steps: int = 50,
        baseline: Any = None,
        background: Any = None,
        samples: int | None = None,
        noise: float = 0.15,
        window: Any = None,
        stride: Any = None,
        cells: Any = None,
        keep: float | None = None,
        seed: int = 0,
        batch_size: int = 16,
        input_name: str | None = None,
        output: str | None = None,
        preprocess: Recipe | None = None,
        at: At | None = None,
        timeout: float | None = None,
    ) -> Any:
        """How much each element of the input contributes to a class's score.

        The first methods need a file with the gradient with respect to its input: `layertap export
        --gradients input`. Below, `x` is the model's input (the preprocessed image) and `G(x)` is
        that gradient.

        - `saliency`: `|G(x)|`. Simonyan, Vedaldi and Zisserman 2013: Deep Inside Convolutional
          Networks. https://arxiv.org/abs/1312.6034
        - `input_x_gradient`: `x G(x)`. Shrikumar et al. 2016: Not Just a Black Box.
          https://arxiv.org/abs/1605.01713
        - `smoothgrad`: the mean of `G(x + e)` over `samples` draws of Gaussian noise `e`, with a
          deviation of `noise` times the range of each sample's `x`. Smilkov et al. 2017:
          SmoothGrad. https://arxiv.org/abs/1706.03825
        - `integrated_gradients`: `(x - b) * integral of G(b + a (x - b)) da`, `a` from 0 to 1, for
          a baseline `b`; by Gauss-Legendre quadrature with `steps` points. The attributions add
          up to `score(x) - score(b)`, up to the error of the quadrature. Sundararajan, Taly and Yan
          2017: Axiomatic Attribution for Deep Networks. https://arxiv.org/abs/1703.01365
        - `expected_gradients`: the mean of `(x - b) G(b + a (x - b))` over `samples` draws of `b`
          from a background and of `a` from 0 to 1. The attributions add up to `score(x)` less the
          mean score of the background, up to the error of the draws. Erion et al. 2021: Improving
          performance of deep learning models with axiomatic attribution priors and expected
          gradients. https://arxiv.org/abs/1906.10670

        The others need no gradient, and take any file. They run the network again with parts of
        the input replaced by a baseline: windows and patches of the positions of an image, a
        sequence or a volume with all their channels; columns of a table `(n, columns)`; or tokens,
        `(n, tokens)` of an integer or string dtype. `layertap.cam.masking` contains the formulas.

        - `occlusion`: the drop of the score without a window, the mean over the windows that an
          element is in.
        - `rise`: the mean of the output (such as a probability) over random masks, for those that
          keep the element.
        - `kernelshap`: Shapley values of the patches, columns or tokens, divided evenly among their
          elements. The attributions add up to `score(x) - score(b)`.

        Args:
            inputs: see `activations`.
            method: one of the names above.
            target: the class, or classes, to explain; see `gradients`.
            steps: for `integrated_gradients`: number of points.
            baseline: for `integrated_gradients` and the methods without gradients, in the units of
                the model's input (where 0 is the mean image, if images are standardized): a number,
                0 by default, or an array for one sample or for all; for images also `"mean"` (of
                each channel) or `"blur"`; for tokens one of them, such as that of padding; or a
                dict of these by input name.
            background: for `expected_gradients` and, instead of a baseline, for `kernelshap`:
                samples `(k, ...)` to compare with, in the units of the model's input, or a dict by
                input name. `kernelshap` takes the mean score over them, in `k` times as many runs.
            samples: for `smoothgrad` and `expected_gradients`: number of draws, by default 25 and
                200. For `rise` and `kernelshap`: see `cam`.
            noise: for `smoothgrad`: deviation of the noise, as a fraction of the range of `x`.
            window: for `occlusion` and `kernelshap`, see `cam`; or a dict by input name. By default
                1 for columns and tokens.
            stride: for `occlusion`, see `cam`.
            cells: for `rise`, see `cam`. By default each column and token is a cell.
            keep: for `rise`, see `cam`.
            seed: for methods that draw: the same seed and numpy version give the same draws,
                however the samples are batched.
            batch_size: number of points or masks per run.
            input_name: the only input to explain, if the model has several. The others stay as they
                are.
            output: name of the output that contains the classes, for methods without gradients, if
                the model has several outputs.
            preprocess: a recipe for images instead of the card's.
            at: the places of the scores, see `cam`.
            timeout: time in seconds for all runs together, see `activations`.

        Returns:
            float32, of the input's shape `(n, h, w, c)`; for a list of targets (also a list of one)
            `(n, targets, h, w, c)`. If the model has several inputs and no `input_name` is given, a
            dict by input name, of those that the file has gradients for if the method needs them.
            Integrated and expected gradients move all of them together, and the players of
            `kernelshap` are those of all inputs; the other methods mask one after the other.

        Raises:
            ModelFileError: the method needs gradients, and the file has none.
            LayerNotFoundError: it has none with respect to its input.
            UsageError: unknown class, method, input or output; an option that does not fit the
                input or the method; too few samples for the players of `kernelshap`.
            InputError: see `activations`; or a baseline that does not fit.
            ImageError: see `activations`.
        """
        from .cam.attributions import attribute

        with time_limit(timeout):
            return attribute(
                self._program,
                inputs,
                method,
                target,
                steps=steps,
                baseline=baseline,
                background=background,
                samples=samples,
                noise=noise,
                window=window,
                stride=stride,
                cells=cells,
                keep=keep,
                seed=seed,
                batch_size=batch_size,
                input_name=input_name,
                output=output,
                preprocess=preprocess,
                at=at,
            )

    def picture(
        self,
        inputs: Any,
        layer: str | int | Layer | None = None,
        target: Target = "top",
        *,
        method: str = "gradcam",
        image: ImageSource | None = None,
        show: str = "figure",
        colormap: str | None = None,
        alpha: float | None = None,
        opacity: str = "fixed",
        contours: int = 0,
        original: bool = True,
        bar: bool = True,
        caption: str | None = None,
        percentile: float = 99.0,
        columns: int = 6,
        width: int | None = None,
        font: str | os.PathLike[str] | None = None,
        preprocess: Recipe | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Image:
        """A heat map or an attribution over the image that it is about, as a picture.

            model.picture("chest.png", target="Edema").save("edema.png")

        The image keeps its geometry and its resolution: where the recipe crops it, the map lies on
        the part that the model saw. `layertap.view.documents.save_picture` writes PNG, PDF and SVG
        in a size and resolution.

        Args:
            inputs: one sample, see `activations`.
            layer: the layer of a heat map, see `cam`.
            target: the class, or classes, to explain, see `gradients`; each gets a map.
            method: a method of `cam` or of `attribute`. Values of `integrated_gradients` and the
                like are summed over the channels of a pixel; of those of `saliency` the largest is
                drawn.
            image: the image to draw, if `inputs` are arrays that are ready, or if another one is to
                be drawn. Without one, the colours of the map are drawn alone.
            show: `figure`: the image and the overlays side by side, with titles, a colour bar and a
                caption; `overlay`: the overlay alone; `map`: the colours of the map alone.
            colormap: one of `layertap.view.colormaps.COLORMAPS`; by default `jet`, or `RdBu_r` for
                values with a sign.
            alpha: opacity of the map, 0 to 1; by default 0.5, or 0.8 with `opacity="heat"`.
            opacity: `fixed`: `alpha` everywhere; `heat`: `alpha` times the heat, so that cold parts
                stay clear.
            contours: number of contour lines.
            original: whether a figure shows the image without the map, too.
            bar: whether a figure has a colour bar.
            caption: the text below a figure; by default method and layer, and of one target its
                class and score; `""` for none.
            percentile: of the absolute values of an attribution, the one that gets the last colour;
                larger values are drawn like it.
            columns: number of pictures in a row.
            width: the width of the picture in pixels; by default that of the image, and what the
                text needs.
            font: a font file, for labels with characters that the font of Pillow lacks.
            preprocess: a recipe for images instead of the card's.
            timeout: time in seconds for all runs together, see `activations`.
            options: other arguments of `cam` or `attribute`, such as `steps=20`.

        Returns:
            A `PIL.Image.Image` in RGB.

        Raises:
            UsageError: see `cam` and `attribute`; or an invalid value of an option, several targets
                for a bare overlay or map, or no room in `width`.
            InputError: several samples were given; see also `activations`.
            ModelFileError, LayerNotFoundError, ImageError: see `cam`.
        """
        from .view.explained import Style, picture

        style = Style(
            show=show,
            colormap=colormap,
            alpha=alpha,
            opacity=opacity,
            contours=contours,
            original=original,
            bar=bar,
            caption=caption,
            percentile=percentile,
            columns=columns,
            width=width,
            font=font,
        )
        with time_limit(timeout):
            return picture(
                self,
                inputs,
                layer,
                target,
                method=method,
                image=image,
                preprocess=preprocess,
                style=style,
                options=options,
            )

    def sheet(
        self,
        inputs: Any,
        layer: str | int | Layer,
        *,
        image: ImageSource | None = None,
        channels: int | Iterable[int] | None = None,
        count: int = 17,
        scale: str = "own",
        colormap: str = "gray",
        statistics: bool = False,
        original: bool = True,
        caption: str | None = None,
        tile: int = 160,
        columns: int = 6,
        width: int | None = None,
        font: str | os.PathLike[str] | None = None,
        preprocess: Recipe | None = None,
        timeout: float | None = None,
    ) -> Image:
        """The feature maps of a layer for one sample side by side, as a picture.

            model.sheet("chest.png", "conv1_relu", scale="common", colormap="viridis")

        Args:
            inputs: one sample, see `activations`.
            layer: the name, index or `Layer` of a layer with feature maps.
            image: the image to draw, see `picture`.
            channels: the channels to draw, in this order; by default those with the largest mean
                absolute activation.
            count: without `channels`, how many.
            scale: `own`: each map from its own minimum to its maximum; `common`: all maps alike,
                with a colour bar.
            colormap: one of `layertap.view.colormaps.COLORMAPS`; `RdBu_r` is for values with a
                sign.
            statistics: whether minimum, mean and maximum are below each map.
            original: whether the image is drawn first.
            caption: the text below the maps; by default the layer and its size; `""` for none.
            tile: length of a map's longer side in pixels.
            columns: number of maps in a row.
            width: the width of the sheet in pixels, instead of `tile`.
            font: a font file, see `picture`.
            preprocess: a recipe for images instead of the card's.
            timeout: see `activations`.

        Returns:
            A `PIL.Image.Image` in RGB.

        Raises:
            LayerNotFoundError: unknown layer.
            UsageError: the layer has no feature maps, a channel does not exist, or an invalid value
                of an option.
            InputError: several samples were given; see also `activations`.
            ImageError: see `activations`.
        """
        from .view.sheets import sheet

        with time_limit(timeout):
            return sheet(
                self,
                inputs,
                layer,
                image=image,
                original=flag("original", original),
                caption=caption,
                preprocess=preprocess,
                channels=channels,
                count=count,
                scale=scale,
                colormap=colormap,
                statistics=statistics,
                tile=tile,
                columns=columns,
                width=width,
                font=font,
            )

    def stream(
        self,
        source: Any,
        layers: Any = None,
        *,
        dtype: Any = None,
        batch_size: int = 16,
        workers: int | None = None,
        preprocess: Recipe | None = None,
        reader: str | Callable[[Any], Any] | None = None,
    ) -> Iterator[Batch]:
        """Compute layers of a whole collection, batch by batch, in order.

            for batch in model.stream("images", {"bn": "mean"}):
                for id, row in zip(batch.ids, batch["bn"]):
                    ...

        Images are read, prepared and run in several threads, shortly before they are needed: at
        most two batches for each worker are in memory. An image that cannot be read does not end
        the loop: its row is NaN (0 for integers), `batch.ok` is False there, and `batch.errors`
        says why. When the loop is left, the threads end.

        Args:
            source: a folder, an image, a `.tar` or `.zip` archive of images, or an `.npy` file with
                a row for each item; or a sequence of such paths, of images in any form (paths,
                bytes, PIL images, integer arrays), or of (id, image) pairs; a data set of Hugging
                Face or torch, a pandas Series, an array `(n, h, w, c)`; or an iterator of images.
                Integers are pixels, which are prepared; arrays of floats are ready.
            layers: see `tap`. In addition, a layer may have several reductions (`{"bn": ["mean",
                "max"]}`, named `bn=mean` and `bn=max`), and a text in a list may contain one
                (`["bn=mean"]`). `grad:LAYER` is a gradient, `cam:CLASS` a heat map.
            dtype: `float16`, `float32` or `float64`; floating-point results are cast to it.
            batch_size: number of items in a batch.
            workers: number of threads; by default the number of cores.
            preprocess: a recipe for images instead of the card's.
            reader: a function that makes an image of a path (of bytes, for members of archives), or
                its name, `"module:function"`. It runs in processes of its own.

        Returns:
            An iterator of `Batch`es.

        Raises:
            LayerNotFoundError: a selector matches nothing.
            UsageError: a layer's size depends on the image; an unknown reduction; the model needs
                several inputs.
            ImageError: the source does not exist, or contains no image.
            InputError: the model cannot be run on the images; the message names them.
        """
        from .extract.stream import stream

        return stream(
            self._program,
            source,
            layers,
            dtype=dtype,
            batch_size=batch_size,
            workers=workers,
            preprocess=preprocess,
            reader=reader,
        )

    def layer_statistics(
        self,
        source: Any,
        layers: Selector | Iterable[Selector] | None = None,
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        preprocess: Recipe | None = None,
        progress: Progress = None,
    ) -> LayerStatistics:
        """What layers do on a collection: mean, deviation, extremes, zeros, dead channels.

            found = model.layer_statistics("images")
            print(found)
            found["conv1_relu"].dead  # channels that are 0 in every image

        The collection is run once, in several threads, and only sums are kept. Layers that would
        take over 1 GB for one image together are computed in groups, each in a run of its own. The
        result does not depend on the number of threads. docs/layer-statistics.md describes it.

        Args:
            source: see `extract`: a folder, images, an archive, an array, a sequence of these.
            layers: see `select`; by default all that the file exposes.
            batch_size: number of images in one run; by default 1 on a CPU, 16 for a file under
                1 MB, and 32 on another device.
            workers: number of threads; by default the number of cores.
            preprocess: a recipe for images instead of the card's.
            progress: `True` for a line on stderr; or a function of two integers, the number of
                images that are done and of all images.

        Returns:
            `LayerStatistics`. Images that cannot be read are in `failures`, and layers whose
            values are not numbers in `left_out`.

        Raises:
            LayerNotFoundError: a selector matches nothing.
            UsageError: no layer can be measured; or the layers need several inputs.
            ImageError: there are no images, or none can be read.
            InputError: the model cannot be run on the images; the message names them.
        """
        from .measuring.collecting import layer_statistics

        return layer_statistics(
            self._program,
            source,
            layers,
            batch_size=batch_size,
            workers=workers,
            preprocess=preprocess,
            progress=progress,
        )

    def cost(
        self,
        layers: Selector | Iterable[Selector] | None = None,
        *,
        size: Sequence[int] | None = None,
        measure: Any = None,
        runs: int = 10,
        preprocess: Recipe | None = None,
    ) -> LayerCosts:
        """What each layer costs: multiply-adds, parameters, bytes, and measured milliseconds.

        The graph is run once as it is in the file, for the shapes of all tensors. Each operator
        belongs to the layer that it is named for in the file. docs/cost.md describes the numbers.

        Args:
            layers: see `select`; by default all, those that the file does not expose included.
            size: the sizes of the first input's free axes after the batch axis, `(height, width)`
                for images; by default those of the golden sample. The batch is 1.
            measure: measure times: `"random"` for random inputs, or an image or a batch, see
                `activations`; then `size` is that of the bytes and multiply-adds only.
            runs: number of timed runs, of which the medians are taken.
            preprocess: a recipe for an image instead of the card's.

        Returns:
            `LayerCosts`, which `layertap.Split` finds the best place to cut from.

        Raises:
            LayerNotFoundError: a selector matches nothing.
            UsageError: the sizes do not fit, or are not known; the model was opened with an
                `onnxruntime.SessionOptions`.
            InputError: the model cannot be run at this size, or on this image.
            ImageError: the image cannot be read.
        """
        from .measuring.costing import layer_costs

        return layer_costs(
            self._program,
            layers,
            size=size,
            measure=measure,
            runs=runs,
            preprocess=preprocess,
        )

    def receptive_field(
        self,
        layers: Selector | Iterable[Selector] | None,
        at: Sequence[int] | int | None = None,
        *,
        input_name: str | None = None,
        size: Sequence[int] | None = None,
        measure: Any = None,
        preprocess: Recipe | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Which pixels of the input a position of a layer depends on.

            field = model.receptive_field("conv2_block3_out", (10, 4))
            field.box  # ((23, 58), (0, 34)): rows 23 to 57, columns 0 to 33
            field.size, field.stride, field.start  # (35, 35), (4, 4), (-17, -17)

        It follows from the operators of the graph, whatever the weights are: kernel sizes, strides,
        dilations, padding, enlargements, slices, reshapes. docs/receptive-fields.md describes it.

        Args:
            layers: see `select`: layers with feature maps, sequences or volumes.
            at: the position of the layer, `(row, column)`, counted from 0; by default the one in
                the middle.
            input_name: the input, if the layers depend on several that have positions.
            size: the sizes of the first input's free axes after the batch axis, `(height, width)`
                for images; by default those of the golden sample.
            measure: also measure `measured`: `"random"` for a random input, or one sample, see
                `activations`. It takes about 35 runs up to the layer for an image, and up to four
                times as many where nothing changes.
            preprocess: a recipe for an image instead of the card's.
            timeout: time in seconds for all runs together, see `activations`.

        Returns:
            For one exact name, index or `Layer`: a `ReceptiveField`. Otherwise a dict from layer
            names to these, of the layers that have positions.

        Raises:
            LayerNotFoundError: a selector matches nothing.
            UsageError: the layer has no positions, or not the one in `at`; the sizes do not fit, or
                are not known; or an operator on the way is not known, which the message names.
            InputError: see `activations`.
            ImageError: see `activations`.
        """
        from .measuring.receptive_field import receptive_field

        with time_limit(timeout):
            return receptive_field(
                self._program,
                layers,
                at,
                input_name=input_name,
                size=size,
                measure=measure,
                preprocess=preprocess,
            )

    def resume(
        self,
        given: Mapping[Any, Any],
        layers: Asked = None,
        preprocess: Recipe | None = None,
        *,
        timeout: float | None = None,
    ) -> Any:
        """Continue a run from given activations, without computing anything before them.

        A layer that only passes values on (a Dropout, say) is one tensor in the file with the layer
        before it: a value given for one of them counts for both. A given activation that the
        requested layers do not read, because another given one lies in between, is ignored.

        Args:
            given: activations by layer (its name, index or `Layer`), in the layer's Keras shape;
                views that layertap returned are used without a copy. Together they must determine
                the requested layers; inputs of the model may be among them, by name.
            layers: what to compute, as in `activations`; by default the model's own outputs, as
                `predict` returns them.
            preprocess: a recipe for images among the given inputs, instead of the card's.
            timeout: see `activations`.

        Raises:
            LayerNotFoundError: a selector matches nothing.
            InputError: an activation of the wrong rank, size or dtype; or the given ones are not
                enough, and the message says which layer to add.
            UsageError: two of the given layers are the same tensor.
        """
        from ._engine.resume import resume

        with time_limit(timeout):
            return resume(self._program, given, layers, preprocess)

    def edit(
        self,
        inputs: Any,
        changes: Mapping[Any, Callable[[Any], Any]],
        layers: Asked = None,
        preprocess: Recipe | None = None,
        *,
        timeout: float | None = None,
    ) -> Any:
        """Run up to some layers, change their activations, and continue with the changed ones.

        Nothing is computed twice. If one changed layer comes after another, its function receives
        the activation that results from the first change.

            def without_channel_7(activation):
                activation[..., 7] = 0
                return activation

            model.edit("chest.png", {"conv5_block16_concat": without_channel_7})

        Args:
            inputs: see `activations`.
            changes: functions by layer (its name, index or `Layer`) or by input name. Each is
                called once, with the activation in the layer's Keras shape, which it may change in
                place, and returns one of the same shape.
            layers: what to compute, as in `activations`; by default the model's own outputs, as
                `predict` returns them.
            preprocess: a recipe for images instead of the card's.
            timeout: time in seconds for all runs together, see `activations`.

        Raises:
            LayerNotFoundError: a selector matches nothing.
            InputError: an input, or the result of a function, has the wrong rank, size or dtype.
            UsageError: two of the layers are the same tensor, or a changed layer does not affect
                any requested layer.
        """
        from ._engine.resume import edit

        with time_limit(timeout):
            return edit(self._program, inputs, changes, layers, preprocess)

    def check(self, tolerance: float | None = None, *, timeout: float | None = None) -> CheckReport:
        """Compare this machine with the golden sample in the file: Keras's own results.

            if not model.check():
                raise SystemExit("the model computes something else here")

        Args:
            tolerance: largest scaled error that passes: the largest difference, divided by the
                layer's largest value. By default the tolerance of the export, which depends on the
                dtypes that Keras computed in, or more for layers that the file, which may have
                been converted since, computes in float16 or bfloat16.
            timeout: see `activations`.

        Returns:
            A `CheckReport`, which is true if every layer passed. `report.layers` has a row for each
            layer, `report.table()` is for people, `report.to_dict()` for JSON.

        Raises:
            ModelFileError: the file contains no golden sample.
            UsageError: the tolerance is negative or not a number.
            RunTimeoutError: the run took longer than `timeout`.
        """
        from .comparing.check import check

        return check(self, tolerance, timeout=timeout)

    def record(
        self,
        inputs: Any,
        path: str | os.PathLike[str],
        layers: Selector | Iterable[Selector] | None = None,
        *,
        keep_inputs: bool = True,
        preprocess: Recipe | None = None,
        timeout: float | None = None,
    ) -> None:
        """Write what this machine computes to a small file, to be compared on another machine.

            model.record("images", "here.npz")  # on one
            layertap.compare("here.npz", "model.onnx")  # on the other

        Of each layer the file keeps some hundred values at seeded positions, the mean and the mean
        square of each channel, and the largest value.

        Args:
            inputs: see `activations`; `None` for the golden sample.
            path: the file to write, `.npz`; an existing file is replaced once it is complete.
            layers: which layers, see `select`; by default all but scores of attention, and
                outputs that are no layers.
            keep_inputs: whether the inputs are in the file, as arrays. Without them, give the same
                images to `compare`.
            preprocess: a recipe for images instead of the card's.
            timeout: time in seconds for all runs together, see `activations`.

        Raises:
            LayerNotFoundError: a selector matches nothing.
            InputError: see `activations`; also if there is no sample.
            ImageError: see `activations`.
            UsageError: the inputs are too large for a record, or there is no golden sample.
            OutputError: the file cannot be written.
        """
        from .comparing.record_file import record_to_file

        keep_inputs = flag("keep_inputs", keep_inputs)
        with time_limit(timeout):
            record_to_file(
                self._program,
                inputs,
                path,
                layers,
                keep_inputs=keep_inputs,
                preprocess=preprocess,
            )

    def extract(
        self,
        source: Any,
        layers: Any,
        output: str | os.PathLike[str],
        *,
        dtype: Any = None,
        preprocess: Recipe | None = None,
        items: str | os.PathLike[str] | None = None,
        column: str | None = None,
        reader: str | Callable[[Any], Any] | None = None,
        cam_layer: str | int | Layer | None = None,
        batch_size: int | None = None,
        chunk: int | None = None,
        workers: int | None = None,
        shard: str | tuple[int, int] | None = None,
        max_failures: str | float | None = None,
        retry_failed: bool = False,
        overwrite: bool = False,
        strict: bool = False,
        progress: Progress = None,
        dry_run: bool = False,
    ) -> Any:
        """Compute layers of a whole collection, and write them to a folder.

            features = model.extract("images", {"bn": "mean"}, "out")
            features["bn"]  # (rows, 1024), an array on the disk

        Row `i` belongs to item `i`, always: the row of an image that cannot be read is NaN (0 for
        integers), and `features.ok` is False there. The same call continues after any end, also
        that of the process or the machine: what is lost are the images in hand. A collection that
        is complete is returned as it is. docs/collections.md describes the files.

        Args:
            source: see `stream`; but not an iterator, which has no length. Empty, as in `[]`, if
                `items` is given.
            layers: see `stream`.
            output: the folder; it is created. If its name ends in `.zarr`, the arrays are a zarr
                store.
            dtype: `float16`, `float32` or `float64`; floating-point results are cast to it. Values
                beyond 65,504 are infinite in float16; `features.nonfinite` counts them.
            preprocess: a recipe for images instead of the card's.
            items: a text file with a path in each line, or a CSV file, relative to its folder.
                `"-"` is stdin; paths from a pipe are relative to the current folder.
            column: the column of the paths in a CSV file; by default the first.
            reader: see `stream`.
            cam_layer: the layer of heat maps; see `cam`.
            batch_size: number of images in one run; by default 1 on a CPU, where more are not
                faster, 16 for a file under 1 MB, and 32 on another device or for arrays that are
                ready.
            chunk: number of images that are finished, and written, together.
            workers: number of threads; by default the number of cores.
            shard: `"2/8"` or `(2, 8)` computes the second of eight parts, for example on another
                machine; `layertap features merge` joins them.
            max_failures: stop when more images than this have failed: a number, or a share of them
                such as `"1%"` or 0.01.
            retry_failed: try the images again that failed before.
            overwrite: replace a collection that was begun with another request.
            strict: refuse to continue with other versions of the libraries, or on another device,
                instead of a warning.
            progress: `True` for a line on stderr; or a function of two integers, the number of rows
                that are done and of all rows.
            dry_run: write nothing, and return the `Bill`: what would be written, and how long it
                would take.

        Returns:
            `Features`; a `Bill` for `dry_run=True`.

        Raises:
            CollectionMismatchError: the collection in this folder was begun with another request.
            CollectionBusyError: another process writes to it.
            CollectionError: the folder is something else, or the collection is damaged.
            OutputError: the disk is full or fails, or would be full.
            ImageError: there are no images, or too many failed.
            LayerNotFoundError, UsageError, InputError: see `stream`.
        """
        from .extract.extraction import Extraction

        with Extraction(
            self._program,
            source,
            layers,
            output,
            dtype=dtype,
            preprocess=preprocess,
            listed=items,
            column=column,
            reader=reader,
            cam_layer=cam_layer,
            batch_size=batch_size,
            chunk=chunk,
            workers=workers,
            shard=shard,
            max_failures=max_failures,
            retry_failed=retry_failed,
            overwrite=overwrite,
            strict=strict,
        ) as extraction:
            if flag("dry_run", dry_run):
                return extraction.bill(tried=True)
            extraction.check()
            return extraction.run(progress)

    def view(
        self,
        inputs: Any,
        path: str | os.PathLike[str],
        layers: Selector | Iterable[Selector] | None = None,
        *,
        methods: str | Iterable[str] | None = None,
        target: Target | None = None,
        top: int = 5,
        channels: int | None = None,
        cam_layer: str | int | Layer | None = None,
        max_mb: float = 10.0,
        live: bool = False,
        engine: str | os.PathLike[str] | None = None,
        preprocess: Recipe | None = None,
        timeout: float | None = None,
    ) -> tuple[str, ...]:
        """Write a page for the browser: one file that opens by double click, without a network.

        It has the table of layers with a search, feature maps, scores, heat maps, and what the card
        says. docs/view.md describes it. The same inputs give the same bytes.

        Args:
            inputs: see `activations`; `None`, or an empty list, for a page without samples.
            path: the page to write, `.html`; an existing file is replaced.
            layers: the layers whose values are in the page, see `select`; by default up to 60.
            methods: methods of heat maps, see `cam`; by default `gradcam`, `layercam`, `hirescam`
                and `eigencam`, or `eigencam` alone if the file has no gradients.
            target: the classes of the heat maps: labels or indices, `"all"`, or `"top"`; every
                sample gets a map for each. By default the best classes of the samples.
            top: how many classes are listed for each sample.
            channels: number of channels of each layer, those with the largest mean absolute
                activation over the samples; by default up to 64, as many as fit.
            cam_layer: the layer of the heat maps; by default as in `cam`, or `"last-conv"` if the
                file has no gradients.
            max_mb: largest size of the page in MB. What does not fit is stored in a lower
                resolution: the means of square blocks.
            live: put the model and an engine into the page instead of values: it takes pictures by
                drag and drop or from a camera, and computes any layer. `layers`, `methods`,
                `target`, `cam_layer` and `max_mb` have no effect then.
            engine: for `live`: the folder of the engine, which `make javascript` builds; by default
                that in the environment variable LAYERTAP_ENGINE, or of this checkout.
            preprocess: a recipe for images instead of the card's.
            timeout: time in seconds for all runs together, see `activations`.

        Returns:
            What the page leaves out, a sentence each; nothing if it has everything.

        Raises:
            LayerNotFoundError: a selector matches nothing.
            UsageError: an unknown class or method, or heat maps that the file cannot give; or, for
                `live`, a model that takes no pictures or is too large for a browser.
            DependencyError: for `live`: the engine is not there; the message says how to get it.
            ModelFileError: a method needs gradients, and the file has none.
            InputError: see `activations`.
            ImageError: see `activations`.
            OutputError: the file cannot be written.
        """
        from .view.web_page import write_page

        with time_limit(timeout):
            return write_page(
                self._program,
                inputs,
                path,
                preprocess=preprocess,
                live=live,
                engine=engine,
                layers=layers,
                methods=methods,
                target=target,
                top=top,
                channels=channels,
                cam_layer=cam_layer,
                max_mb=max_mb,
            )

    def cut(
        self,
        path: str | os.PathLike[str],
        start: Selector | Iterable[Selector] | None = None,
        end: Selector | Iterable[Selector] | None = None,
        *,
        class_input: str | None = None,
        strip: bool = False,
    ) -> None:
        """Write the part of the model between some layers and others as a file of its own.

        The file is plain ONNX, with a card if this file has one. Its inputs are the layers in
        `start`, with their names and shapes in Keras; its outputs are those in `end`. The outputs
        of one part can be fed to the next unchanged: with `reproducible=True` for both, the result
        has the same bits as that of the whole model, on one machine.

        Args:
            path: the file to write; an existing file is replaced once the new one is complete.
            start: layers, see `select`, and names of inputs; by default the model's inputs.
            end: layers, see `select`, and names of outputs that are gradients (`grad/conv1`); by
                default the model's own outputs. The part's card describes the gradients if the
                output that they belong to is included.
            class_input: `"required"` or `"optional"`: whether clients of a part with gradients have
                to feed the weights of the classes; by default as in this file.
            strip: whether the card of the part says only what a client needs to run it: no
                measured errors, no golden sample, and only the layers that are outputs.

        Raises:
            LayerNotFoundError: a selector matches nothing.
            InputError: `start` is not enough for `end`; the message says which layer to add.
            UsageError: a layer is both start and end, `end` does not depend on it, or `class_input`
                is given and the part has no gradients.
            OutputError: the file cannot be written.
        """
        from ._engine.part_file import cut_to_file

        cut_to_file(self._program, path, start, end, class_input, strip)


@public
class Tap:
    """Fetches the activations of some layers. Made by `Model.tap`, with its session ready to run.

    It is safe to use from several threads.
    """

    layers: tuple[Layer, ...]
    """The layers, in the order requested."""

    def __init__(
        self, model: Model, asked: Asked, dtype: Any, contiguous: bool, on_device: bool
    ) -> None:
        program = model._program
        if isinstance(asked, Iterator):  # it is kept for pickling
            asked = list(asked)
        if not (contiguous.__class__ is bool and on_device.__class__ is bool):
            contiguous, on_device = flag("contiguous", contiguous), flag("on_device", on_device)
        peeled = not (contiguous or on_device)
        request = program.request(asked, dtype, peeled)
        self.layers = request.layers
        self._runner = program.runner(request, peeled=peeled, on_device=on_device)
        self._model = model
        self._made_from = model, asked, dtype, contiguous, on_device

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the model and the request."""
        return Tap, self._made_from

    def __repr__(self) -> str:
        names = ", ".join(repr(layer.name) for layer in self.layers[:3])
        more = f" and {len(self.layers) - 3} more" if len(self.layers) > 3 else ""
        return f"<layertap.Tap {names}{more} of {self._model!r}>"

    def __call__(
        self, inputs: Any, preprocess: Recipe | None = None, *, timeout: float | None = None
    ) -> Any:
        """Run the model as far as needed; see `Model.activations`."""
        if timeout is None:
            return self._runner(inputs, preprocess)
        with time_limit(timeout):
            return self._runner(inputs, preprocess)
