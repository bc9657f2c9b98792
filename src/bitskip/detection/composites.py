"""A detection set without a download: CIFAR-10 objects pasted on photographs, with exact boxes.

Each picture has 2 to 6 objects, scaled 1 to 4 times, mirrored by a coin, anywhere in the picture, one over
another too. There is no end of pictures: batch `i` depends on the seed and `i` alone. Numbers are drawn on
the CPU and pictures are made on `device`, so that a GPU sees the same pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from bitskip.detection.photographs import Photograph
from bitskip.errors import DataError

Target = dict[str, Tensor]  # boxes float32 (K, 4) as x1, y1, x2, y2 in pixels; labels int64 (K,) from 1
_OBJECT = 32  # pixels of a CIFAR picture's side


@dataclass(frozen=True)
class CompositeSettings:
    """What composites are like."""

    size: int = 320  # height = width, in pixels
    objects: tuple[int, int] = (2, 6)  # fewest and most in a picture
    scale: tuple[float, float] = (1.0, 4.0)  # of an object's 32 pixels; log-uniform
    visible: float = 0.25  # an object of which less is seen, beneath others, is not annotated
    feather: float = 0.08  # share of an object's side over which its edge fades

    def __post_init__(self) -> None:
        low, high = self.objects
        if not 0 <= low <= high:
            raise DataError(f"objects is {self.objects}, expected the fewest and the most, e.g. (2, 6)")
        smallest, largest = self.scale
        if not 0 < smallest <= largest or largest * _OBJECT > self.size:
            raise DataError(
                f"scale is {self.scale}, expected factors above 0 with objects of at most {self.size} pixels"
            )


class Composites:
    """Pictures with boxes, by the batch.

    Args:
        objects: uint8 (N, 32, 32, 3).
        labels: (N,) from 0; the boxes' labels are one more, for 0 is the background.
        photographs: uint8 (H, W, 3) each, what objects are pasted on.
        settings: what the pictures are like.
        seed: of everything that is drawn.
        device: where pictures are made and stay.

    Raises:
        DataError: if there are no objects or photographs.
    """

    def __init__(
        self,
        objects: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int64],
        photographs: Sequence[Photograph],
        settings: CompositeSettings | None = None,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if len(objects) == 0 or len(photographs) == 0:
            raise DataError("composites need objects and photographs, and got none")
        if objects.shape[1:] != (_OBJECT, _OBJECT, 3) or len(labels) != len(objects):
            raise DataError(
                f"objects are {objects.shape} with {len(labels)} labels, "
                f"expected (N, {_OBJECT}, {_OBJECT}, 3) with N labels"
            )
        self.settings = settings or CompositeSettings()
        self.seed, self.device = seed, torch.device(device)
        self._objects = torch.from_numpy(np.array(objects)).to(self.device)
        self._labels = torch.from_numpy(np.array(labels, np.int64)) + 1
        self._photographs = [
            torch.from_numpy(np.array(photo)).permute(2, 0, 1).to(self.device) for photo in photographs
        ]

    def batch(self, index: int, count: int) -> tuple[Tensor, list[Target]]:
        """Return batch `index` of `count` pictures: float32 (count, 3, S, S) in 0..1, and their targets.

        Targets are on the device too; a picture without an object has boxes of shape (0, 4).
        """
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        settings = self.settings
        most = settings.objects[1]
        numbers = torch.randint(settings.objects[0], most + 1, (count,), generator=generator)
        chosen = torch.randint(len(self._labels), (count, most), generator=generator)
        low, high = (float(torch.tensor(value).log()) for value in settings.scale)
        sides = (torch.rand(count, most, generator=generator) * (high - low) + low).exp() * _OBJECT
        corners = torch.rand(count, most, 2, generator=generator) * (settings.size - sides[..., None])
        mirrored = torch.rand(count, most, generator=generator) < 0.5
        pictures = self._backgrounds(count, generator)
        owner = torch.zeros(count, settings.size, settings.size, dtype=torch.uint8, device=self.device)
        for at in range(most):
            there = at < numbers
            if bool(there.any()):
                self._paste(
                    pictures, owner, at, there, chosen[:, at], sides[:, at], corners[:, at], mirrored[:, at]
                )
        seen = self._seen(owner, most)
        boxes = torch.cat([corners, corners + sides[..., None]], 2)
        keep = (torch.arange(most)[None] < numbers[:, None]) & (seen >= settings.visible * sides**2)
        boxes, labels, keep = (value.to(self.device) for value in (boxes, self._labels[chosen], keep))
        targets = [{"boxes": b[k], "labels": n[k]} for b, n, k in zip(boxes, labels, keep, strict=True)]
        return pictures, targets

    def crops(self, index: int, count: int, side: int) -> tuple[Tensor, Tensor]:
        """Return one object a picture, filling most of it: float32 (count, 3, side, side) and labels from 0.

        For training a backbone as a classifier first.
        """
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index + 500_000_000)
        chosen = torch.randint(len(self._labels), (count,), generator=generator)
        sides = side * (0.6 + 0.4 * torch.rand(count, generator=generator))
        corners = torch.rand(count, 2, generator=generator) * (side - sides[:, None])
        mirrored = torch.rand(count, generator=generator) < 0.5
        different = self._backgrounds(min(count, 64), generator, side)
        pictures = different[torch.arange(count, device=self.device) % len(different)]
        owner = torch.zeros(count, side, side, dtype=torch.uint8, device=self.device)
        there = torch.ones(count, dtype=torch.bool)
        self._paste(pictures, owner, 0, there, chosen, sides, corners, mirrored)
        return pictures, (self._labels[chosen] - 1).to(self.device)

    # -- the pieces -------------------------------------------------------------------------------------

    def _backgrounds(self, count: int, generator: torch.Generator, size: int | None = None) -> Tensor:
        """Return square cuts of photographs, of a quarter to all of the shorter side, mirrored by a coin."""
        size = size or self.settings.size
        which = torch.randint(len(self._photographs), (count,), generator=generator).tolist()
        drawn = torch.rand(count, 4, generator=generator).tolist()
        found = []
        for number, (zoom, x, y, mirror) in zip(which, drawn, strict=True):
            photo = self._photographs[number]
            height, width = photo.shape[1:]
            side = int((0.25 + 0.75 * zoom) * min(height, width))
            top, left = int(y * (height - side)), int(x * (width - side))
            cut = photo[:, top : top + side, left : left + side]
            cut = cut.flip(2) if mirror < 0.5 else cut
            cut = F.interpolate(cut[None].float(), (size, size), mode="bilinear", antialias=side > size)
            found.append(cut)
        return torch.cat(found) / 255

    def _paste(
        self,
        pictures: Tensor,
        owner: Tensor,
        at: int,
        there: Tensor,
        chosen: Tensor,
        sides: Tensor,
        corners: Tensor,
        mirrored: Tensor,
    ) -> None:
        """Paste one object onto each picture that has it, in place; `owner` keeps which one is on top."""
        rows = there.nonzero()[:, 0]
        size = pictures.shape[-1]
        centre = (corners[rows] + sides[rows, None] / 2) * 2 / size - 1  # in -1..1
        zoom = size / sides[rows]
        flip = torch.where(mirrored[rows], -1.0, 1.0)
        theta = torch.zeros(len(rows), 2, 3)
        theta[:, 0, 0], theta[:, 0, 2] = zoom * flip, -centre[:, 0] * zoom * flip
        theta[:, 1, 1], theta[:, 1, 2] = zoom, -centre[:, 1] * zoom
        rows, theta = rows.to(self.device), theta.to(self.device)
        source = self._objects[chosen.to(self.device)[rows]].permute(0, 3, 1, 2).float() / 255
        grid = F.affine_grid(theta, [len(rows), 3, size, size], align_corners=False)  # (n, S, S, 2)
        pasted = F.grid_sample(source, grid, mode="bilinear", padding_mode="border", align_corners=False)
        edge = grid.abs().amax(3)  # 1 at the object's edge
        alpha = ((1 - edge) / (2 * self.settings.feather) + 0.5).clamp(0, 1) * (edge <= 1)
        alpha = alpha[:, None]  # (n, 1, S, S)
        pictures[rows] = pictures[rows] * (1 - alpha) + pasted * alpha
        owner[rows] = torch.where(edge <= 1, at + 1, owner[rows])

    @staticmethod
    def _seen(owner: Tensor, most: int) -> Tensor:
        """Return how many pixels of each object are on top: (count, most), on the CPU."""
        flat = owner.flatten(1).long()
        counts = torch.zeros(len(owner), most + 1, dtype=torch.long, device=owner.device)
        counts.scatter_add_(1, flat, torch.ones_like(flat))
        return counts[:, 1:].cpu().float()
