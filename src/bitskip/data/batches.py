"""Batches straight from memory: the whole data set as uint8, augmented a batch at a time on the device.

One gather does the crop and the flip of a batch, so that loading costs little beside a training step.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from bitskip.errors import DataError

_COUNTED = 500  # pictures counted at a time, so that caches hold them


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of pictures scaled to 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: npt.NDArray[np.uint8]) -> Normalisation:
        """Measure them on uint8 pictures of shape (N, H, W, C)."""
        counts = np.zeros((images.shape[-1], 256), np.int64)
        for start in range(0, len(images), _COUNTED):
            planes = np.ascontiguousarray(images[start : start + _COUNTED].reshape(-1, len(counts)).T)
            for channel, plane in zip(counts, planes, strict=True):
                channel += np.bincount(plane, minlength=256)
        levels = np.arange(256) / 255
        means = [float((n * levels).sum() / n.sum()) for n in counts]
        variances = [
            float((n * (levels - m) ** 2).sum() / n.sum()) for n, m in zip(counts, means, strict=True)
        ]
        # Rounded so that the few digits in a packed file are exactly what training used.
        return cls(tuple(round(m, 4) for m in means), tuple(max(round(v**0.5, 4), 1e-3) for v in variances))

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Normalisation | None:
        """Return what `to_metadata` wrote into a weights file; None if nothing there can be read."""
        try:
            mean, std = (tuple(float(v) for v in metadata[key].split(",")) for key in ("mean", "std"))
        except (KeyError, ValueError):
            return None
        return cls(mean, std)

    def to_metadata(self) -> dict[str, str]:
        """Return the entries of a weights file's metadata that say how its pictures were normalised."""
        return {"mean": ",".join(map(str, self.mean)), "std": ",".join(map(str, self.std))}


@dataclass(frozen=True)
class Augmentation:
    """Which random changes a training picture goes through.

    `flip` is `none`, `random` (each time by a coin) or `alternating` (each picture is mirrored in every
    second epoch; Jordan 2024, "94% on CIFAR-10 in 3.29 seconds").
    """

    crop: int = 4  # pixels of padding around a picture before a random crop of its own size; 0 for none
    padding: str = "zero"  # what the crop sees beyond the edge: zero (the mean colour) or reflect
    flip: str = "random"  # none, random or alternating
    cutout: int = 0  # side of a square that is blanked out, in pixels; 0 for none
    jpeg: float = 0.0  # share of pictures that are shown as JPEG left them (`as_jpeg`)


def held_out_count(asked: int, train_images: int) -> int:
    """Return how many of `train_images` pictures to leave out for validation: `asked`, at most a tenth."""
    return min(asked, train_images // 10)


def split_validation(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], held_out: int, seed: int = 0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the indices of the training and the validation pictures, drawn class by class.

    Args:
        images: (N, H, W, C), only counted.
        labels: (N,).
        held_out: how many pictures to hold out, spread evenly over the classes.
        seed: of the draw; the split must be the same for all runs that are compared.

    Raises:
        DataError: if fewer than half of the pictures would be left for training.
    """
    if not 0 <= held_out <= len(images) // 2:
        raise DataError(f"cannot hold out {held_out} of {len(images)} training pictures for validation")
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(images))
    # Rank each picture within its class, then take the pictures of lowest rank.
    rank = np.empty(len(images), dtype=np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members))
    chosen = order[np.argsort(rank[order], kind="stable")[:held_out]]
    mask = np.zeros(len(images), dtype=bool)
    mask[chosen] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)


@dataclass(frozen=True)
class Draw:
    """What chance decides about one batch of B pictures: integers, the same on every device."""

    chosen: Tensor  # int64 (B,): which pictures
    mirrored: Tensor  # bool (B,)
    rows: Tensor | None = None  # int64 (B,): where the crop begins; None without augmentation
    columns: Tensor | None = None  # int64 (B,)
    centres: Tensor | None = None  # int64 (2, B): y and x of the blanked-out square's centre
    compressed: Tensor | None = None  # int64 (B,): 1 where the picture is shown as JPEG left it

    def _parts(self) -> tuple[Tensor | None, ...]:
        return self.chosen, self.mirrored, self.rows, self.columns, self.centres, self.compressed

    def _map(self, change: Callable[[Tensor], Tensor]) -> Draw:
        parts = (None if part is None else change(part) for part in self._parts())
        return Draw(*parts)  # type: ignore[arg-type]

    def to(self, device: torch.device) -> Draw:
        """Return it on `device`."""
        return self._map(lambda part: part.to(device, non_blocking=True))

    def at(self, index: Tensor) -> Draw:
        """Return the draw at `index`, int64 (1,) on the device, of draws that `stack` put together."""
        return self._map(lambda part: part.index_select(0, index).squeeze(0))

    @staticmethod
    def stack(draws: Sequence[Draw]) -> Draw:
        """Return draws of equal size as one, with a leading axis."""
        parts = zip(*(draw._parts() for draw in draws), strict=True)
        stacked = (None if part[0] is None else torch.stack(part) for part in parts)
        return Draw(*stacked)  # type: ignore[arg-type]

    def copy_(self, other: Draw) -> None:
        """Overwrite its tensors by those of `other`, in place."""
        for own, new in zip(self._parts(), other._parts(), strict=True):
            if own is not None and new is not None:
                own.copy_(new, non_blocking=True)


class Batches:
    """An iterable of (pictures, labels) batches; one pass is an epoch.

    Yields float32 pictures (B, C, H, W) in channels_last memory, normalised, and int64 labels (B,), both
    on `device`. The order and the augmentation of an epoch depend on `seed` and the epoch alone, so a
    resumed run sees what an unbroken one would have seen. With several ranks each takes every
    `world_size`-th picture of the common order. With `targets` set, batches are (pictures, labels,
    targets): for each picture the row of its view, 0 as it is or 1 mirrored.

    Args:
        images: uint8 (N, H, W, C).
        labels: int64 (N,).
        normalisation: mean and std to apply.
        batch_size: pictures a batch, on each rank.
        augmentation: None for evaluation: no change, fixed order, last batch kept.
        seed: of order and augmentation.
        device: where the data lies and the batches are made.
        rank: this process's number.
        world_size: number of processes.
        size: height = width of the yielded pictures, if they are to be scaled down; never up.
    """

    def __init__(
        self,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int64],
        normalisation: Normalisation,
        batch_size: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.seed = seed
        self.epoch = 0
        self.rank, self.world_size = rank, world_size
        self.device = torch.device(device)
        self.normalisation = normalisation
        self.height, self.width = images.shape[1:3]
        self.labels = torch.from_numpy(np.ascontiguousarray(labels)).to(self.device)
        mean = torch.tensor(normalisation.mean, device=self.device)
        std = torch.tensor(normalisation.std, device=self.device)
        self._factor, self._offset = 1 / (255 * std), -mean / std
        if augmentation and augmentation.jpeg:
            images = np.concatenate([images, as_jpeg(images, seed)])
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        self._crop = augmentation.crop if augmentation else 0
        if augmentation and self._crop:
            pixels = _pad(pixels, self._crop, augmentation.padding, (mean * 255).round().to(torch.uint8))
        self._pixels = pixels
        self.size: int | None = None
        self.sizes: Callable[[int], int | None] | None = None  # `size` by a batch's number in the epoch
        self.targets: Tensor | None = None  # (views, N, ...) on `device`

    def digest(self) -> str:
        """Return a short hash of the pictures and labels, by which a resumed run knows its data."""
        found = hashlib.sha256(self.labels.cpu().numpy().tobytes())
        found.update(self._pixels.cpu().numpy().tobytes())
        return found.hexdigest()[:16]

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentation of the next pass."""
        self.epoch = epoch

    def _per_rank(self) -> int:
        return len(self.labels) // self.world_size

    def __len__(self) -> int:
        count = self._per_rank()
        if self.augmentation is not None and count >= self.batch_size:
            return count // self.batch_size
        return -(-count // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for index, draw in enumerate(self.draws()):
            if self.sizes is not None:
                self.size = self.sizes(index)
            yield self.make(draw.to(self.device))

    def draws(self) -> Iterator[Draw]:
        """Yield what is drawn for each batch of the epoch, on the CPU, so that every device sees the same."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        count = len(self.labels)
        if self.augmentation is None:
            order = torch.arange(count)
        else:
            order = torch.randperm(count, generator=generator)
        # All ranks draw the same order, then part ways.
        order = order[self.rank : self._per_rank() * self.world_size : self.world_size]
        own = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) * 64 + self.rank)
        for index in range(len(self)):
            yield self._draw(order[index * self.batch_size : (index + 1) * self.batch_size], own)

    def make(self, draw: Draw) -> tuple[Tensor, ...]:
        """Return the batch of a draw on `device`: (pictures, labels) or (pictures, labels, targets).

        Nothing here waits for the device, so a CUDA graph can hold it.
        """
        pixels = self._pixels[draw.chosen] if draw.rows is None else self._gather(draw)
        x = pixels.to(torch.float32).mul_(self._factor).add_(self._offset)  # (B, H, W, C)
        if draw.centres is not None and self.augmentation is not None:
            self._cut_out(x, self.augmentation.cutout, draw.centres)
        x = x.permute(0, 3, 1, 2)  # (B, C, H, W), channels_last
        if self.size is not None and self.size < self.height:
            x = torch.nn.functional.interpolate(
                x, size=self.size, mode="bilinear", antialias=True, align_corners=False
            )
        if self.targets is None:
            return x, self.labels[draw.chosen]
        return x, self.labels[draw.chosen], self.targets[draw.mirrored.long(), draw.chosen]

    def _draw(self, chosen: Tensor, generator: torch.Generator) -> Draw:
        how, count = self.augmentation, len(chosen)
        mirrored = self._mirrored(chosen, generator)
        if how is None:
            return Draw(chosen, mirrored)
        rows = columns = torch.zeros(count, dtype=torch.int64)
        if how.crop:
            rows, columns = torch.randint(2 * how.crop + 1, (2, count, 1), generator=generator).view(2, -1)
        centres = None
        if how.cutout:
            centre_y = torch.randint(self.height, (count, 1, 1), generator=generator)
            centre_x = torch.randint(self.width, (count, 1, 1), generator=generator)
            centres = torch.stack([centre_y.view(-1), centre_x.view(-1)])
        compressed = None
        if how.jpeg:
            compressed = (torch.rand((count, 1), generator=generator) < how.jpeg).view(-1).long()
        return Draw(chosen, mirrored, rows, columns, centres, compressed)

    def _mirrored(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        flip = "none" if self.augmentation is None else self.augmentation.flip
        if flip == "random":
            return torch.randint(2, (len(chosen), 1), generator=generator, dtype=torch.bool).view(-1)
        if flip == "alternating":
            # A fixed coin for each picture, turned over every epoch.
            coin = (chosen * 2_654_435_761 + self.seed) >> 16
            return (coin + self.epoch) % 2 == 1
        return torch.zeros(len(chosen), dtype=torch.bool)

    def _gather(self, draw: Draw) -> Tensor:
        assert draw.rows is not None
        assert draw.columns is not None
        # Compressed pictures lie behind all others.
        shown = draw.chosen if draw.compressed is None else draw.chosen + len(self.labels) * draw.compressed
        count, height, width, channels = self._pixels.shape
        picture, row, column, channel = self._pixels.stride()
        crops = self._pixels.as_strided(  # every crop that there is, (N, rows, columns, H, W, C)
            (count, height - self.height + 1, width - self.width + 1, self.height, self.width, channels),
            (picture, row, column, row, column, channel),
        )
        x = crops[shown, draw.rows, draw.columns]  # (B, H, W, C)
        return torch.where(draw.mirrored.view(-1, 1, 1, 1), x.flip(2), x)

    def _cut_out(self, x: Tensor, side: int, centres: Tensor) -> None:
        dy = torch.arange(self.height, device=x.device).view(1, -1, 1) - centres[0].view(-1, 1, 1) + side // 2
        dx = torch.arange(self.width, device=x.device).view(1, 1, -1) - centres[1].view(-1, 1, 1) + side // 2
        x.masked_fill_(((dy >= 0) & (dy < side) & (dx >= 0) & (dx < side)).unsqueeze(-1), 0.0)


def as_jpeg(images: npt.NDArray[np.uint8], seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return uint8 pictures (N, H, W, 1 or 3) as JPEG leaves them at qualities 40 to 95, drawn by `seed`."""
    qualities = np.random.default_rng(seed).integers(40, 96, len(images))
    out = np.empty_like(images)
    for at, (picture, quality) in enumerate(zip(images, qualities, strict=True)):
        stream = io.BytesIO()
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(
            stream, "JPEG", quality=int(quality)
        )
        out[at] = np.asarray(Image.open(stream)).reshape(picture.shape)
    return out


def _pad(pixels: Tensor, margin: int, padding: str, colour: Tensor) -> Tensor:
    """Surround uint8 pictures (N, H, W, C) by `margin` pixels, mirrored or of one colour."""
    count, height, width, channels = pixels.shape
    if padding == "reflect":
        rows = torch.arange(-margin, height + margin).abs()
        rows = (height - 1) - ((height - 1) - rows).abs()
        columns = torch.arange(-margin, width + margin).abs()
        columns = (width - 1) - ((width - 1) - columns).abs()
        return pixels[:, rows][:, :, columns]
    out = torch.empty(
        (count, height + 2 * margin, width + 2 * margin, channels), dtype=torch.uint8, device=pixels.device
    )
    out[:] = colour
    out[:, margin : margin + height, margin : margin + width] = pixels
    return out
