"""A small Faster R-CNN on composites: trained, shortcuts removed, two stages 1-bit, packed and timed.

    python examples/detect.py train --out detect --device cuda        # minutes on a GPU
    python examples/detect.py hybrid --out detect --device cuda
    python examples/detect.py longer --out detect --device cuda       # fp32 as long as its hybrid, to be fair
    python examples/detect.py speed                                   # bytes and milliseconds at full width
    python examples/detect.py report --out detect                     # table and picture, on the CPU

On a CPU a smaller one learns within an hour or two: `--width 0.5 --size 160 --batch-size 8 --seconds 3000
--warm-seconds 900`. The same command goes on where it was stopped.

Composites are CIFAR-10 objects pasted on photographs (`bitskip.detection.composites`); test pictures have
other objects and other photographs than training pictures.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitskip.detection.checkpoint import DetectorFile, load_detector, save_detector
from bitskip.detection.composites import Composites, CompositeSettings
from bitskip.detection.metrics import average_precision, detect
from bitskip.detection.networks import PYRAMID, binarise, classifier_of, small_faster_rcnn
from bitskip.detection.photographs import load_photographs
from bitskip.detection.training import DetectorTraining, recover_detector, train_backbone, train_detector
from bitskip.files import write_bytes, write_json, write_text
from bitskip.pruning import Plan, analyse, plan_shortcuts, remove_shortcuts

NAMES = "airplane automobile bird cat deer dog frog horse ship truck".split()
CLASSES = 11  # ten kinds of objects and the background
BINARY = ("layer3", "layer4")  # stages that become 1-bit
WITHOUT_SHORTCUTS = ("layer1", "layer4")  # the first and the last stage, as in the paper


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("train", "hybrid", "longer", "speed", "report"))
    parser.add_argument("--out", type=Path, default=Path("detect"), help="folder of the detectors")
    parser.add_argument("--objects", type=Path, help="folder of CIFAR-10, or of mosaics of it")
    parser.add_argument("--photographs", type=Path, help="photographs.npz, where scikit-image is missing")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=320, help="pixels of a picture's side")
    parser.add_argument("--width", type=float, default=1.0, help="factor on the channels of the backbone")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--warm-steps", type=int, default=2500, help="of the backbone as a classifier")
    parser.add_argument("--warm-side", type=int, default=96, help="pixels of the classifier's pictures")
    parser.add_argument("--warm-batch", type=int, default=512, help="pictures of the classifier's batch")
    parser.add_argument("--seconds", type=float, help="of the detector's training, at most")
    parser.add_argument("--warm-seconds", type=float, help="of the classifier's training, at most")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--bf16", action="store_true", help="forward passes in bfloat16")
    parser.add_argument("--test-pictures", type=int, default=1000)
    parser.add_argument("--results", type=Path, default=Path("results/detection"), help="of the report")
    parser.add_argument("--part", default="backbone", help="what is packed: backbone or backbone.body")
    parser.add_argument("--calibration", type=int, default=64, help="pictures that set int8 ranges")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.manual_seed(asked.seed)
    if asked.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    if asked.step == "train":
        train(asked)
    elif asked.step == "hybrid":
        hybrid(asked)
    elif asked.step == "longer":
        longer(asked)
    elif asked.step == "speed":
        speed(asked)
    else:
        report(asked)


def train(asked: argparse.Namespace) -> None:
    """Train the backbone as a classifier, then the detector, in full precision."""
    data = composites(asked, "train")
    detector = small_faster_rcnn(CLASSES, asked.size, width=asked.width)
    detector.to(asked.device, memory_format=torch.channels_last)
    train_backbone(
        classifier_of(detector, CLASSES - 1).to(asked.device, memory_format=torch.channels_last),
        data,
        settings(asked, asked.warm_steps, asked.warm_batch, asked.warm_seconds),
        asked.warm_side,
        report=(warm := Log("backbone")),
        state=asked.out / "state-backbone.safetensors",
    )
    train_detector(
        detector,
        data,
        settings(asked, asked.steps, asked.batch_size, asked.seconds),
        report=(log := Log("detector")),
        state=asked.out / "state-detector.safetensors",
    )
    finish(asked, detector, "fp32", DetectorFile(CLASSES, asked.size, width=asked.width), [warm, log])


def hybrid(asked: argparse.Namespace) -> None:
    """Make two stages 1-bit and remove the shortcuts of two stages, with the trained detector as teacher."""
    teacher, about = load_detector(asked.out / "fp32-1.safetensors")
    detector, _ = load_detector(asked.out / "fp32-1.safetensors")
    plan = made_hybrid(detector)
    detector = recover_detector(
        detector.to(asked.device, memory_format=torch.channels_last),
        plan,
        composites(asked, "train", seed=1),
        settings(asked, asked.steps, asked.batch_size, asked.seconds),
        teacher=teacher.to(asked.device, memory_format=torch.channels_last),
        report=(log := Log("hybrid")),
        state=asked.out / "state-hybrid.safetensors",
    )
    finish(
        asked,
        detector,
        "hybrid",
        DetectorFile(CLASSES, about.size, binary=BINARY, plan=plan.to_dict(), width=about.width),
        [log],
    )


def longer(asked: argparse.Namespace) -> None:
    """Train the full-precision detector on with the hybrid's steps, so that both were trained as long."""
    detector, about = load_detector(asked.out / "fp32-1.safetensors")
    _, hybrid = load_detector(asked.out / "hybrid-1.safetensors")
    steps = int(hybrid.facts["training"]["hybrid"]["step"]) + 1
    train_detector(
        detector.to(asked.device, memory_format=torch.channels_last),
        composites(asked, "train", seed=1),
        settings(asked, steps, asked.batch_size, None),
        report=(log := Log("detector again")),
        state=asked.out / "state-longer.safetensors",
    )
    finish(asked, detector, "fp32-longer", about, [log], about.facts["training"])


def made_hybrid(detector: Any) -> Plan:
    """Make two stages 1-bit, in place; returns the plan that removes the shortcuts of two stages."""
    binarise(detector, BINARY)
    analysis = analyse(detector, torch.zeros(1, 3, 64, 64))
    kept = [s.id for s in analysis.shortcuts if s.id.split(".")[2] not in WITHOUT_SHORTCUTS]
    return plan_shortcuts(detector, analysis, kept, shorten=False)


def settings(
    asked: argparse.Namespace, steps: int, batch_size: int, seconds: float | None
) -> DetectorTraining:
    """Return the schedule of one training."""
    return DetectorTraining(
        steps, batch_size, learning_rate=asked.learning_rate, seconds=seconds, mixed=asked.bf16
    )


def finish(
    asked: argparse.Namespace,
    detector: Any,
    name: str,
    about: DetectorFile,
    logs: list[Log],
    before: dict[str, Any] | None = None,
) -> None:
    """Measure a detector on test pictures and save it; `before`: what it was trained in earlier steps."""
    facts: dict[str, Any] = {
        "training": {**(before or {}), **{log.title: log.last for log in logs}},
        "batch_size": asked.batch_size,
        "cores": None if asked.device == "cuda" else torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if asked.device == "cuda" else str(asked.device),
    }
    about = dataclasses.replace(about, facts=facts)
    files = save_detector(asked.out, name, detector, about)  # first: a test that fails loses no training
    if asked.test_pictures:
        data = composites(asked, "test")
        count = min(asked.batch_size, asked.test_pictures)
        batches = (data.batch(at, count) for at in range(-(-asked.test_pictures // count)))
        facts["test"] = average_precision(*detect(detector, batches)).to_dict()
        files = save_detector(asked.out, name, detector, dataclasses.replace(about, facts=facts))
    print(json.dumps({"detector": name, "files": [str(file) for file in files], **facts}), flush=True)


# -- the report -------------------------------------------------------------------------------------------


SHOWN = 0.3  # score from which boxes are drawn
FIRST = "fp32, torchvision"  # what the others are compared with


def packed_variants(
    asked: argparse.Namespace, networks: dict[str, Any], size: int
) -> tuple[dict[str, Any], dict[str, int]]:
    """Return each detector with its backbone packed, beside the first as it is, and the backbones' bytes."""
    from bitskip.detection.packed import attach, calibration_of, pack_backbone

    train_data = composites(asked, "train", seed=2)
    calibration = calibration_of(
        torch.cat([train_data.batch(at, 8)[0] for at in range(asked.calibration // 8)])
    )
    variants: dict[str, Any] = {FIRST: networks["fp32"]}
    sizes = {FIRST: _bytes(networks["fp32"].backbone)}
    for name, detector in networks.items():
        for numbers in ("fp32", "int8"):
            packed = pack_backbone(
                detector, size, part=asked.part, activations=numbers, dense=numbers, calibration=calibration
            )
            title = f"{name}, packed, {numbers} activations"
            variants[title] = attach(detector, packed)
            rest = _bytes(detector.backbone) - _bytes(detector.get_submodule(asked.part))
            sizes[title] = len(packed.to_bytes()) + rest
    return variants, sizes


def speed(asked: argparse.Namespace) -> None:
    """Pack and time detectors of full width with random weights: times and bytes do not depend on weights."""
    from bitskip.machine import machine

    torch.set_num_threads(1)
    fp32 = small_faster_rcnn(CLASSES, asked.size, width=asked.width).eval()
    changed = copy.deepcopy(fp32)
    networks = {"fp32": fp32, "hybrid": remove_shortcuts(changed, made_hybrid(changed)).eval()}
    variants, sizes = packed_variants(asked, networks, asked.size)
    timed, notes = milliseconds(variants, composites(asked, "test").batch(0, 1)[0], asked.size)
    values = {
        "detector": described("resnet18", asked.width, asked.size),
        "rows": [
            {"name": name, "backbone_bytes": sizes.get(name), "backbone_ms": ms} for name, ms in timed.items()
        ],
        "notes": notes,
        "machine": machine(),
    }
    write_json(asked.results / "speed.json", values)
    print(json.dumps(values, indent=2), flush=True)


def described(backbone: str, width: float, size: int) -> str:
    """Say in a line what a small detector is."""
    channels = f", {width:g} of its width" if width != 1 else ""
    return f"Faster R-CNN, {backbone}{channels}, pyramid of {int(width * PYRAMID)} channels, {size} pixels"


def report(asked: argparse.Namespace) -> None:
    """Pack both detectors, measure all, and write a table and a picture."""
    from bitskip.detection.agreement import agreement
    from bitskip.machine import machine

    torch.set_num_threads(1)
    again = asked.out / "fp32-longer-1.safetensors"
    files = {
        "fp32": again if again.is_file() else asked.out / "fp32-1.safetensors",
        "hybrid": asked.out / "hybrid-1.safetensors",
    }
    saved = {name: load_detector(file) for name, file in files.items()}
    about = saved["fp32"][1]
    asked.size = about.size
    data = composites(asked, "test")
    variants, sizes = packed_variants(
        asked, {name: detector for name, (detector, _) in saved.items()}, about.size
    )
    rows = []
    found: dict[str, Any] = {}
    for title, detector in variants.items():
        print(f"measuring {title}", flush=True)
        batches = (data.batch(at, 10) for at in range(-(-asked.test_pictures // 10)))
        found[title], wanted = detect(detector, batches)
        row = average_precision(found[title], wanted).to_dict() | {
            "name": title,
            "backbone_bytes": sizes[title],
        }
        row["agreement"] = agreement(found[FIRST], found[title]).to_dict()
        rows.append(row)
    timed, notes = milliseconds(variants, data.batch(0, 1)[0], about.size)
    for row in rows:
        row["backbone_ms"] = timed[row["name"]]
    peers = [{"name": name, "backbone_ms": ms} for name, ms in timed.items() if name not in variants]
    values = {
        "detector": described(about.backbone, about.width, about.size),
        "data": "composites of CIFAR-10 test pictures on photographs that training has not seen",
        "hybrid": {"binary": list(BINARY), "without_shortcuts": list(WITHOUT_SHORTCUTS)},
        "packed_part": asked.part,
        "calibration_pictures": asked.calibration,
        "training": {name: dict(file.facts) for name, (_, file) in saved.items()},
        "rows": rows,
        "peers": peers,
        "notes": notes,
        "machine": machine(),
    }
    write_json(asked.results / "detection.json", values)
    kept = asked.results / "speed.json"
    values["full_width"] = json.loads(kept.read_text()) if kept.is_file() else None
    write_text(asked.results / "README.md", page(values))
    draw(
        data, {name: found[name] for name in list(found)[:1] + list(found)[-1:]}, asked.results / "boxes.png"
    )
    print(page(values), flush=True)


def milliseconds(variants: dict[str, Any], picture: Any, size: int) -> tuple[dict[str, float], list[str]]:
    """Return the median time of a backbone with its pyramid, one thread, one picture, all taking turns."""
    from bitskip.pruning.report import take_turns

    normalised = variants[FIRST].transform(list(picture))[0].tensors
    calls: dict[str, Any] = {
        name: (lambda backbone=detector.backbone: backbone(normalised)) for name, detector in variants.items()
    }
    notes: list[str] = []
    try:
        calls |= onnx_calls(variants[FIRST].backbone, normalised)
    except Exception as error:
        notes.append(
            f"ONNX Runtime was not timed: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
        )
    with torch.no_grad():
        medians = take_turns(list(calls.values()), repeats=30)
    return {name: round(1000 * value, 2) for name, value in zip(calls, medians, strict=True)}, notes


def onnx_calls(backbone: Any, example: Any) -> dict[str, Any]:
    """Return calls of the same backbone in ONNX Runtime, in fp32 and statically quantized to int8."""
    import tempfile
    import warnings

    import onnxruntime

    from bitskip.bench.export import quantize

    folder = Path(tempfile.mkdtemp(prefix="bitskip-detect-"))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            backbone, (example,), str(folder / "fp32.onnx"), dynamo=False, input_names=["x"], opset_version=17
        )
        quantize(folder / "fp32.onnx", folder / "int8.onnx", tuple(example.shape))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    values = {"x": example.numpy()}
    calls = {}
    for kind in ("fp32", "int8"):
        session = onnxruntime.InferenceSession(str(folder / f"{kind}.onnx"), options)
        calls[f"ONNX Runtime, {kind}"] = lambda session=session: session.run(None, values)
    return calls


def page(values: dict[str, Any]) -> str:
    """Return the table as Markdown."""
    first = values["rows"][0]
    lines = [
        "# A small detector, packed",
        "",
        f"{values['detector']}, on {first['pictures']:,} {values['data']} ({first['objects']:,} objects).",
        f"The hybrid has 1-bit weights in {' and '.join(values['hybrid']['binary'])} and no shortcuts in "
        f"{' and '.join(values['hybrid']['without_shortcuts'])}.",
        "Bytes and milliseconds are of the backbone with its pyramid: one picture, one thread, medians, all "
        f"in turns; packed is the part `{values['packed_part']}`, the rest runs in torch.",
        "Agreement is with the first row: boxes of score 0.5 or more found again at IoU 0.5, and their mean "
        "IoU.",
        *(trained(name, facts) for name, facts in values["training"].items()),
        *UNEQUAL[: "detector again" not in values["training"]["fp32"]["training"]],
        "Written by `examples/detect.py report`; numbers in detection.json.",
        "",
        "| detector | mAP | AP50 | AP75 | boxes found again | mean IoU | KiB | ms |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in values["rows"]:
        shared = row["agreement"]
        again = f"{shared['recall']:.1%} | {shared['mean_iou']:.3f}" if shared["boxes"] else "- | -"
        lines.append(
            f"| {row['name']} | {row['map']:.1%} | {row['ap50']:.1%} | {row['ap75']:.1%} | {again} "
            f"| {row['backbone_bytes'] / 1024:,.0f} | {row['backbone_ms']:.1f} |"
        )
    for peer in values["peers"]:
        lines.append(f"| {peer['name']} (fp32's backbone) | | | | | | | {peer['backbone_ms']:.1f} |")
    lines += [
        "",
        *(f"- {note}" for note in values["notes"]),
        "",
        f"Boxes of score {SHOWN} or more:",
        "",
        "![boxes](boxes.png)",
        "",
    ]
    full = values["full_width"]
    if full is not None:
        base = {row["name"]: row for row in full["rows"]}[FIRST]
        lines += [
            "## At full width",
            "",
            f"{full['detector']}: bytes and milliseconds alone, with random weights, by `examples/detect.py "
            "speed`.",
            "",
            "| backbone and pyramid | KiB | of fp32 | ms | x faster than torchvision |",
            "|---|--:|--:|--:|--:|",
        ]
        for row in full["rows"]:
            size = row["backbone_bytes"]
            stored = f"{size / 1024:,.0f} | 1/{base['backbone_bytes'] / size:.1f}" if size else " | "
            times = base["backbone_ms"] / row["backbone_ms"]
            lines.append(f"| {row['name']} | {stored} | {row['backbone_ms']:.1f} | {times:.2f} |")
        lines += ["", *(f"- {note}" for note in full["notes"]), ""]
    return "\n".join(lines)


UNEQUAL = [
    "The hybrid goes on from fp32, which was not trained as long, so their precisions are not to be compared "
    "(`examples/detect.py longer` makes them so)."
]


def trained(name: str, facts: dict[str, Any]) -> str:
    """Say how long a detector was trained."""
    parts = " then ".join(
        f"{last['step'] + 1:,.0f} steps of the {title} in {last['seconds'] / 60:.0f} minutes"
        for title, last in facts["training"].items()
    )
    return f"{name}: {parts}, {facts['batch_size']} pictures a step of a detector, on {facts['device']}."


def draw(data: Composites, found: dict[str, Any], path: Path, count: int = 4) -> None:
    """Draw the first pictures: a row of what is there, and a row a detector with what it finds."""
    import io

    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    pictures, targets = data.batch(0, 10)
    rows = {"what is there": targets} | found
    figure = Figure(figsize=(2.4 * count, 2.6 * len(rows)), dpi=80, layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for line, (title, detections) in zip(axes, rows.items(), strict=True):
        line[0].set_title(title, loc="left", fontsize=11)
        for place, picture, boxes in zip(line, pictures, detections, strict=False):
            place.imshow(picture.clamp(0, 1).permute(1, 2, 0).cpu().numpy(), interpolation="bicubic")
            place.axis("off")
            scores = boxes.get("scores", [None] * len(boxes["boxes"]))
            for box, label, score in zip(boxes["boxes"], boxes["labels"], scores, strict=True):
                if score is not None and score < SHOWN:
                    continue
                x1, y1, x2, y2 = box.tolist()
                colour = f"C{int(label) - 1}"
                place.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, lw=2))
                words = NAMES[int(label) - 1] + ("" if score is None else f" {score:.0%}")
                style = {"facecolor": colour, "edgecolor": "none", "pad": 1.5}
                place.text(x1 + 1, y1 + 1, words, fontsize=8, color="white", va="top", bbox=style)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    write_bytes(path, stream.getvalue())


def _bytes(module: Any) -> int:
    return sum(value.numel() * value.element_size() for value in module.state_dict().values())


# -- the data ---------------------------------------------------------------------------------------------


def composites(asked: argparse.Namespace, split: str, seed: int = 0) -> Composites:
    """Return the composites of a split: its own objects on its own photographs."""
    objects, labels = cifar(asked.objects, split)
    scale = (1.0, min(4.0, asked.size / 32))
    return Composites(
        objects,
        labels,
        load_photographs("test" if split == "test" else "train", asked.photographs),
        CompositeSettings(size=asked.size, scale=scale),
        seed=asked.seed + seed if split == "train" else 123,
        device=asked.device,
    )


def cifar(folder: Path | None, split: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return pictures and labels of CIFAR-10, from its own files or from mosaics of 100 x 100 pictures."""
    mosaics = (
        [] if folder is None else sorted(folder.glob(f"{'test' if split == 'test' else 'data'}_batch*.webp"))
    )
    if mosaics:
        from PIL import Image

        tiles = [np.asarray(Image.open(path).convert("RGB")).reshape(100, 32, 100, 32, 3) for path in mosaics]
        pictures = np.concatenate([t.swapaxes(1, 2).reshape(-1, 32, 32, 3) for t in tiles])
        labels = [np.frombuffer(path.with_suffix(".labels").read_bytes(), np.uint8) for path in mosaics]
        return pictures, np.concatenate(labels).astype(np.int64)
    from bitskip.data import load_images

    images = load_images(None if folder is None else str(folder))
    if split == "test":
        return images.test_images, images.test_labels
    return images.train_images, images.train_labels


class Log:
    """Prints a training's progress, and keeps its last line."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.last: dict[str, float] = {}

    def __call__(self, entry: dict[str, float]) -> None:
        """Take a line."""
        self.last = {name: round(value, 4) for name, value in entry.items()}
        values = " ".join(f"{name.removeprefix('loss_')} {value:.3f}" for name, value in entry.items())
        print(f"{self.title}: {values}", flush=True)


if __name__ == "__main__":
    main()
