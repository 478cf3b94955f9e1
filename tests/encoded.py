"""Encoded pictures for tests; where Pillow is not installed they are skipped."""

import importlib.util
import io
import struct
import zlib

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")

HEIF = importlib.util.find_spec("pillow_heif") is not None
Image.init()
AVIF = "AVIF" in Image.SAVE
LOSSLESS = {"jpeg2000": {"irreversible": False}, "webp": {"lossless": True}, "heif": {"quality": -1}, "avif": {}}


def encoded(image, kind="png", **how):
    if kind == "heif":
        pytest.importorskip("pillow_heif").register_heif_opener()
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def random(*shape, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def smooth(width=40, height=30, seed=0):
    return Image.fromarray(random(5, 5, 3, seed=seed)).resize((width, height), Image.Resampling.BICUBIC)


def chunk(kind, content):
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif
