"""The networks that the paper compares with, packed and timed on this machine.

Size and time do not depend on what a network has learned, so they are measured with weights as they are
drawn.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from bitskip.data import ImageSet
from bitskip.data.batches import Normalisation
from bitskip.lower import lower
from bitskip.nn.baselines import Baseline, baseline_names
from bitskip.runtime import Model
from bitskip.study.baselines import BaselineResult
from bitskip.study.packed import milliseconds_a_picture

_CALIBRATION = 32  # training pictures that set the int8 ranges


def measure_baselines(
    images: ImageSet, progress: Callable[[str], None] = lambda name: None
) -> tuple[BaselineResult, ...]:
    """Pack every baseline, int8 throughout, and time it on test pictures; one result a network.

    Args:
        images: pictures of 32 pixels; their classes make no difference.
        progress: called with each name.
    """
    few = images.train_images[:_CALIBRATION]
    normalisation = Normalisation.of(few)
    found = []
    for name in baseline_names():
        baseline = Baseline(name)
        progress(baseline.name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = baseline.build().eval()
        program = lower(
            model,
            normalisation.mean,
            normalisation.std,
            input_shape=(3, baseline.input_size, baseline.input_size),
            name=name,
            activations="int8",
            dense="int8",
            calibration=np.ascontiguousarray(few),
        )
        cost = baseline.cost()
        assert cost.macs is not None  # every layer is known
        assert cost.effective_parameters is not None
        found.append(
            BaselineResult(
                baseline.name,
                int(cost.effective_parameters),
                cost.macs,
                len(program.to_bytes()),
                milliseconds_a_picture(Model(program), images.test_images),
            )
        )
    return tuple(found)
