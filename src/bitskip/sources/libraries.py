"""Networks of torchvision and timm, and the paper's baselines, built without weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from bitskip.data.batches import Normalisation
from bitskip.errors import RunError, SpecError, nearest
from bitskip.nn.torchvision_ops import ensure_torchvision_ops

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_FIXED_SIZES = {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}  # whatever the picture's


@dataclass(frozen=True)
class Built:
    """A network with random weights, and what it takes."""

    model: nn.Module
    task: str  # classification, segmentation or detection
    input_shape: tuple[int, int, int]  # channels, height, width
    classes: int  # that it was built for; of a detector the background counts, as in torchvision
    normalisation: Normalisation | None
    notes: tuple[str, ...] = ()


class DenseNetwork(nn.Module):
    """A segmentation network of torchvision with one output: scores (N, classes, H, W), as its `out`.

    Parameters have the names that they have in torchvision. Auxiliary heads, which only training uses, are
    left out.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.classifier = model.classifier
        self._several = type(model).__name__ == "LRASPP"  # its head reads two maps

    def forward(self, x: Tensor) -> Tensor:
        """Turn pictures (N, 3, H, W) into scores (N, classes, H, W)."""
        features = self.backbone(x)
        scores = self.classifier(features if self._several else features["out"])
        return F.interpolate(scores, size=x.shape[-2:], mode="bilinear", align_corners=False)


def build_torchvision(
    name: str, classes: int | None = None, input_size: int | None = None, auxiliary: bool = False
) -> Built:
    """Return a classifier, segmentation network or detector of torchvision.

    Args:
        name: as `torchvision.models.list_models` has it, e.g. `resnet50` or `fasterrcnn_resnet50_fpn`.
        classes: outputs; None for the library's. A detector's count the background.
        input_size: height = width of the picture in pixels; None for what the network was trained for.
        auxiliary: with the heads that only training uses, where the library builds them by itself.

    Raises:
        RunError: if torchvision is not installed.
        SpecError: for an unknown name, naming the nearest, a network for other things than one picture, or a
            size or number of classes that it does not take.
    """
    ensure_torchvision_ops()
    try:
        from torchvision import models
    except ImportError:
        raise RunError("torchvision is not installed; pip install torchvision") from None
    modules = {
        "classification": models,
        "segmentation": models.segmentation,
        "detection": models.detection,
    }
    known = {entry: task for task, module in modules.items() for entry in models.list_models(module=module)}
    task = known.get(name)
    if task is None:
        if name in models.list_models():
            raise SpecError(
                f"torchvision:{name} does not take one picture in real numbers, so bitskip does not take it "
                "by name; expected a classifier, a segmentation network or a detector"
            )
        raise SpecError(f"unknown torchvision model '{name}'{nearest(name, known)}")
    _check_numbers(f"torchvision:{name}", classes, input_size)
    options: dict[str, Any] = {"weights": None}
    if classes is not None:
        options["num_classes"] = classes
    if task != "classification":
        options["weights_backbone"] = None
    if task == "detection":
        size = _detector_size(name, input_size, options)
    if name in ("googlenet", "inception_v3"):
        options |= {"init_weights": False, "aux_logits": auxiliary}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about the initialisation
        model: nn.Module = models.get_model(name, **options)
    if task == "detection":
        size = size or int(model.transform.min_size[0])  # type: ignore[union-attr,index]
        normalisation = Normalisation(tuple(model.transform.image_mean), tuple(model.transform.image_std))  # type: ignore[union-attr,arg-type]
        return Built(model.eval(), task, (3, size, size), classes or 91, normalisation)
    if task == "segmentation":
        model = DenseNetwork(model)
    size = input_size or int(getattr(model, "image_size", 0) or _trained_size(models, name))
    usual = 1000 if task == "classification" else 21
    return Built(model.eval(), task, (3, size, size), classes or usual, IMAGENET)


def build_timm(name: str, classes: int | None = None, input_size: int | None = None) -> Built:
    """Return a classifier of timm with the picture size and normalisation of its `default_cfg`.

    Args:
        name: as `timm.list_models` has it, with or without a tag of pretrained weights (`resnet18.a1_in1k`).
        classes: outputs; None for the library's.
        input_size: height = width of the picture in pixels; None for what the network was trained for.

    Raises:
        RunError: if timm is not installed.
        SpecError: for an unknown name or tag, naming the nearest, or a number out of range.
    """
    ensure_torchvision_ops()
    try:
        import timm
    except ImportError:
        raise RunError("timm is not installed; pip install timm") from None
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise SpecError(f"unknown timm model '{name}'{nearest(name, known)}")
    _check_numbers(f"timm:{name}", classes, input_size)
    if "." in name and name not in timm.list_pretrained():
        tagged = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise SpecError(
            f"timm knows no weights '{name}'{nearest(name, tagged)}; leave out what follows the dot"
        )
    model: nn.Module = timm.create_model(
        name, pretrained=False, **({} if classes is None else {"num_classes": classes})
    )
    config: Any = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    channels, height, _ = config.get("input_size", (3, 224, 224))
    size = input_size or int(height)
    normalisation = Normalisation(
        tuple(float(v) for v in config.get("mean", IMAGENET.mean)),
        tuple(float(v) for v in config.get("std", IMAGENET.std)),
    )
    usual = int(getattr(model, "num_classes", 1000))
    told = "normalised as ImageNet"
    if normalisation != IMAGENET:
        told = f"mean {_list(normalisation.mean)}, std {_list(normalisation.std)}"
    notes = (f"timm's own settings: pictures of {int(height)} pixels, {told}",)
    return Built(
        model.eval(), "classification", (int(channels), size, size), classes or usual, normalisation, notes
    )


def build_baseline_named(name: str, classes: int | None = None, input_size: int | None = None) -> Built:
    """Return a baseline of the paper; raises SpecError for an unknown name or a number out of range."""
    from bitskip.nn.baselines import CLASSES, INPUT_SIZE, build_baseline

    size = INPUT_SIZE if input_size is None else input_size
    classes = CLASSES if classes is None else classes
    model = build_baseline(name, size, classes).eval()
    return Built(model, "classification", (3, size, size), classes, None)


class _ParametersOnMeta(TorchFunctionMode):
    """Makes `torch.empty`, with which layers make their weights, allocate nothing.

    `torch.device("meta")` as a context would catch the small tensors too with which some models (RegNet)
    compute their widths.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Let networks built inside take no memory for their weights: enough to count them."""
    with _ParametersOnMeta():
        yield


def _detector_size(name: str, input_size: int | None, options: dict[str, Any]) -> int | None:
    """Return the size of the pictures that the detector works on, and add the options that make it so."""
    fixed = _FIXED_SIZES.get(name)
    if fixed is not None:
        if input_size not in (None, fixed):
            raise SpecError(
                f"torchvision:{name} brings every picture to {fixed} pixels; leave out --input-size"
            )
        return fixed
    if input_size is not None:
        options |= {"min_size": input_size, "max_size": input_size}
    return input_size


def _check_numbers(name: str, classes: int | None, input_size: int | None) -> None:
    if input_size is not None and input_size < 1:
        raise SpecError(f"{name}: input size is {input_size}, expected at least 1 pixel")
    if classes is not None and classes < 1:
        raise SpecError(f"{name}: the number of classes is {classes}, expected at least 1")


def _trained_size(models: Any, name: str) -> int:
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    crop = getattr(transforms, "crop_size", None) or getattr(transforms, "resize_size", None) or [224]
    return int(crop[0])


def _list(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)
