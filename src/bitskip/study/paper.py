"""The paper's own figures as data, each with the place it was read from.

Nothing here is computed: what the paper printed stands as it was printed, beside the number it stands for.
Where the print does not follow from the paper's own definition, `TABLE3_NOTE` says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from bitskip.errors import BitskipError
from bitskip.results.study import PaperFigures

PRECISION_POLICIES = ("full", "hybrid", "binary")
POLICIES = ("all", "middle", "none")

EPOCHS = 100  # of each run; section 2.4

PRECISION_NAMES = {"full": "full precision", "hybrid": "hybrid", "binary": "binary"}
POLICY_NAMES = {"all": "all shortcuts", "middle": "middle stage only", "none": "no shortcuts"}

CITATION = (
    "Mani Amani (University of California San Diego). Investigating the Efficacy of Shortcut Connections in "
    "ResNet Variants with Hybrid Binary Convolutions for Architecture Pruning Purposes in Edge Computing "
    "Applications."
)
DATA_SET_CITATION = (
    "Alex Krizhevsky. Learning Multiple Layers of Features from Tiny Images. "
    "Technical report, University of Toronto, 2009. (CIFAR-10)"
)
DEFINITION = "32-bit parameters + 1-bit parameters / 32 (the paper, section 2.3)"


@dataclass(frozen=True)
class PaperRow:
    """One line of the paper's tables 1 to 3."""

    model: str  # the name in this project
    printed_name: str  # the name in the paper
    printed_accuracy: str  # per cent, as printed
    printed_effective_parameters: str  # as printed
    accuracy: float  # share of test images, 0 to 1
    effective_parameters: float  # the number that the print stands for


@dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables: a precision policy under the three shortcut policies."""

    number: int
    precision_policy: str
    caption: str  # as printed
    rows: tuple[PaperRow, ...]
    loss_figure: int  # the paper's figure with this precision's validation losses
    loss_caption: str  # as printed


def _row(precision: str, policy: str, name: str, accuracy: str, mantissa: str, exponent: int) -> PaperRow:
    return PaperRow(
        model=f"resnet14-{precision}-{policy}",
        printed_name=name,
        printed_accuracy=accuracy,
        printed_effective_parameters=f"{mantissa}×10^{exponent}",
        accuracy=round(float(accuracy) / 100, 4),
        effective_parameters=float(f"{mantissa}e{exponent}"),
    )


# Source: tables 1 to 3 on the paper's last pages. Their captions say "Max accuracy": the best epoch of a
# run, where this project reports the last epoch.
TABLES: tuple[PaperTable, ...] = (
    PaperTable(
        1,
        "full",
        "Full Precision ResNet Variant's Max accuracy and Effective 32-bit Parameters",
        (
            _row("full", "all", "ResNet14", "91.52", "2.777", 6),
            _row("full", "middle", "Hybrid Res ResNet14", "88.31", "2.744", 6),
            _row("full", "none", "No Residual ResNet14", "85.17", "2.735", 6),
        ),
        5,
        "Full Precision 32-bit ResNet14 Training",
    ),
    PaperTable(
        2,
        "hybrid",
        "Hybrid Binary ResNet Variant's Max accuracy and Effective 32-bit Parameters",
        (
            _row("hybrid", "all", "Hybrid Binary ResNet14", "88.59", "6.056", 5),
            _row("hybrid", "middle", "Hybrid Binary Hybrid Res ResNet14", "88.49", "6.051", 5),
            _row("hybrid", "none", "Hybrid Binary No Residual ResNet14", "86.96", "6.025", 5),
        ),
        6,
        "Hybrid Binarized ResNet14 Training",
    ),
    PaperTable(
        3,
        "binary",
        "Full Binary ResNet Variant's Max accuracy and Effective 32-bit Parameters",
        (
            _row("binary", "all", "Binary ResNet14", "48.08", "1.893", 4),
            _row("binary", "middle", "Binary Hybrid Res ResNet14", "49.09", "1.891", 4),
            _row("binary", "none", "Binary No Residual ResNet14", "43.89", "1.828", 4),
        ),
        7,
        "Fully Binarized ResNet14 Training",
    ),
)

# The paper's architecture diagrams: figure number, the variant drawn, the caption as printed.
FIGURES: tuple[tuple[int, str, str], ...] = (
    (2, "resnet14-full-all", "Implemented ResNet Architecture"),
    (3, "resnet14-binary-all", "Implemented Fully Binarized ResNet Architecture"),
    (
        4,
        "resnet14-hybrid-all",
        "Implemented Hybrid Binarized ResNet with Full Residual Connection Architecture",
    ),
)

# Table 3 against the definition of section 2.3; the report puts both numbers of every row under it.
TABLE3_NOTE = (
    "The paper defines effective 32-bit parameters as its 32-bit parameters plus a thirty-second of its "
    "1-bit parameters (section 2.3). Its full-precision counts follow from that to every printed digit "
    "(cut off, not rounded), which fixes the architecture. Table 3 does not follow from it under any "
    "reading we found: its figures are those of Table 2 divided by 32 once more (which for binary-none "
    "gives 1.883×10^4, where 1.828×10^4 is printed). The first convolution, the batch norms and "
    "the classifier stay at 32 bits in every variant and are counted whole. The paper's figures stand "
    "in these tables as printed, beside the computed ones; the count is not bent towards them."
)


@dataclass(frozen=True)
class Claim:
    """An ordering that the paper states or that its tables show, checkable on any nine accuracies.

    `higher` and `lower` are pairs of models: the claim holds where every `higher[i]` is the more accurate.
    """

    text: str
    source: str
    higher: tuple[str, ...]
    lower: tuple[str, ...]


def _models(precision: str) -> tuple[str, ...]:
    return tuple(f"resnet14-{precision}-{policy}" for policy in POLICIES)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "Full precision: all shortcuts beat the middle stage's alone, which beat none.",
        "Table 1",
        ("resnet14-full-all", "resnet14-full-middle"),
        ("resnet14-full-middle", "resnet14-full-none"),
    ),
    Claim(
        "Hybrid: all shortcuts beat the middle stage's alone, which beat none.",
        "Table 2",
        ("resnet14-hybrid-all", "resnet14-hybrid-middle"),
        ("resnet14-hybrid-middle", "resnet14-hybrid-none"),
    ),
    Claim(
        "Binary: the middle stage's shortcuts alone beat all of them, and both beat none.",
        "Table 3",
        ("resnet14-binary-middle", "resnet14-binary-all"),
        ("resnet14-binary-all", "resnet14-binary-none"),
    ),
    Claim(
        "Even the middle stage's shortcuts alone are better than none, at every precision.",
        "Discussion",
        tuple(f"resnet14-{precision}-middle" for precision in PRECISION_POLICIES),
        tuple(f"resnet14-{precision}-none" for precision in PRECISION_POLICIES),
    ),
    Claim(
        "With all shortcuts, full precision beats hybrid and hybrid beats binary.",
        "Tables 1 to 3",
        ("resnet14-full-all", "resnet14-hybrid-all"),
        ("resnet14-hybrid-all", "resnet14-binary-all"),
    ),
    Claim(
        "With fewer shortcuts, hybrid beats full precision.",
        "Tables 1 and 2",
        ("resnet14-hybrid-middle", "resnet14-hybrid-none"),
        ("resnet14-full-middle", "resnet14-full-none"),
    ),
    Claim(
        "Under every shortcut policy, hybrid beats binary.",
        "Tables 2 and 3",
        _models("hybrid"),
        _models("binary"),
    ),
)


def paper_row(model: str) -> PaperRow | None:
    """Return the paper's line for one of its nine variants, or None for any other network."""
    for table in TABLES:
        for row in table.rows:
            if row.model == model:
                return row
    return None


def paper_figures(model: str) -> PaperFigures | None:
    """Return the paper's figures for one of its nine variants, or None for any other network."""
    row = paper_row(model)
    return PaperFigures(row.accuracy, row.effective_parameters) if row else None


def policies_of_or_none(model: str) -> tuple[str, str] | None:
    """Return (precision policy, shortcut policy) of one of the nine variants, or None for another name."""
    base, _, rest = model.partition("-")
    precision, _, policy = rest.partition("-")
    if base == "resnet14" and precision in PRECISION_POLICIES and policy in POLICIES:
        return precision, policy
    return None


def policies_of(model: str) -> tuple[str, str]:
    """Return (precision policy, shortcut policy) of one of the nine variants.

    Raises:
        BitskipError: if `model` is none of them.
    """
    policies = policies_of_or_none(model)
    if policies is None:
        raise BitskipError(f"'{model}' is none of the paper's nine variants, e.g. resnet14-full-all")
    return policies
