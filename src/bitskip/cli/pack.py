"""`bitskip pack`: a trained run to one `*.bitskip` file."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitskip.cli.options import (
    ClassesOption,
    DataOption,
    JsonOption,
    MeanOption,
    SharedScalesOption,
    SizeOption,
    StdOption,
    WeightsOption,
    say,
)
from bitskip.cli.outputs import refuse_name_of_packed

if TYPE_CHECKING:
    from bitskip.cli.lowering import Lowered
    from bitskip.data import ImageSet


def pack(
    run: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Folder of a finished run, pruned or not, or its weights.safetensors; or "
            "`torchvision:NAME`, `timm:NAME`, `baseline:NAME` or `FILE.py:CALLABLE` with --weights.",
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", help="File to write.  [default: MODEL.bitskip]", show_default=False),
    ] = None,
    activations: Annotated[
        str | None,
        typer.Option(
            help="What `w1` and `int8` layers read: int8 or fp32 (as in training; `w1` only).  "
            "[default: int8, where pictures to calibrate on are at hand]",
            show_default=False,
        ),
    ] = None,
    dense: Annotated[
        str | None,
        typer.Option(
            help="What becomes of `fp32` layers: int8 quantizes them, fp32 keeps them.  [default: as "
            "--activations, if that is not given]",
            show_default=False,
        ),
    ] = None,
    calibration: Annotated[
        int, typer.Option(help="Training pictures that set the int8 ranges, from --data.")
    ] = 512,
    data: DataOption = None,
    weights: WeightsOption = None,
    input_size: SizeOption = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=C,H,W",
            help="An input as the network's forward calls it: channels, height, width. Once an input; "
            "--mean and --std go on from one to the next, and int8 ranges come from --data FILE.npz with "
            "uint8 pictures (N, H, W, C) by name.",
            show_default=False,
        ),
    ] = None,
    classes: ClassesOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    shared_scales: SharedScalesOption = False,
    check: Annotated[
        bool,
        typer.Option(
            help="Say what int8 costs in accuracy, on up to 1,000 test pictures of the calibration's data."
        ),
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Fold a trained network into one file that runs without torch.

    1-bit weights take 1 bit each, batch norms fold into the layers before them, and signs after batch norms
    become integer comparisons. A device wants int8 throughout, the default where pictures are at hand that
    set its ranges: those of --data, else those that the run was trained on. Its cost in accuracy is said.
    Other networks than bitskip's pack if they are made of what a packed model has (docs/packing.md), as the
    ResNets, MobileNets and EfficientNets of torchvision and timm are.

    Examples:

    - `bitskip pack runs/resnet14-hybrid-none-paper -o hybrid.bitskip`
    - `bitskip pack runs/my-run --data PICTURES -o small.bitskip`
    - `bitskip pack runs/my-run --activations fp32 -o exact.bitskip`
    - `bitskip pack torchvision:resnet18 --weights resnet18.safetensors -o resnet18.bitskip`
    - `bitskip pack torchvision:resnet18 --weights three_classes.pt --input-size 64 -o mine.bitskip`
    - `bitskip pack stereo.py:Net --weights net.safetensors --input left=3,32,32 --input right=1,32,32`
    - `bitskip inspect hybrid.bitskip`
    """
    from bitskip.cli.lowering import lower_loaded
    from bitskip.runtime.summary import summarise

    refuse_name_of_packed(out)
    lowered = lower_loaded(
        run,
        activations=activations,
        dense=dense,
        calibration=calibration,
        data=data,
        weights=weights,
        input_size=input_size,
        inputs=tuple(inputs or ()),
        classes=classes,
        mean=mean,
        std=std,
        shared_scales=shared_scales,
    )
    program = lowered.program
    path = Path(out or f"{program.name}.bitskip")
    program.save(path)
    values = summarise(program, path.stat().st_size)
    if program.activations == "int8" and not program.calibration_images:
        say("note: no layer reads int8 activations, so the file is the same as with fp32")
    checked = None
    if check and lowered.images is not None and program.calibration_images:
        checked = _compared(lowered, lowered.images)
    if as_json:
        extra = {} if checked is None else {"accuracy_check": checked}
        typer.echo(json.dumps({"path": str(path), **values, **extra}, indent=2))
        return
    from bitskip.terminal import byte_size

    typer.echo(
        f"{path}: {byte_size(values['file_bytes'])}, peak activations "
        f"{byte_size(values['peak_activation_bytes'])}, activations {program.activations}, "
        f"dense {program.dense}"
    )
    if checked is not None:
        low, high = (100 * edge for edge in checked["interval_95"])
        typer.echo(
            f"accuracy on {checked['images']:,} test pictures of {checked['data']}: "
            f"{checked['accuracy']:.2%} with int8, {checked['accuracy_fp32']:.2%} with fp32; "
            f"{checked['difference'] * 100:+.2f} points (95% interval {low:+.2f} to {high:+.2f})"
        )


_CHECKED, _CHECK_SECONDS = 1000, 10.0  # test pictures at most, and seconds for each of two networks


def _compared(lowered: Lowered, images: ImageSet) -> dict[str, Any] | None:
    """Return how often the int8 program and its network in fp32 are right; None if classes do not fit."""
    import numpy as np

    from bitskip.errors import DataError, LoweringError
    from bitskip.runtime import Model
    from bitskip.runtime.accuracy import logits_of
    from bitskip.runtime.confusion import paired_difference

    program = lowered.program
    if not program.is_classifier:
        return None
    try:
        images = images.for_classes(lowered.trained_on, program.classes, program.name)
        exact = Model(lowered.again(activations="fp32", dense="fp32"))
    except (DataError, LoweringError):  # int8 layers have no fp32 form
        return None
    packed = Model(program)
    few = images.test_images[:8]
    started = time.perf_counter()
    exact.predict(few), packed.predict(few)
    each = (time.perf_counter() - started) / len(few) / 2
    total = len(images.test_images)
    count = max(1, min(total, _CHECKED, int(_CHECK_SECONDS / each)))
    chosen = np.arange(count) * total // count  # spread over the classes
    labels = images.test_labels[chosen]
    right = [logits_of(m, images.test_images[chosen])[0].argmax(axis=1) == labels for m in (exact, packed)]
    difference, low, high = paired_difference(*right)
    return {
        "data": images.name,
        "images": count,
        "accuracy": float(right[1].mean()),
        "accuracy_fp32": float(right[0].mean()),
        "difference": difference,
        "interval_95": [low, high],
    }
