"""Published CIFAR-10 accuracies beside which ours stand, and the bars that this project set itself, as data.

What was printed stands as printed. Sizes are counted by `bitskip.cost` from a spec where the architecture is
a residual network that a spec describes, and unknown elsewhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from bitskip.spec import NetworkSpec, named_spec

SIZES_NOTE = (
    "Sizes of published ResNets are counted here, not printed by their authors: first convolution, "
    "classifier and batch norms at 32 bits, all convolutions between at the stated precision, the 1x1 "
    "ones where the shape changes included: a network that keeps those real is larger than shown. What a "
    "method adds of its own (scales, thresholds, learned activations) is not in the count. Several of these "
    "figures are the best epoch on the test set, after 400 to 2,000 epochs."
)


@dataclass(frozen=True)
class Reference:
    """One published figure."""

    method: str
    network: str  # a key of NETWORKS, or any other name, whose size is then unknown unless given here
    bits: str  # fp32, int8, w1 (1-bit weights) or w1a1 (1-bit weights and activations)
    printed_accuracy: str  # per cent, as printed
    source: str
    effective_parameters: float | None = None  # where no spec gives it: parameters x bits / 32
    file_bytes: int | None = None  # as published
    remark: str = ""

    @property
    def accuracy(self) -> float:
        """Share of test images, 0 to 1."""
        return round(float(self.printed_accuracy) / 100, 4)

    def spec(self) -> NetworkSpec | None:
        """Return the network as a spec, or None if it is no residual network that a spec describes."""
        build = NETWORKS.get(self.network)
        return None if build is None or self.bits == "int8" else build(self.bits)


def _resnet18(bits: str) -> NetworkSpec:
    """ResNet-18 as CIFAR-10 papers use it: 3x3 stem of stride 1 without pooling, widths 64 to 512."""
    base = dataclasses.replace(named_spec("resnet18"), stem="cifar", classes=10, input_size=32)
    return _at(base, bits)


def _resnet20(bits: str) -> NetworkSpec:
    """ResNet-20 of He et al. 2016, section 4.2: widths 16, 32, 64."""
    return _at(named_spec("resnet20"), bits)


def _at(base: NetworkSpec, bits: str) -> NetworkSpec:
    return dataclasses.replace(
        base, name=f"{base.name}-{bits}", precision=(bits,) * len(base.widths), before_binary="no_relu"
    )


NETWORKS: dict[str, Callable[[str], NetworkSpec]] = {"ResNet-18": _resnet18, "ResNet-20": _resnet20}

_FP = "full-precision baseline of the papers below"
_BNN = "Hubara et al. 2016, Binarized Neural Networks"
_XNOR = "Rastegari et al. 2016, XNOR-Net"
_IRNET = "Qin et al. 2020, IR-Net"
_RESTE = "Wu et al. 2023, ReSTE"
_ADABIN = "Tu et al. 2022, AdaBin"
_RECU = "Xu et al. 2021, ReCU"
_BIPER = "Vargas et al. 2024, BiPer"
_BEANET = "BEANet, its authors' table"
_TINY = "Banbury et al. 2021, MLPerf Tiny"

REFERENCES: tuple[Reference, ...] = (
    Reference("full precision", "ResNet-18", "fp32", "94.8", _FP),
    Reference("full precision", "ResNet-20", "fp32", "92.1", _FP),
    Reference("full precision", "VGG-small", "fp32", "94.1", _FP),
    Reference("IR-Net", "ResNet-18", "w1a1", "91.5", _IRNET),
    Reference("ReSTE", "ResNet-18", "w1a1", "92.63", _RESTE),
    Reference("AdaBin", "ResNet-18", "w1a1", "93.1", _ADABIN),
    Reference("ReCU", "ResNet-18", "w1a1", "93.2", _RECU),
    Reference("BiPer", "ResNet-18", "w1a1", "93.75", _BIPER),
    Reference("BEANet", "ResNet-18", "w1a1", "93.80", _BEANET),
    Reference("XNOR-Net", "ResNet-20", "w1a1", "85.2", _XNOR, remark="as later papers give it"),
    Reference("IR-Net", "ResNet-20", "w1a1", "86.5", _IRNET),
    Reference("ReSTE", "ResNet-20", "w1a1", "86.75", _RESTE),
    Reference("BiPer", "ResNet-20", "w1a1", "87.5", _BIPER),
    Reference("ReCU", "ResNet-20", "w1a1", "88.0", _RECU),
    Reference("AdaBin", "ResNet-20", "w1a1", "88.2", _ADABIN),
    Reference("BEANet", "ResNet-20", "w1a1", "88.52", _BEANET),
    Reference("BNN", "VGG-small", "w1a1", "89.9", _BNN),
    Reference("XNOR-Net", "VGG-small", "w1a1", "89.8", _XNOR),
    Reference("IR-Net", "VGG-small", "w1a1", "90.4", _IRNET),
    Reference("AdaBin", "VGG-small", "w1a1", "92.3", _ADABIN),
    Reference("BiPer", "VGG-small", "w1a1", "92.5", _BIPER),
    Reference("ReSTE", "VGG-small", "w1a1", "92.55", _RESTE),
    Reference("ReCU", "VGG-small", "w1a1", "93.3", _RECU),
    Reference("XNOR-NIN", "Network in Network", "w1a1", "86.28", "Cao 2017, XNOR-NIN"),
    Reference("IR-Net", "ResNet-20", "w1", "90.8", _IRNET),
    Reference("ReSTE", "ResNet-20", "w1", "91.32", _RESTE),
    Reference(
        "multi-prize tickets",
        "ResNet-18",
        "w1",
        "94.8",
        "Diffenderfer and Kailkhura 2021",
        remark="pruned as well, which is not in the count",
    ),
    Reference(
        "MLPerf Tiny",
        "ResNet-8",
        "int8",
        "85",
        _TINY,
        effective_parameters=78_000 * 8 / 32,
        file_bytes=98_496,
        remark="a target, not a result; about 78,000 parameters",
    ),
    Reference(
        "MLPerf Tiny 2",
        "Image Classification 2",
        "int8",
        "91",
        "MLPerf Tiny, MLCommons",
        file_bytes=512_024,
        remark="a target, not a result",
    ),
)


@dataclass(frozen=True)
class Bar:
    """What a network is to reach on the whole of CIFAR-10, last epoch, no test-time augmentation."""

    title: str
    accuracy: float | None  # share; None: to be trained, whatever it reaches
    model: str | None = None  # the named model, at its own width
    most_effective_parameters: float | None = None  # or any network of at most so many
    most_epochs: int | None = None


def _grid() -> tuple[Bar, ...]:
    bars = {
        "full": {"all": 0.93, "middle": None, "none": 0.915},
        "hybrid": {"all": 0.92, "middle": None, "none": 0.905},
        "binary": {"all": 0.91, "middle": None, "none": 0.89},
    }
    return tuple(
        Bar(f"resnet14-{precision}-{policy}", bar, model=f"resnet14-{precision}-{policy}", most_epochs=20)
        for precision, policies in bars.items()
        for policy, bar in policies.items()
    )


# Issue "Accuracy beyond the paper"; 18,930 effective parameters are what the paper's Table 3 claims.
BARS: tuple[Bar, ...] = (
    *_grid(),
    Bar("resnet14-w1a1", 0.84, model="resnet14-w1a1", most_epochs=25),
    Bar("any network of at most 18,930 effective parameters", 0.88, most_effective_parameters=18_930),
)
