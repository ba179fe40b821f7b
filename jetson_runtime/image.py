"""Image preprocessing without torch: the same pixels as the checkpoint's own processor."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jetson_runtime.errors import InputError

__all__ = ["MAX_PIXELS", "Preprocessing", "open_image"]

MAX_PIXELS = 64_000_000  # a larger picture is a mistake or an attack: decoded it takes 192 MB
_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shortest edge, crop the centre square, scale to 0..1, normalise: CLIP's and DINOv2's recipe.

    `side` is the square's edge in pixels, `resample` Pillow's filter number (2 bilinear, 3 bicubic).
    """

    shortest_edge: int
    side: int
    resample: int
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Preprocessing:
        """Read what `to_dict` wrote."""
        return cls(**{**value, "mean": tuple(value["mean"]), "std": tuple(value["std"])})

    def to_dict(self) -> dict[str, Any]:
        """The value that `preprocessing.json` holds."""
        return asdict(self)

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Pixels [1, 3, side, side] float32."""
        short = min(image.size)
        width, height = (
            self.shortest_edge if edge == short else int(self.shortest_edge * edge / short) for edge in image.size
        )
        resized = np.asarray(image.resize((width, height), Image.Resampling(self.resample)))
        top, left = (resized.shape[0] - self.side) // 2, (resized.shape[1] - self.side) // 2
        crop = resized[top : top + self.side, left : left + self.side].astype(np.float32)
        normal = (crop * np.float32(self.scale) - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1)[None], dtype=np.float32)


def open_image(source: Path | bytes) -> Image.Image:
    """The picture as RGB.

    Raises:
        InputError: it can't be read, is no picture, or has more than `MAX_PIXELS` pixels.
    """
    where = f"the image {source}" if isinstance(source, Path) else "the image"
    try:
        data = source.read_bytes() if isinstance(source, Path) and source.stat().st_size <= _MAX_BYTES else source
    except OSError as error:
        raise InputError(f"{where} can't be read", found=error.strerror, remedy="check the path") from None
    if isinstance(data, Path) or len(data) > _MAX_BYTES:
        raise InputError(
            f"{where} is too large", expected=f"at most {_MAX_BYTES >> 20} MiB", remedy="scale it down first"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of pictures that we refuse below
            image = Image.open(io.BytesIO(data))
        width, height = image.size
        if width * height > MAX_PIXELS or max(width, height) > 50 * min(width, height):
            raise InputError(
                f"{where} has a size that no camera makes",
                found=f"{width} × {height} pixels",
                expected=f"at most {MAX_PIXELS / 1e6:.0f} million pixels, and no side 50 times the other",
                remedy="scale or crop it first",
            )
        return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{where} is not a picture that can be read",
            found=error,
            expected="PNG, JPEG, WebP, BMP, ...",
            remedy="check the file",
        ) from None
