"""`layertap export`, `gradients`, `finish`, `quantize` and `verify`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layertap.cli import OK, PARTLY_FAILED, Command
from layertap.cli.options import (
    add_class_input,
    add_preprocess,
    add_strip,
    add_timeout,
    one_layer,
)
from layertap.cli.printing import show, tell
from layertap.errors import InputError, LayerNotFoundError, UsageError, suggest
from layertap.format.atomic import check_target
from layertap.format.card import CLASS_INPUTS, check_class_input
from layertap.format.index import read_index
from layertap.format.select import ALL, LAST
from layertap.format.source import FileSource

from .errors import VerificationError
from .progress import ProgressLine


def _configure_export(parser: argparse.ArgumentParser) -> None:
    _add_model(parser, "model")
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=SHAPE:DTYPE",
        help="shape of an input, batch first, ? for a free size, and its dtype: "
        "x=?,?,?,3:float32 (repeatable)",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE.onnx", help="the file to write"
    )
    parser.add_argument(
        "--layers",
        action="extend",
        nargs="+",
        metavar="LAYER",
        help="expose only these: names, globs, re:PATTERN, indices or slices (default all)",
    )
    parser.add_argument(
        "--type",
        action="extend",
        nargs="+",
        metavar="CLASS",
        help="expose only layers of these Keras classes",
    )
    parser.add_argument(
        "--gradients",
        action="extend",
        nargs="+",
        default=[],
        metavar="LAYER",
        help="also write the gradient of the score at these layers: as for --layers, or last-conv, "
        "all, input",
    )
    _add_score(parser)
    add_class_input(parser, CLASS_INPUTS[0])
    parser.add_argument(
        "--preprocess",
        metavar="RECIPE",
        help="how an image becomes an input, kept in the file: FILE.json, or a name from "
        "keras.applications, as in resnet50 or resnet50:320x320",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="names of the classes, one per line, or as JSON; kept in the file",
    )
    parser.add_argument("--opset", type=int, default=18, help="ONNX opset, 13 to 18 (default 18)")
    parser.add_argument(
        "--finish",
        metavar="APP.onnx",
        help="also write a finished file, see `layertap finish`, with these:",
    )
    _add_finished(parser)
    _add_verification(parser)


def _configure_gradients(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx", help="from layertap or from elsewhere")
    parser.add_argument(
        "--layers",
        action="extend",
        nargs="+",
        required=True,
        metavar="LAYER",
        help="name, glob, re:PATTERN, index or slice; or last-conv, all, input",
    )
    _add_score(parser)
    add_class_input(parser, CLASS_INPUTS[0])
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE.onnx", help="the file to write"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest difference from central differences, as a share of the largest slope "
        "(default 1e-4; 1e-2 if the file computes in float16)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        help="how long gradients are compared with central differences (default 60)",
    )
    _add_sample(parser)
    _add_size(parser)
    add_timeout(parser)


def _configure_finish(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx", help="a file from layertap")
    parser.add_argument(
        "-o", "--output", required=True, metavar="APP.onnx", help="the file to write"
    )
    parser.add_argument(
        "--image-input",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="take a picture of any size, and prepare it in the file (default), or take the "
        "model's own inputs",
    )
    parser.add_argument(
        "--batch", action="store_true", help="take several pictures of one size at once"
    )
    _add_finished(parser)
    parser.add_argument(
        "--output-name",
        metavar="OUTPUT",
        help="the output with the scores of the classes, if the model has several",
    )
    parser.add_argument(
        "--layers",
        action="extend",
        nargs="+",
        default=[],
        metavar="LAYER[=REDUCTION]",
        help="layers that are outputs as well, as for `layertap run`",
    )
    add_preprocess(parser)
    add_strip(parser)
    add_timeout(parser)


def _configure_quantize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx", help="a file in float32")
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT.onnx", help="the file to write"
    )
    parser.add_argument(
        "--to", required=True, metavar="DTYPE", help="float16, or int8, which needs --calibrate"
    )
    parser.add_argument(
        "--calibrate",
        action="extend",
        nargs="+",
        default=[],
        metavar="IMAGES",
        help="images, folders of images, .npy files, or .npz files with an array for each input: "
        "every other one gives the ranges for int8, the others show what is lost",
    )
    parser.add_argument(
        "--budget",
        type=float,
        help="the largest error of an output, as a share of its largest value: the layers that do "
        "most damage are found and kept more exact",
    )
    parser.add_argument(
        "--keep",
        action="extend",
        nargs="+",
        default=[],
        metavar="LAYER",
        help="layers that stay in float32: names, globs, re:PATTERN, indices or slices",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the report as JSON, with every layer"
    )
    add_timeout(parser)


def _add_finished(parser: argparse.ArgumentParser) -> None:
    """Add what a finished file gives."""
    parser.add_argument(
        "--heat-map",
        nargs="?",
        const=True,
        metavar="LAYER",
        help="give a heat map of this layer in the size of the picture (default: the last layer "
        "with a gradient)",
    )
    parser.add_argument("--method", help="the method of the heat map (default gradcam)")
    parser.add_argument(
        "--top", type=int, metavar="K", help="give the K best classes and their scores"
    )


def _add_sample(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sample",
        action="append",
        default=[],
        metavar="FILE",
        help="also compare on this image, folder of images, .npy file, or .npz file with an array "
        "for each input; NAME=FILE gives the value of one input (repeatable)",
    )


def _add_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="compare with this size where the model leaves it free, as in height=512 (repeatable)",
    )


def _configure_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx", help="a file that layertap exported")
    _add_model(parser, "model")
    parser.add_argument(
        "--json", action="store_true", help="print the report as JSON, with every layer"
    )
    _add_verification(parser)


def _add_model(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument(
        name,
        metavar="MODEL",
        help="a .keras file, a whole-model .h5 file, a SavedModel folder, or "
        "package.module:function",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="for a function: passed to it as the argument `weights`, or loaded into the model "
        "that it returns",
    )
    parser.add_argument(
        "--custom-objects",
        action="append",
        default=[],
        metavar="MODULE:NAME",
        help="a custom class or function of the model, or a dict of them (repeatable)",
    )
    parser.add_argument(
        "--signature",
        metavar="NAME",
        help="export only the outputs of this signature of a SavedModel; the default is "
        "serving_default if the SavedModel has no Keras layers",
    )


def _add_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--score",
        action="append",
        metavar="SCORE",
        help="the output or layer to differentiate; of an output that ends in a sigmoid or softmax "
        "its logits, unless this is `probability` or OUTPUT:probability; LAYER:CHANNEL for a "
        "single channel",
    )


def _score(args: argparse.Namespace) -> Any:
    """The value of --score; a list, which is refused, if there are several."""
    return args.score[0] if args.score and len(args.score) == 1 else args.score


def _add_verification(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest difference from Keras, as a share of a layer's largest value (default 1e-4; "
        "more where the model computes in 16 bits)",
    )
    _add_sample(parser)
    _add_size(parser)
    parser.add_argument(
        "--reference",
        choices=("keras", "float64"),
        default="keras",
        help="float64: also report the errors of the file and of Keras against Keras in float64",
    )
    parser.add_argument(
        "--unsafe",
        action="store_true",
        help="load models with Lambda layers, which runs their code",
    )
    add_timeout(parser)


def _run_export(args: argparse.Namespace) -> int:
    check_class_input(args.class_input)
    checked = _checked_verification(args)
    _check_finish(args)
    _check_export(args)
    try:
        with ProgressLine() as progress:
            progress("importing TensorFlow")
            from . import export

            report = export(
                args.model,
                args.output,
                layers=args.layers or "all",
                type=args.type,
                gradients=args.gradients,
                score=_score(args),
                class_input=args.class_input or CLASS_INPUTS[0],
                preprocess=args.preprocess,
                labels=args.labels,
                opset=args.opset,
                inputs=args.input,
                progress=progress,
                **checked,
                **_loading(args),
            )
    except VerificationError as exc:
        return _failed(exc)
    show(str(report))
    if args.finish is None:
        return OK
    return _finish(args.output, args.finish, args, preprocess=None, timeout=args.timeout)


def _check_finish(args: argparse.Namespace) -> None:
    """Check the options of a finished file, and ask for the gradient that its heat map needs."""
    given = {"--heat-map": args.heat_map, "--method": args.method, "--top": args.top}
    if args.finish is None:
        unused = next((option for option, value in given.items() if value is not None), None)
        if unused is not None:
            raise UsageError(f"{unused} is for a finished file: give --finish APP.onnx as well.")
        return
    from layertap._arguments import count
    from layertap.cam.methods import DEFAULT  # needs numpy, slows `--help`

    from .api.arguments import preprocessing_of
    from .finishing.methods import chosen
    from .finishing.options import check_effects
    from .finishing.scaling import check_scaling

    check_effects(heat_map=args.heat_map, method=args.method, top=args.top)
    if args.top is not None:
        count("top", args.top)
    check_target(args.finish, ".onnx", [args.output, args.model])
    if args.preprocess is None:
        raise UsageError(
            "--finish needs --preprocess RECIPE: how a picture becomes the model's input. "
            "`layertap finish --no-image-input` writes a file that takes prepared inputs."
        )
    recipe = preprocessing_of(args.preprocess)
    if recipe is not None:
        check_scaling(recipe)
    method = chosen(args.method or DEFAULT)
    needs_gradient = args.heat_map is not None and method.takes == "gradients"
    layer = LAST if args.heat_map is True else args.heat_map
    if needs_gradient and layer not in args.gradients and (layer != LAST or not args.gradients):
        args.gradients = [*args.gradients, layer]


def _run_gradients(args: argparse.Namespace) -> int:
    from . import add_gradients

    check_target(args.output, ".onnx", args.sample)
    try:
        report = add_gradients(
            args.file,
            args.output,
            args.layers,
            score=_score(args),
            class_input=args.class_input or CLASS_INPUTS[0],
            tolerance=args.tolerance,
            seconds=args.seconds,
            samples=_samples(args.sample),
            sizes=_sizes(args.size),
            timeout=args.timeout,
        )
    except VerificationError as exc:
        return _failed(exc)
    show(str(report))
    return OK


def _run_finish(args: argparse.Namespace) -> int:
    return _finish(
        args.file,
        args.output,
        args,
        image_input=args.image_input,
        batch=args.batch,
        preprocess=args.preprocess,
        output=args.output_name,
        layers=args.layers,
        strip=args.strip,
        timeout=args.timeout,
    )


def _finish(
    source: str,
    target: str,
    args: argparse.Namespace,
    *,
    layers: Sequence[str] = (),
    **options: Any,
) -> int:
    """Write a finished file, and return the exit code."""
    from . import finish

    heat_map = args.heat_map
    if isinstance(heat_map, str):
        heat_map = one_layer("--heat-map", heat_map, read_index(FileSource(source)).layers)
    try:
        report = finish(
            source,
            target,
            heat_map=heat_map,
            method=args.method,
            top=args.top,
            layers=layers,
            **options,
        )
    except VerificationError as exc:
        return _failed(exc)
    show(str(report))
    return OK


def _run_quantize(args: argparse.Namespace) -> int:
    import json

    from . import quantize

    missing = next((path for path in args.calibrate if not Path(path).exists()), None)
    if missing is not None:
        raise InputError(f"--calibrate {missing}: there is no such file or folder.")
    try:
        with ProgressLine() as progress:
            report = quantize(
                args.file,
                args.output,
                to=args.to,
                calibrate=args.calibrate,
                budget=args.budget,
                keep=args.keep,
                timeout=args.timeout,
                progress=progress,
            )
    except VerificationError as exc:
        return _failed(exc)
    show(json.dumps(report.to_dict(), indent=1) if args.json else str(report))
    return OK


def _run_verify(args: argparse.Namespace) -> int:
    card = read_index(FileSource(args.file)).card
    args.signature = args.signature or (card.source.signature if card else None)
    _check_source(args)
    checked = _checked_verification(args)
    with ProgressLine() as progress:
        progress("importing TensorFlow")
        from . import verify

        report = verify(args.file, args.model, progress=progress, **checked, **_loading(args))
    if args.json:
        import json

        show(json.dumps(report.to_dict(), indent=1))
        return OK if report else PARTLY_FAILED
    if report:
        show(str(report))
        return OK
    return _failed(report)


def _failed(what: object) -> int:
    """Say what differs, and return the exit code."""
    tell(f"layertap: {what}", several_lines=True)
    return PARTLY_FAILED


def _loading(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "weights": args.weights,
        "custom_objects": args.custom_objects,
        "signature": args.signature,
        "unsafe": args.unsafe,
    }


def _checked_verification(args: argparse.Namespace) -> dict[str, Any]:
    """The options of the comparison; what is wrong is found before TensorFlow is imported."""
    from layertap._engine.stopping import check_timeout  # needs sockets, slows `--help`
    from layertap.comparing.measures import check_tolerance

    if args.tolerance is not None:
        check_tolerance(args.tolerance)
    if args.timeout is not None:
        check_timeout(args.timeout)
    return {
        "timeout": args.timeout,
        "tolerance": args.tolerance,
        "reference": args.reference,
        "samples": _samples(args.sample),
        "sizes": _sizes(args.size),
    }


def _samples(given: list[str]) -> list[Any]:
    """The files of `--sample`; those with a name are collected into batches of all inputs."""
    files: list[Any] = []
    named: list[dict[str, str]] = []
    for text in given:
        name, equals, file = text.partition("=")
        path = file if equals and not Path(text).exists() else text
        if not Path(path).exists():
            raise InputError(f"--sample {text}: there is no such file or folder.")
        if path == text:
            files.append(path)
            continue
        free = next((batch for batch in named if name not in batch), None)
        if free is None:
            free = {}
            named.append(free)
        free[name] = path
    return [*named, *files]


def _sizes(given: list[str]) -> dict[str, int]:
    """The sizes of `--size`, by name."""
    sizes = {}
    for text in given:
        name, _, size = text.rpartition("=")
        if not name or not size.isascii() or not size.isdigit():
            raise UsageError(f"--size must be NAME=VALUE, as in height=512, got {text!r}.")
        sizes[name] = int(size)
    return sizes


def _check_export(args: argparse.Namespace) -> None:
    """Raise errors in the options of `export` before TensorFlow is imported."""
    from .api.arguments import labels_of, preprocessing_of
    from .keras_model.stated import parsed

    read = [args.model, args.weights, args.labels, args.preprocess, *args.sample]
    check_target(args.output, ".onnx", [name for name in read if name])
    if args.score and not args.gradients:
        raise UsageError("--score is what --gradients are of, which is missing.")
    preprocessing_of(args.preprocess)
    labels_of(args.labels)
    args.input = parsed(args.input)
    _check_source(args)
    _check_names(args)


def _check_names(args: argparse.Namespace) -> None:
    """Raise an error for a name of a layer that the file of the model does not have.

    Names of layers inside others are only known once the model is traced; what they begin with is
    compared. Patterns and numbers are left to the export.
    """
    from .gradients.select import INPUT
    from .keras_model.loading.configs import layer_names

    asked = [*(args.layers or ()), *args.gradients]
    asked += [args.heat_map] if isinstance(args.heat_map, str) else []
    path = Path(args.model)
    if not asked or args.signature or not path.is_file():
        return
    names = layer_names(path)
    if names is None:
        return
    words = [INPUT, LAST] if args.gradients or args.heat_map else []
    known = {*names, *words, "output"}  # of outputs that are no layer's
    for text in asked:
        if text == ALL or re.search(r"[*?\[#~:]|^-?\d+$", text):
            continue
        if text not in known and text.partition("/")[0] not in known:
            raise LayerNotFoundError(
                f"no layer is called {text!r}: {args.model!r} has {len(names)} layers."
                f"{suggest(text, names)}{suggest(text, words)} In Python, "
                f"`keras.models.load_model({args.model!r}).summary()` lists them."
            )


def _check_source(args: argparse.Namespace) -> None:
    """Raise errors that can be found before TensorFlow is imported, which takes seconds."""
    from .keras_model.loading import find_loader  # not above: imports numpy, slows `--help`
    from .keras_model.loading.custom_objects import find_module, split_reference

    for reference in args.custom_objects:
        find_module(split_reference(reference)[0])
    find_loader(args.model, weights=args.weights, signature=args.signature, unsafe=args.unsafe)


EXPORT = Command(
    "write a Keras model as an ONNX file with every layer an output",
    _configure_export,
    _run_export,
    examples=(
        "layertap export chest.keras -o chest.onnx",
        "layertap export chest.keras -o chest.onnx --gradients last-conv --labels labels.txt",
        "layertap export resnet.keras -o resnet.onnx --preprocess resnet50",
        "layertap export package.module:function -o chest.onnx --weights chest.weights.h5",
    ),
)
GRADIENTS = Command(
    "add gradients to an existing ONNX file",
    _configure_gradients,
    _run_gradients,
    examples=("layertap gradients chest.onnx --layers last-conv -o with_gradients.onnx",),
)
FINISH = Command(
    "write a file that takes a picture and gives scores and a heat map",
    _configure_finish,
    _run_finish,
    examples=("layertap finish chest.onnx -o app.onnx --heat-map --top 3",),
)
QUANTIZE = Command(
    "write a smaller file, in float16 or int8, and measure what is lost",
    _configure_quantize,
    _run_quantize,
    examples=(
        "layertap quantize chest.onnx -o small.onnx --to float16",
        "layertap quantize chest.onnx -o small.onnx --to int8 --calibrate images",
    ),
)
VERIFY = Command(
    "compare a file with its Keras model, layer by layer",
    _configure_verify,
    _run_verify,
    examples=(
        "layertap verify chest.onnx chest.keras",
        "layertap verify chest.onnx chest.keras --json",
    ),
)
