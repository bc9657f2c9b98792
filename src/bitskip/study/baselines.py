"""The networks that the paper compares with, beside a study's nine: what `bitskip.bench.baselines` measured.

Accuracies come from runs that the package keeps (`bitskip.study.kept`), where there are any.
"""

from __future__ import annotations

from dataclasses import dataclass

from bitskip.results.study import Results
from bitskip.study.references import REFERENCES, Reference

# Under which name the tables of published figures have a baseline.
_PUBLISHED = {
    "baseline:binarized-vgg": ("BNN", "VGG-small"),
    "baseline:xnor-nin": ("XNOR-NIN", "Network in Network"),
    "baseline:mlperf-resnet8": ("MLPerf Tiny", "ResNet-8"),
}


@dataclass(frozen=True)
class BaselineResult:
    """What a baseline costs: counted, packed as int8, and timed."""

    name: str  # baseline:NAME
    effective_parameters: int
    macs: int  # for one picture
    file_bytes: int  # of its packed file
    milliseconds: float  # a picture, one thread

    @property
    def published(self) -> Reference | None:
        """What its authors report, or its benchmark asks for."""
        return published(self.name)


def published(name: str) -> Reference | None:
    """Return the published figure of a baseline, or None."""
    wanted = _PUBLISHED.get(name)
    return next((one for one in REFERENCES if (one.method, one.network) == wanted), None)


def baseline_results(results: Results) -> tuple[BaselineResult, ...]:
    """Return what `bitskip.bench.baselines` measured beside a study's runs; empty if nothing was."""
    return results.extra_of("baselines", BaselineResult)
