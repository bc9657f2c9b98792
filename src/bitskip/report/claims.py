"""Which of the paper's orderings the study's accuracies bear out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bitskip.report.runs import measured
from bitskip.report.wording import per_cent, points
from bitskip.results.study import Results
from bitskip.study.paper import CLAIMS, Claim

HOLDS, FAILS, NOT_RUN = "holds", "does not hold", "not run"


@dataclass(frozen=True)
class Pair:
    """Two models of a claim, the first said to be the more accurate; accuracies are None where not run."""

    higher: str
    lower: str
    higher_accuracy: float | None
    lower_accuracy: float | None
    test_images: int

    @property
    def difference(self) -> float | None:
        """Accuracy of `higher` minus that of `lower`, as a share, or None where one was not run."""
        if self.higher_accuracy is None or self.lower_accuracy is None:
            return None
        return self.higher_accuracy - self.lower_accuracy

    @property
    def narrow(self) -> bool:
        """Whether the difference is below two standard errors of sampling so many test images."""
        if self.higher_accuracy is None or self.lower_accuracy is None or not self.test_images:
            return False
        variance = sum(p * (1 - p) / self.test_images for p in (self.higher_accuracy, self.lower_accuracy))
        return abs(self.higher_accuracy - self.lower_accuracy) < 2 * math.sqrt(variance)

    def __str__(self) -> str:
        both = ((self.higher, self.higher_accuracy), (self.lower, self.lower_accuracy))
        if self.difference is None:
            return f"{' and '.join(_short(name) for name, accuracy in both if accuracy is None)} not run"
        shown = ", ".join(f"{_short(name)} {per_cent(value)}" for name, value in both if value is not None)
        return f"{shown} ({points(self.difference)}{', within noise' if self.narrow else ''})"


@dataclass(frozen=True)
class Verdict:
    """A claim with the pairs that decide it."""

    claim: Claim
    pairs: tuple[Pair, ...]

    @property
    def state(self) -> str:
        """`does not hold` if any pair contradicts it, else `not run` if any is missing, else `holds`."""
        differences = [pair.difference for pair in self.pairs]
        if any(difference is not None and difference <= 0 for difference in differences):
            return FAILS
        return NOT_RUN if None in differences else HOLDS

    @property
    def narrow(self) -> bool:
        """Whether the verdict rests on a difference that the test set cannot tell from chance."""
        if self.state == HOLDS:
            return any(pair.narrow for pair in self.pairs)
        against = [pair for pair in self.pairs if pair.difference is not None and pair.difference <= 0]
        return self.state == FAILS and all(pair.narrow for pair in against)

    def __str__(self) -> str:
        return self.state + (", within noise" if self.narrow else "")


def judge(results: Results) -> tuple[Verdict, ...]:
    """Return a verdict on each of the paper's claims, from mean accuracies over the seeds."""

    def accuracy(model: str) -> float | None:
        found = measured(results, model)
        return None if found is None else found.mean

    images = results.study.data.test_images
    return tuple(
        Verdict(
            claim,
            tuple(
                Pair(higher, lower, accuracy(higher), accuracy(lower), images)
                for higher, lower in zip(claim.higher, claim.lower, strict=True)
            ),
        )
        for claim in CLAIMS
    )


def _short(model: str) -> str:
    return model.removeprefix("resnet14-")
