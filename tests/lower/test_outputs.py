"""Networks with several outputs, and with maps for outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitskip.errors import LoweringError
from bitskip.lower import lower
from bitskip.program import Program
from bitskip.runtime import Model


class Taps(nn.Module):
    """Two maps and logits; the first map is read on by what follows."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return maps `C1`, `C2` and `logits`."""
        first = self.first(x)
        second = torch.relu(self.second(first) + first)
        return {"C1": first, "C2": second, "logits": self.head(second.mean((2, 3)))}


@pytest.fixture(scope="module")
def taps() -> Taps:
    torch.manual_seed(0)
    model = Taps()
    with torch.no_grad():
        model(torch.randn(8, 3, 16, 16))
    return model.eval()


IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)


def test_several_outputs_by_name(taps: Taps) -> None:
    program = lower(taps, (0.5,) * 3, (0.25,) * 3, input_shape=(3, 16, 16))
    with torch.no_grad():
        x = (torch.from_numpy(IMAGES).float() / 255 - 0.5) / 0.25
        expected = taps(x.permute(0, 3, 1, 2))
    for engine in ("reference", "native"):
        found = Model(Program.from_bytes(program.to_bytes()), engine=engine).outputs(IMAGES)
        assert list(found) == ["C1", "C2", "logits"]
        assert found["C1"].shape == (3, 8, 8, 8)
        for name, value in expected.items():
            wanted = value.reshape(*value.shape, 1, 1)[..., :1, :1] if value.dim() == 2 else value
            np.testing.assert_allclose(
                found[name], wanted.permute(0, 2, 3, 1).numpy(), atol=1e-5 * float(value.abs().max())
            )


def test_several_outputs_in_int8(taps: Taps) -> None:
    real = lower(taps, (0.5,) * 3, (0.25,) * 3, input_shape=(3, 16, 16))
    program = lower(
        taps,
        (0.5,) * 3,
        (0.25,) * 3,
        input_shape=(3, 16, 16),
        activations="int8",
        dense="int8",
        calibration=IMAGES,
    )
    before, after = Model(real).outputs(IMAGES), Model(program).outputs(IMAGES)
    for name, value in before.items():
        assert 0 < np.abs(after[name] - value).max() < 0.05 * np.abs(value).max()


class Pyramid(nn.Module):
    """A map brought to twice its size and added to a finer one, as in a feature pyramid."""

    def __init__(self, scale_factor: float | None = None, mode: str = "nearest") -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)
        self.options = {"scale_factor": scale_factor, "mode": mode}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum and the coarse map."""
        fine = self.fine(x)
        coarse = self.coarse(torch.relu(fine))
        size = None if self.options["scale_factor"] else fine.shape[-2:]
        return fine + F.interpolate(coarse, size, **self.options), coarse  # type: ignore[arg-type]


@pytest.mark.parametrize("scale_factor", [None, 2.0])
def test_upsampling_in_a_pyramid(scale_factor: float | None) -> None:
    torch.manual_seed(0)
    model = Pyramid(scale_factor).eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(IMAGES).float().permute(0, 3, 1, 2) / 255)
    for options in ({}, {"activations": "int8", "dense": "int8", "calibration": IMAGES}):
        program = lower(model, input_shape=(3, 16, 16), **options)  # type: ignore[arg-type]
        for engine in ("reference", "native"):
            found = Model(program, engine=engine).outputs(IMAGES)
            for name, value in zip("01", expected, strict=True):
                share = 0.05 if options else 1e-5
                wanted = value.permute(0, 2, 3, 1).numpy()
                np.testing.assert_allclose(found[name], wanted, atol=share * np.abs(wanted).max())


def test_other_upsampling_is_refused() -> None:
    with pytest.raises(LoweringError, match="has mode='bicubic', .* expected the nearest pixel, or bilinear"):
        lower(Pyramid(mode="bicubic"), input_shape=(3, 16, 16))
