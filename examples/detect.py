"""A small Faster R-CNN on composites: trained, shortcuts removed, two stages 1-bit, packed and timed.

    python examples/detect.py train --out detect --device cuda        # minutes on a GPU
    python examples/detect.py hybrid --out detect --device cuda
    python examples/detect.py report --out detect                     # table and picture, on the CPU

Composites are CIFAR-10 objects pasted on photographs (`bitskip.detection.composites`); test pictures have
other objects and other photographs than training pictures.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitskip.detection.checkpoint import DetectorFile, load_detector, save_detector
from bitskip.detection.composites import Composites, CompositeSettings
from bitskip.detection.metrics import average_precision, detect
from bitskip.detection.networks import binarise, classifier_of, small_faster_rcnn
from bitskip.detection.photographs import load_photographs
from bitskip.detection.training import DetectorTraining, recover_detector, train_backbone, train_detector
from bitskip.pruning import analyse, plan_shortcuts

CLASSES = 11  # ten kinds of objects and the background
BINARY = ("layer3", "layer4")  # stages that become 1-bit
WITHOUT_SHORTCUTS = ("layer1", "layer4")  # the first and the last stage, as in the paper


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("train", "hybrid", "report"))
    parser.add_argument("--out", type=Path, default=Path("detect"), help="folder of the detectors")
    parser.add_argument("--objects", type=Path, help="folder of CIFAR-10, or of mosaics of it")
    parser.add_argument("--photographs", type=Path, help="photographs.npz, where scikit-image is missing")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=320, help="pixels of a picture's side")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--warm-steps", type=int, default=2500, help="of the backbone as a classifier")
    parser.add_argument("--seconds", type=float, help="of the detector's training, at most")
    parser.add_argument("--warm-seconds", type=float, help="of the classifier's training, at most")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--bf16", action="store_true", help="forward passes in bfloat16")
    parser.add_argument("--test-pictures", type=int, default=1000)
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
    else:
        from bitskip.detection.report import write_report

        write_report(asked.out, composites(asked, "test"), asked.test_pictures, print)


def train(asked: argparse.Namespace) -> None:
    """Train the backbone as a classifier, then the detector, in full precision."""
    data = composites(asked, "train")
    detector = small_faster_rcnn(CLASSES, asked.size).to(asked.device, memory_format=torch.channels_last)
    started = time.monotonic()
    train_backbone(
        classifier_of(detector, CLASSES - 1).to(asked.device, memory_format=torch.channels_last),
        data,
        settings(asked, asked.warm_steps, 16 * asked.batch_size, asked.warm_seconds),
        report=show("backbone"),
    )
    train_detector(
        detector, data, settings(asked, asked.steps, asked.batch_size, asked.seconds), report=show("detector")
    )
    finish(asked, detector, "fp32", DetectorFile(CLASSES, asked.size), started)


def hybrid(asked: argparse.Namespace) -> None:
    """Make two stages 1-bit and remove the shortcuts of two stages, with the trained detector as teacher."""
    teacher, about = load_detector(asked.out / "fp32-1.safetensors")
    detector, _ = load_detector(asked.out / "fp32-1.safetensors")
    binarise(detector, BINARY)
    analysis = analyse(detector, torch.zeros(1, 3, 64, 64))
    kept = [s.id for s in analysis.shortcuts if s.id.split(".")[2] not in WITHOUT_SHORTCUTS]
    plan = plan_shortcuts(detector, analysis, kept, shorten=False)
    started = time.monotonic()
    detector = recover_detector(
        detector.to(asked.device, memory_format=torch.channels_last),
        plan,
        composites(asked, "train", seed=1),
        settings(asked, asked.steps, asked.batch_size, asked.seconds),
        teacher=teacher.to(asked.device, memory_format=torch.channels_last),
        report=show("hybrid"),
    )
    finish(
        asked,
        detector,
        "hybrid",
        DetectorFile(CLASSES, about.size, binary=BINARY, plan=plan.to_dict()),
        started,
    )


def settings(
    asked: argparse.Namespace, steps: int, batch_size: int, seconds: float | None
) -> DetectorTraining:
    """Return the schedule of one training."""
    return DetectorTraining(
        steps, batch_size, learning_rate=asked.learning_rate, seconds=seconds, mixed=asked.bf16
    )


def finish(asked: argparse.Namespace, detector: Any, name: str, about: DetectorFile, started: float) -> None:
    """Measure a detector on test pictures and save it."""
    seconds = time.monotonic() - started
    facts: dict[str, Any] = {"training_seconds": round(seconds, 1), "device": str(asked.device)}
    if asked.device == "cuda":
        facts["device"] = torch.cuda.get_device_name()
    if asked.test_pictures:
        data = composites(asked, "test")
        count = min(asked.batch_size, asked.test_pictures)
        batches = (data.batch(at, count) for at in range(-(-asked.test_pictures // count)))
        facts["test"] = average_precision(*detect(detector, batches)).to_dict()
    about = DetectorFile(about.classes, about.size, about.backbone, about.binary, about.plan, facts)
    files = save_detector(asked.out, name, detector, about)
    print(json.dumps({"detector": name, "files": [str(file) for file in files], **facts}), flush=True)


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


def show(title: str) -> Any:
    """Return a function that prints a line of a training's progress."""

    def line(entry: dict[str, float]) -> None:
        values = " ".join(f"{name.removeprefix('loss_')} {value:.3f}" for name, value in entry.items())
        print(f"{title}: {values}", flush=True)

    return line


if __name__ == "__main__":
    main()
