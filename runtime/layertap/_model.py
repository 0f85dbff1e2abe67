"""`open`, and what it gives: a `Model`, and the `Tap`s that fetch activations out of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from ._engine.program import Program
from ._engine.settings import Provider, Settings
from ._public import public
from .errors import UsageError
from .format.card import Card, TensorInfo
from .format.cost import activation_costs
from .format.layer import Layer
from .format.select import Selector
from .format.source import BytesSource, FileSource
from .format.table import as_text
from .format.text import shape_text

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from ._engine.feeds import Recipe
    from ._engine.request import Asked
    from .cam.targets import Target
    from .images.preprocessing import Preprocessing

Array: TypeAlias = "npt.NDArray[Any]"


@public
def open(  # noqa: A001 - the word that users know from every library that opens files
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

    Only its index is read: names, edges and the card, not the weights. The file is not kept open;
    when it has been changed by the time it is needed again, that is an error.

    Args:
        source: the `.onnx` file, or its contents.
        device: `cpu`; `cuda` or `cuda:1` (an NVIDIA card); `auto`, which takes the card where it
            works, and else the CPU; or another device that the installed onnxruntime was built for:
            `openvino` (`openvino:gpu`, `openvino:npu`), `coreml`, `directml`, `webgpu`, `tensorrt`,
            `migraphx`, `rocm`, `qnn`, `xnnpack`. One that does not work is an error; `layertap
            devices` lists which do, and why the others do not. `Model.device` says which is in use.
            All compute in float32 where they can.
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
        reproducible: run the graph as it stands, on one thread: then a layer's values do not hang
            on what is asked for beside it, and a run that is resumed from a layer gives what the
            whole run gives, bit for bit (on one machine with one onnxruntime). Without it they may
            differ by about 1e-6 of the layer's scale, because what onnxruntime fuses hangs on what
            is an output. It takes about a quarter more time, beside that of the missing threads.
        tf32: let an NVIDIA card round float32 to TF32, which has 10 bits of mantissa: faster on
            Ampere cards and newer, and off by about 1e-3 of an activation's scale. For
            `device="cuda"` and `auto`.
        prefer_nhwc: let an NVIDIA card convolve channels last, which its tensor cores do best:
            onnxruntime turns the graph around for it. Whether that is faster hangs on the card and
            the network; `python -m benchmarks.gpu` tells. For `device="cuda"` and `auto`.

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
        reproducible=reproducible,
        tf32=tf32,
        prefer_nhwc=prefer_nhwc,
    )
    if isinstance(source, (bytes, bytearray, memoryview)):
        if share_weights:
            raise UsageError("share_weights=True needs a file; bytes cannot be shared.")
        return Model(Program(BytesSource(bytes(source)), settings))
    if not isinstance(source, (str, os.PathLike)):
        raise UsageError(f"a {type(source).__name__} cannot be opened. Give a path, or bytes.")
    return Model(Program(FileSource(source), settings))


@public
class Model:
    """An opened ONNX file: its layers, and their activations. Made by `layertap.open`.

    It may be used from any number of threads.
    """

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
        """Pickled as the file's path, or as the bytes; the copy opens it again."""
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
        inputs = ", ".join(f"{info.name} {shape_text(info.shape)}" for info in self.inputs)
        return (
            f"<layertap.Model {self._program.name}: {len(self.layers)} layers, "
            f"inputs {inputs or 'none'}, device {self.device}>"
        )

    @property
    def device(self) -> str:
        """Where the model runs: `cpu`, `cuda:0`, ..., or the first of `providers` in short."""
        return self._program.engine.device

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes, in the order of the output's last axis, if the card has them."""
        return self._program.labels

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How images become inputs, if the card says so.

        Raises:
            PreprocessingError: the card's recipe makes no sense to this layertap.
        """
        return self._program.preprocessing

    def layer(self, what: str | int | Layer) -> Layer:
        """The layer with this exact name or index (negative ones count from the end).

        Raises:
            LayerNotFoundError: there is none, or the file does not expose it.
        """
        return self._program.layer(what)

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
        return self._program.select(what, type)

    def summary(self, size: Sequence[int] | None = None, batch: int = 1) -> str:
        """The table that Keras's `model.summary()` prints, and the MB that an activation costs.

        Args:
            size: the input's free sizes behind the batch axis, `(height, width)` for images; with
                it the MB of layers with free sizes are estimated (`~`).
            batch: how many samples the MB are for.
        """
        return as_text(self.layers, activation_costs(self.layers, self.card, size, batch))

    def tap(
        self,
        layers: Asked = None,
        *,
        dtype: Any = None,
        contiguous: bool = False,
        on_device: bool = False,
    ) -> Tap:
        """Prepare to fetch the activations of `layers`, or of reductions of them.

        Args:
            layers: see `select`; or a dict from such a selector to the name of a reduction (or
                `None`, for the whole activation), as in `{"bn": "mean", "conv5_*": "max"}`. Of
                several selectors that name one layer the last counts. Reductions are computed in
                the graph, so that only their small result leaves the session:

                - `mean`, `max`: over all axes but those of the batch and the channels, `(n, c)`;
                - `mean_l2`: the mean, divided by its Euclidean norm (zeros stay zeros), `(n, c)`;
                - `flatten`: all axes but the batch in one, channels last, `(n, h * w * c)`;
                - `top5`, or any other number: a `TopChannels` of the channels with the largest
                  means, `.channels` and `.values`, each `(n, 5)`, the largest first.

                Channels are the last axis; in a file without a card, which does not say where
                they are, the axis after the batch, as in ONNX's operators.
            dtype: `float16`, `float32` or `float64`, to which floating-point results are cast in
                the graph: many times faster than in numpy, and with the same result.
            contiguous: return C-contiguous arrays: the axes are put into Keras's order in the
                graph, which costs less than a copy.
            on_device: leave results in the memory of the model's device, and return them as
                `onnxruntime.OrtValue`s, in Keras's order of axes. Other libraries take these over
                by DLPack without a copy (`torch.from_dlpack(value)`, `cupy.from_dlpack(value)`,
                on the CPU `numpy.from_dlpack(value)`; onnxruntime 1.21 and newer); `value.numpy()`
                copies them into an array.

        Raises:
            LayerNotFoundError: something matches nothing.
            UsageError: no such reduction or dtype, or a layer that has no channels.
            ModelFileError: onnxruntime does not take the file, or it was changed.
            DependencyError: onnxruntime is not installed.
        """
        if layers is not None and not isinstance(layers, (str, int, slice, Layer, Mapping)):
            layers = list(layers)
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
    ) -> Any:
        """Fetch the activations of `layers` for `inputs`.

        The graph is cut down to the request before it runs; the prepared session is kept for the
        next call with the same layers (the last `SESSIONS` of them).

        Args:
            inputs: a batch `(n, h, w, c)`, as any array-like that has all axes; or an image or a
                list of images (paths, bytes, PIL images, uint8 or uint16 arrays `(h, w, c)`),
                to which the card's preprocessing is applied. Where the model has several inputs, a
                dict by input name, or a list in the order of `Model.inputs`; those that the layers
                do not depend on may be left out. A dict may also name inputs that the file has a
                value for (initialisers that it lists as inputs), which are not in `Model.inputs`.
                An `onnxruntime.OrtValue`, or an object with DLPack (a CUDA tensor of torch, an
                array of cupy), that is on the model's device goes in without a copy; it must have
                the input's dtype.
            layers: see `select`; or a dict of reductions, see `tap`.
            preprocess: a recipe for images instead of the card's: a `Preprocessing`, a dict, or
                the path of a JSON file.
            dtype: what to cast floating-point results to, see `tap`.
            contiguous: return C-contiguous arrays, see `tap`.
            on_device: return `onnxruntime.OrtValue`s, see `tap`.

        Returns:
            For one exact name, index or `Layer`: the array, in the layer's Keras shape, channels
            last. Else a dict from layer names to arrays, in the order asked. They are views on the
            memory that onnxruntime hands over, often of a channels-first array: not contiguous,
            unless `contiguous` is given. A view holds on to onnxruntime's memory, so that what is
            kept for long had better be copied (`numpy.array`). The "activation" of an input is
            what was fed, uncopied.

        Raises:
            LayerNotFoundError: something matches nothing; nothing has been computed.
            InputError: an input is missing, or of the wrong rank, size or dtype.
            ImageError: an image cannot be read.
        """
        tap = self.tap(layers, dtype=dtype, contiguous=contiguous, on_device=on_device)
        return tap(inputs, preprocess)

    def predict(
        self, inputs: Any, preprocess: Recipe | None = None, *, on_device: bool = False
    ) -> Any:
        """The model's own output for `inputs`; see `activations` for what these may be.

        Args:
            on_device: return `onnxruntime.OrtValue`s, see `tap`.

        Returns:
            An array; where the model has several outputs, a dict from their names to arrays.
        """
        program = self._program
        run = program.runner(program.request_outputs(), peeled=not on_device, on_device=on_device)
        return run(inputs, preprocess)

    def gradients(
        self,
        inputs: Any,
        layers: Selector | Iterable[Selector] | None = None,
        target: Target = "top",
        preprocess: Recipe | None = None,
    ) -> Any:
        """The gradient of a class's score with respect to layers, which the file computes itself.

        Only files that were given gradients can do so, and only for the layers that were named
        then: `layertap export --gradients LAYER`, or `layertap gradients FILE --layers LAYER`. The
        score is what goes into the final sigmoid or softmax, unless the file was made otherwise
        (`model.card.gradients` says).

        Args:
            inputs: see `activations`.
            layers: see `select`; also the name of an input. `None`, patterns and slices take those
                that have a gradient.
            target: whose score. One target: a label, the index of a class, or `"top"`, the class
                with the highest score, of every image its own. Several: a list of these. Others
                for each image: a list of lists, one per image, all of one length. Any mix of the
                scores: an array of floats, `(classes,)`, `(n, classes)`, or for several mixes
                `(n, targets, classes)`. Where the scores have many places, as in a segmentation,
                the sum over them.
            preprocess: a recipe for images instead of the card's.

        Returns:
            For one exact name, index or `Layer`: an array of the layer's shape, channels last,
            `(n, h, w, c)`; for several targets (a list, be it of one) `(n, targets, h, w, c)`.
            Else a dict of such arrays, in the order asked.

        Raises:
            ModelFileError: the file gives no gradients.
            LayerNotFoundError: something matches nothing, or nothing that has a gradient.
            UsageError: no such class, or targets that do not fit the batch.
            InputError, ImageError: see `activations`.
        """
        from .cam.gradients import gradients

        return gradients(self._program, inputs, layers, target, preprocess)

    def cam(
        self,
        inputs: Any,
        layer: str | int | Layer | None = None,
        target: Target = "top",
        *,
        method: str = "gradcam",
        normalize: bool = True,
        resize: bool | Sequence[int] = True,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
        mask: str = "layer",
        channels: int | None = None,
        batch_size: int = 32,
        output: str | None = None,
        reshape: Callable[[Any], Any] | None = None,
        preprocess: Recipe | None = None,
    ) -> npt.NDArray[np.float32]:
        """Heat maps: where in an image the evidence for a class is.

        `layertap.cam.methods` has the formulas and the papers. Of the methods,

        - `gradcam`, `gradcam++`, `xgradcam`, `layercam`, `hirescam`, `gradcamelementwise` and
          `eigengradcam` need a file with gradients, see `gradients`; activations, gradients and
          prediction come from one run where the graph allows;
        - `eigencam` and `kpcacam` look at the activations alone, and give one map for all targets;
        - `scorecam` and `ablationcam` run the network again for each channel of the layer, many at
          a time, and look at the score before a final sigmoid or softmax. Only what follows the
          layer is run again: the masks are laid on its activations. The paper of Score-CAM masks
          the image, which takes all of the network for each channel: that is `mask="input"`.

        Args:
            inputs: see `activations`.
            layer: a name, index or `Layer`, one with feature maps; by default the last one that the
                file gives gradients of.
            target: which class, or classes, see `gradients`.
            method: its name; capitals, hyphens and underscores do not count.
            normalize: set what is below 0 to 0, resize, and divide by the maximum, so that the
                hottest place is 1; a map without heat stays 0. Else the map is what the formula
                gives, and means something only beside others of the same method.
            resize: whether to enlarge the map to the size of the model's input, by bilinear
                interpolation as OpenCV's; or a size, `(height, width)`.
            aug_smooth: average the maps of the image as it is, darker and brighter (0.9, 1.1 times
                the model's input), and of all three flipped from left to right: six times the work.
            eigen_smooth: take the first principal component of the weighted activations, not their
                sum.
            mask: what `scorecam` masks: `layer` or `input`.
            channels: how many channels `scorecam` and `ablationcam` try, those with the largest
                mean absolute activation; by default all.
            batch_size: how many channels they try at a time.
            output: the output whose classes are meant, for methods without gradients, where the
                model has several.
            reshape: makes feature maps `(n, h, w, c)` of the layer's values, and of the gradient's,
                for layers that have none: the tokens of a transformer, for one.
            preprocess: a recipe for images instead of the card's.

        Returns:
            float32. `(h, w)` if one image was given (and not a list, or an array with a batch axis)
            and one target (and not a list); else always `(n, targets, h, w)`. Layers with other
            than two axes between the batch and the channels give maps with as many.

        Raises:
            ModelFileError: the method needs gradients, and the file gives none.
            LayerNotFoundError: no such layer, or the method needs its gradient, and the file does
                not give it.
            UsageError: no such class or method; a layer without feature maps; a score that does not
                depend on the layer.
            InputError, ImageError: see `activations`.
        """
        from .cam.heat_maps import cam

        return cam(
            self,
            inputs,
            layer,
            target,
            method=method,
            normalize=normalize,
            resize=resize,
            aug_smooth=aug_smooth,
            eigen_smooth=eigen_smooth,
            mask=mask,
            channels=channels,
            batch_size=batch_size,
            output=output,
            reshape=reshape,
            preprocess=preprocess,
        )

    def attribute(
        self,
        inputs: Any,
        method: str = "saliency",
        target: Target = "top",
        *,
        steps: int = 50,
        baseline: Any = 0.0,
        samples: int = 25,
        noise: float = 0.15,
        seed: int = 0,
        batch_size: int = 16,
        preprocess: Recipe | None = None,
    ) -> Any:
        """How much each element of the input counts for a class's score.

        It needs a file that gives the gradient with respect to its input: `layertap export
        --gradients input`. In what follows `x` is the model's input (what comes of an image by
        preprocessing) and `G(x)` that gradient.

        - `saliency`: `|G(x)|`. Simonyan, Vedaldi and Zisserman 2013: Deep Inside Convolutional
          Networks. https://arxiv.org/abs/1312.6034
        - `input_x_gradient`: `x G(x)`. Shrikumar et al. 2016: Not Just a Black Box.
          https://arxiv.org/abs/1605.01713
        - `smoothgrad`: the mean of `G(x + e)` over `samples` draws of Gaussian noise `e`, with a
          deviation of `noise` times the range of each sample's `x`. Smilkov et al. 2017:
          SmoothGrad. https://arxiv.org/abs/1706.03825
        - `integrated_gradients`: `(x - b) * integral of G(b + a (x - b)) da`, `a` from 0 to 1, for
          a baseline `b`; by Gauss and Legendre's rule with `steps` places. The attributions add up
          to `score(x) - score(b)`, as far as the steps suffice. Sundararajan, Taly and Yan 2017:
          Axiomatic Attribution for Deep Networks. https://arxiv.org/abs/1703.01365

        Args:
            inputs: see `activations`.
            method: one of these.
            target: whose score, see `gradients`.
            steps: of `integrated_gradients`.
            baseline: of `integrated_gradients`, in the units of the model's input (where 0 is the
                mean picture, if images are standardised): a number, or an array for one sample or
                for all; a dict of these by input name.
            samples: of `smoothgrad`.
            noise: of `smoothgrad`.
            seed: of `smoothgrad`: the same seed and numpy give the same noise, in whatever batches.
            batch_size: how many places to compute gradients at at a time.
            preprocess: a recipe for images instead of the card's.

        Returns:
            float32, of the input's shape `(n, h, w, c)`; for several targets (a list, be it of one)
            `(n, targets, h, w, c)`. Where the model has several inputs, a dict by input name of
            those that the file gives gradients of; integrated gradients go along all of them.

        Raises:
            ModelFileError: the file gives no gradients.
            LayerNotFoundError: it gives none with respect to its input.
            UsageError: no such class or method.
            InputError, ImageError: see `activations`; or a baseline that does not fit.
        """
        from .cam.attributions import attribute

        return attribute(
            self._program,
            inputs,
            method,
            target,
            steps=steps,
            baseline=baseline,
            samples=samples,
            noise=noise,
            seed=seed,
            batch_size=batch_size,
            preprocess=preprocess,
        )

    def resume(
        self,
        given: Mapping[Any, Any],
        layers: Asked = None,
        preprocess: Recipe | None = None,
    ) -> Any:
        """Run on from given activations, and compute nothing that comes before them.

        Layers that only hand on what another gives (a Dropout and the layer before it) are one
        tensor in the file: what is given for one of them holds for all. Given activations that
        what is asked for does not read, because others lie between, are left alone.

        Args:
            given: activations by layer (its name, index or `Layer`), in the layer's Keras shape;
                views that came out of layertap go back in without a copy. They must separate the
                inputs from what is asked for; inputs of the model may be among them, by name.
            layers: what to compute, as for `activations`; by default the model's own outputs, in
                the form of `predict`.
            preprocess: a recipe for images among the given inputs, instead of the card's.

        Raises:
            LayerNotFoundError: something matches nothing.
            InputError: an activation of the wrong rank, size or dtype; or what is given does not
                suffice, and the message says which layer to add.
            UsageError: two of the given layers are one tensor.
        """
        from ._engine.resume import resume

        return resume(self._program, given, layers, preprocess)

    def edit(
        self,
        inputs: Any,
        changes: Mapping[Any, Callable[[Any], Any]],
        layers: Asked = None,
        preprocess: Recipe | None = None,
    ) -> Any:
        """Run to some layers, change their activations, and run on with what came of it.

        Nothing is computed twice. Where one changed layer comes after another, its function gets
        what the model makes of the first change.

            def without_channel_7(activation):
                activation[..., 7] = 0
                return activation

            model.edit("chest.png", {"conv5_block16_concat": without_channel_7})

        Args:
            inputs: see `activations`.
            changes: functions by layer (its name, index or `Layer`) or by input name. Each is
                called once, with the activation in the layer's Keras shape, which it may change in
                place, and returns one of the same shape.
            layers: what to compute, as for `activations`; by default the model's own outputs, in
                the form of `predict`.
            preprocess: a recipe for images instead of the card's.

        Raises:
            LayerNotFoundError: something matches nothing.
            InputError: an input, or what a function returned, is of the wrong rank, size or dtype.
            UsageError: two of the layers are one tensor, or a change that changes nothing that is
                asked for.
        """
        from ._engine.resume import edit

        return edit(self._program, inputs, changes, layers, preprocess)

    def cut(
        self,
        path: str | os.PathLike[str],
        start: Selector | Iterable[Selector] | None = None,
        end: Selector | Iterable[Selector] | None = None,
    ) -> None:
        """Write the part of the model between some layers and others as a file of its own.

        It is plain ONNX, with a card if this file has one. Its inputs are the layers in `start`,
        named and shaped as in Keras, its outputs those in `end`. What one part gives goes into the
        next as it is: with `reproducible=True` on both sides the result is that of the whole, bit
        for bit on one machine.

        Args:
            path: the file to write; it is replaced once the new one is complete.
            start: layers, see `select`, and names of inputs; by default the model's inputs.
            end: layers, see `select`, and names of outputs that are gradients (`grad/conv1`); by
                default the model's own outputs. The part's card tells of gradients if the output
                that they are of is there, too.

        Raises:
            LayerNotFoundError: something matches nothing.
            InputError: the part needs more than `start`; the message says which layer to add.
            UsageError: a layer is both start and end, or nothing is computed from it.
            OutputError: the file cannot be written.
        """
        from ._engine.part_file import cut_to_file

        cut_to_file(self._program, path, start, end)


@public
class Tap:
    """Fetches the activations of some layers. Made by `Model.tap`; its session is ready to run.

    It may be used from any number of threads.
    """

    layers: tuple[Layer, ...]
    """The layers, in the order asked."""

    def __init__(
        self, model: Model, asked: Asked, dtype: Any, contiguous: bool, on_device: bool
    ) -> None:
        program = model._program
        peeled = not (contiguous or on_device)
        request = program.request(asked, dtype, peeled)
        self.layers = request.layers
        self._runner = program.runner(request, peeled=peeled, on_device=on_device)
        self._model = model
        self._made_from = model, asked, dtype, contiguous, on_device

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as what it was made from."""
        return Tap, self._made_from

    def __repr__(self) -> str:
        names = ", ".join(repr(layer.name) for layer in self.layers[:3])
        more = f" and {len(self.layers) - 3} more" if len(self.layers) > 3 else ""
        return f"<layertap.Tap {names}{more} of {self._model!r}>"

    def __call__(self, inputs: Any, preprocess: Recipe | None = None) -> Any:
        """Run the model as far as needed; see `Model.activations`."""
        return self._runner(inputs, preprocess)
