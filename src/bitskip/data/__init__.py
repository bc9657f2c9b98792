"""Data sets in memory: reading, finding, downloading (numpy only), and batching (`batches`, torch)."""

from __future__ import annotations

from bitskip.data.formats import read_image_set
from bitskip.data.image_set import ImageSet
from bitskip.data.resolve import load_images, load_mini
from bitskip.pictures import read_picture

__all__ = ["ImageSet", "load_images", "load_mini", "read_image_set", "read_picture"]
