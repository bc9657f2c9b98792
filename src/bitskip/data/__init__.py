"""Data sets in memory: reading, finding, downloading (numpy only), and batching (`batches`, torch)."""

from __future__ import annotations

from bitskip.data.formats import ImageSet, read_image_set, read_picture
from bitskip.data.resolve import load_images, load_mini

__all__ = ["ImageSet", "load_images", "load_mini", "read_image_set", "read_picture"]
