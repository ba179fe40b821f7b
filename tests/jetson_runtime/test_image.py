"""Pixels against the checkpoint's own processor, and pictures that are none."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jetson_runtime.bundle import open_bundle
from jetson_runtime.errors import InputError
from jetson_runtime.image import Preprocessing, open_image


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(224, 224), (640, 480), (480, 641), (97, 313), (225, 224), (30, 20)])
def test_the_same_pixels_as_transformers(
    reference_checkpoint: Path, reference_bundle: Path, size: tuple[int, int]
) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(reference_checkpoint, backend="pil").image_processor
    image = noise(*size)
    theirs = processor(images=[image], return_tensors="np")["pixel_values"]
    ours = open_bundle(reference_bundle).preprocessing()(image)
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 300), st.integers(4, 300))
def test_any_size_gives_the_square(width: int, height: int) -> None:
    preprocess = Preprocessing(56, 56, 3, 1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    pixels = preprocess(noise(width, height))
    assert pixels.shape == (1, 3, 56, 56)
    assert np.abs(pixels).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert open_image(encoded(noise(20, 10).convert(mode), kind)).mode == "RGB"


def bomb(width: int, height: int) -> bytes:
    """A tiny PNG that claims to be huge."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


@pytest.mark.parametrize("size", [(100_000, 100_000), (9000, 9000), (60_000, 10)])
def test_a_huge_picture_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"size that no camera makes|not a picture"):
        open_image(bomb(*size))


@pytest.mark.parametrize("data", [b"", b"text", encoded(noise(40, 40))[:200], encoded(noise(40, 40), "JPEG")[:300]])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match="not a picture"):
        open_image(data)


def test_a_picture_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(InputError, match=path.name):
            open_image(path)
