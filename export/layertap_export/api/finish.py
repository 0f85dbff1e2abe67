"""From a file with layers and gradients to one that takes a picture and gives a heat map."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

import layertap
from layertap._arguments import count, flag
from layertap._engine.program import Program, program_of
from layertap._engine.stopping import time_limit
from layertap._public import public
from layertap.cam.methods import DEFAULT
from layertap.comparing.golden import feeds
from layertap.errors import PreprocessingError, UsageError
from layertap.extract.asked import GRADIENT, HEAT_MAP, what_is_asked
from layertap.format.atomic import check_target
from layertap.format.data_file import replacing_model
from layertap.format.digest import digest_of, inherited
from layertap.format.external import find_weights
from layertap.format.layer import Layer
from layertap.format.select import Selector
from layertap.format.source import FileSource
from layertap.format.stripping import stripped
from layertap.images.preprocessing import Preprocessing, example
from layertap_export.errors import VerificationError
from layertap_export.finishing.assemble import Wanted, assemble, samples_of
from layertap_export.finishing.options import check_effects
from layertap_export.gradients.reading import card_of, read
from layertap_export.graph.weights import Initializers
from layertap_export.verification.finished_files import Comparison, golden_sample
from layertap_export.verification.samples import sample
from layertap_export.verification.written_file import WrittenFile
from layertap_export.writing import Writer, append_card

from .arguments import check_source
from .final_check import Verified, check_finished
from .finish_report import FinishReport


@public
def finish(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    image_input: bool = True,
    batch: bool = False,
    preprocess: Any = None,
    heat_map: str | int | Layer | bool | None = None,
    method: str | None = None,
    output: str | None = None,
    top: int | None = None,
    layers: Selector | Iterable[Selector] | Mapping[Any, Any] | None = (),
    strip: bool = False,
    timeout: float | None = None,
) -> FinishReport:
    """Write a file that does everything itself, in any onnxruntime: a picture of any size goes in,
    and scores, the best classes, layers and a heat map in the size of the picture come out.

    What is added are ONNX's own operators; the weights are those of `source`. The picture is
    prepared as `layertap` prepares it, bit for bit. Before the file is renamed into place, it is
    compared with `Model.predict` and `Model.cam` on random pictures of several sizes.

    Inputs of the new file:

    - `image`, uint8, `(height, width, channels)` with 1, 3 or 4 channels, any size; with `batch`,
      `(n, height, width, channels)`. The channels are grey, RGB, or RGB and alpha.
    - `target`, int64, `(1,)` or `(n,)`: the class that the heat map explains; -1 is the one with
      the highest score. Only if the heat map depends on it.

    Outputs: the model's own, then `top_scores`, float32 `(n, top)`, and `top_classes`, int64;
    `heat_map`, float32, `(height, width)`, or `(n, height, width)` with `batch`, from 0 to 1; it is
    0 where the recipe cuts the picture off. Names that the model has already get a number.

    Args:
        source: an `.onnx` file from layertap, with gradients if the heat map needs them.
        path: the file to write; it may be `source`.
        image_input: whether the file takes a picture; if not, it takes the model's own inputs.
        batch: whether it takes several pictures of one size at once.
        preprocess: a recipe, instead of the file's own.
        heat_map: the layer of the heat map; `True` for the last one with a gradient. `None` or
            `False` for no heat map.
        method: `gradcam` (default), `gradcam++`, `xgradcam`, `layercam`, `hirescam`,
            `gradcamelementwise`, `eigengradcam`, `eigencam` or `kpcacam`.
        output: the output with the scores of the classes, if the model has several.
        top: how many of the best classes are returned; `None` for none.
        layers: layers that are outputs as well: names, patterns or indices, also with a reduction,
            `"bn=mean"`; or a dict from layers to reductions, see `Model.activations`, or to lists
            of reductions. `None` in a list is the layer as it is. The output of a reduction is
            called `LAYER/REDUCTION`.
        strip: whether the card says only what a client needs to run the file: no measured errors,
            no golden sample, no origin.
        timeout: time in seconds for all of it, after which a run of the model is stopped.

    Raises:
        VerificationError: the file would differ from what layertap computes; carries the report.
        PreprocessingError: there is no recipe, or it does not fit the model.
        LayerNotFoundError: there is no such layer, or no gradient for it.
        UsageError: the model has no image input, the method or the recipe cannot be part of a
            graph, or an argument has no effect without another one.
        ModelFileError: `source` is not an ONNX model.
        OutputError: `path` cannot be written, or is the source, which cannot be made from it again.
    """
    flag("image_input", image_input)
    flag("batch", batch)
    flag("strip", strip)
    check_effects(
        heat_map=heat_map,
        method=method,
        top=top,
        output=output,
        image_input=image_input,
        batch=batch,
        preprocess=preprocess,
    )
    top = 0 if top is None else count("top", top)
    check_source(source)
    with time_limit(timeout):
        started = time.perf_counter()
        opened = layertap.open(source, device="cpu")
        program = program_of(opened)
        if program.finished is not None:
            raise UsageError(
                f"{program.name} is finished already. Finish the file that it was made from."
            )
        recipe = _recipe(program, preprocess) if image_input else None
        wanted = Wanted(
            recipe=recipe,
            batch=batch,
            heat_map=False if heat_map is None else heat_map,
            method=DEFAULT if method is None else method,
            output=output,
            top=top,
            layers=_layers(program, layers),
        )
        report = _finished(source, path, opened, wanted, strip)
        return replace(report, seconds=time.perf_counter() - started)


def _recipe(program: Program, given: Any) -> Preprocessing:
    """The recipe that the graph will apply."""
    recipe = program.preprocessing if given is None else Preprocessing.of(given)
    if recipe is None:
        shapes = [info.shape for info in program.inputs if len(info.shape) == 4]
        shown = example(shapes[0] if shapes else None)
        raise PreprocessingError(
            f"{program.name} does not say how an image becomes its input. Give a recipe, as in "
            f"preprocess={shown} (--preprocess RECIPE), or image_input=False "
            "(--no-image-input) for a file that takes the model's own input."
        )
    samples = next((samples_of(info) for info in program.inputs if len(info.shape) == 4), None)
    return program.fitted(recipe, images=samples or 1)


def _layers(program: Program, asked: Any) -> list[tuple[Layer, str | None]]:
    """The layers that become outputs, each with its reduction, each pair once."""
    if asked is None or (isinstance(asked, (list, tuple, Mapping)) and not asked):
        return []
    found = what_is_asked(program, asked)
    other = next((one for one in found if one.kind != "layer"), None)
    if other is not None:
        raise UsageError(
            f"a finished file gives layers and reductions of layers, not {GRADIENT}LAYER or "
            f"{HEAT_MAP}CLASS. heat_map=LAYER (--heat-map LAYER) gives a heat map."
        )
    return [(program.layer(one.name), one.how) for one in found]


def _finished(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    opened: layertap.Model,
    wanted: Wanted,
    strip: bool,
) -> FinishReport:
    """See `finish`."""
    program = program_of(opened)
    weights = find_weights(program.source, program.graph.locations)
    check_target(path, ".onnx", [source, *weights.paths])
    initializers = Initializers()
    model = read(Path(source), opened, initializers)
    before = _own_bytes(model)
    original = card_of(opened, model, initializers)
    card = inherited(original, "finish", FileSource(source))
    made = assemble(model, program, card, wanted)
    del model.metadata_props[:]
    for key, value in opened.metadata.items() if not strip else ():
        model.metadata_props.add(key=key, value=value)
    with replacing_model(path) as (temporary, data):
        Writer(model, initializers, data).write(temporary)
        file = WrittenFile(temporary)
        base = original.golden or sample(WrittenFile(Path(source)).session(), original)[0]
        compared = Comparison(file, opened, made, wanted, feeds(base, original.inputs)).run()
        errors = compared.errors
        card = replace(made.card, golden=golden_sample(file, made.card, base, compared))
        worst = max(errors, key=lambda name: errors[name])
        note = (
            f"compared with layertap in Python on {compared.pictures} random pictures: largest "
            f"scaled error {errors[worst]:.1e} in {worst!r}"
        )
        card = replace(card, notes=(*(card.notes or ()), note))
        if strip:
            card = stripped(card, {value.name for value in model.graph.output})
        report = FinishReport(
            path=Path(path),
            card=card,
            outputs=tuple(value.name for value in model.graph.output),
            errors=errors,
            allowed=compared.allowed,
            pictures=compared.pictures,
            size_bytes=0,
            added_bytes=_own_bytes(model) - before,
            seconds=0,
        )
        if not report:
            raise VerificationError(str(report), report)
        card = replace(card, digest=digest_of(FileSource(temporary), card))
        verified = Verified.of(temporary)
        append_card(temporary, card)
        check_finished(temporary, Path(path), verified, card, report)
        size = temporary.stat().st_size + data.size
    return replace(report, card=card, size_bytes=size)


def _own_bytes(model: onnx.ModelProto) -> int:
    """The bytes of a model without its metadata and its large weights."""
    return int(model.graph.ByteSize())
