"""Pictures as the image processors of transformers (their Pillow variants) prepare them."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from rsvlm_jax.config import DataError
from rsvlm_jax.config.conversation import ImageConfig
from rsvlm_jax.config.vision import IMAGENET_MEAN, IMAGENET_STD
from rsvlm_jax.data.pictures import MAX_PIXELS, prepare, read_picture

SIZES = [(37, 53), (53, 37), (40, 40), (7, 200), (336, 337), (3, 3), (61, 500)]
HALF = (0.5, 0.5, 0.5)


def picture(height: int, width: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(height * width)
    smooth = rng.integers(0, 256, (5, 5, 3), np.uint8)
    image = Image.fromarray(smooth).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(image).astype(int) + rng.integers(-40, 40, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


def reference(config: ImageConfig) -> Any:
    numbers: dict[str, Any] = {
        "image_mean": list(config.mean),
        "image_std": list(config.std),
        "resample": 3 if config.resample == "bicubic" else 2,
    }
    edge = {"height": config.size, "width": config.size}
    if config.fit == "squash":
        return transformers.SiglipImageProcessorPil(size=edge, **numbers)
    numbers |= {"size": {"shortest_edge": config.size}, "crop_size": edge}
    if config.fit == "crop":
        return transformers.CLIPImageProcessorPil(**numbers)
    return transformers.LlavaImageProcessorPil(do_pad=True, **numbers)


CONFIGS = {
    "llava": ImageConfig(),
    "clip": ImageConfig(size=224, fit="crop"),
    "geochat": ImageConfig(size=504),
    "geochat's evaluation": ImageConfig(size=504, fit="crop"),
    "siglip": ImageConfig(size=384, fit="squash", mean=HALF, std=HALF),
    "odd": ImageConfig(37, "pad", "bilinear", IMAGENET_MEAN, IMAGENET_STD),
}


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("name", CONFIGS)
def test_equal_to_the_reference(name: str, size: tuple[int, int], record_property):
    config, image = CONFIGS[name], picture(*size)
    wanted = reference(config)(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    got = prepare(image, config)
    assert got.shape == (config.size, config.size, 3)
    assert got.dtype == np.float32
    off = float(np.abs(got - wanted).max())
    record_property("pixels", off)
    assert off <= 1e-5


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "LA", "CMYK"])
def test_every_mode_of_a_file_becomes_rgb_as_in_load_image(mode: str, tmp_path: Path):
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    picture(20, 31).convert(mode).save(path)
    wanted = np.asarray(transformers.image_utils.load_image(str(path)))
    np.testing.assert_array_equal(np.asarray(read_picture(path)), wanted)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_file_is_turned_upright_as_in_load_image(orientation: int, tmp_path: Path):
    image, exif = picture(20, 31), Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "x.png"
    image.save(path, exif=exif)
    wanted = np.asarray(transformers.image_utils.load_image(str(path)))
    np.testing.assert_array_equal(np.asarray(read_picture(path)), wanted)
    assert (wanted.shape[0] == 31) == (orientation > 4)


def test_a_geotiff_is_a_picture(tmp_path: Path):
    rasterio = pytest.importorskip("rasterio")
    pixels = np.asarray(picture(20, 31))
    path = tmp_path / "x.tif"
    transform = rasterio.transform.from_origin(500000, 5100000, 10, 10)
    with rasterio.open(
        path, "w", driver="GTiff", height=20, width=31, count=3, dtype="uint8",
        crs="EPSG:32633", transform=transform, photometric="RGB",
    ) as out:  # fmt: skip
        out.write(pixels.transpose(2, 0, 1))
    np.testing.assert_array_equal(np.asarray(read_picture(path)), pixels)


def test_arrays_are_pictures():
    pixels = np.asarray(picture(20, 31))
    np.testing.assert_array_equal(np.asarray(read_picture(pixels)), pixels)
    grey = np.asarray(read_picture(pixels[..., 0]))
    assert (grey == pixels[..., :1]).all()


@pytest.mark.parametrize(
    "x", [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_another_array_is_refused(x: np.ndarray):
    with pytest.raises(DataError, match=r"not an image in image array"):
        read_picture(x)


def test_a_picture_of_16_bits_is_refused(tmp_path: Path):
    path = tmp_path / "x.tif"
    Image.fromarray(np.full((4, 4), 3000, np.uint16)).save(path)
    with pytest.raises(DataError, match=r"more than 8 bits a channel in .*x\.tif; .* found I;16"):
        read_picture(path)


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(
        DataError, match=r"unreadable image in .*nothing\.png; found .*No such file"
    ):
        read_picture(tmp_path / "nothing.png")


def test_what_is_no_picture_is_refused(tmp_path: Path):
    (tmp_path / "x.png").write_bytes(b"hello")
    with pytest.raises(DataError, match=r"unreadable image in .*x\.png; found cannot identify"):
        read_picture(tmp_path / "x.png")


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
def test_a_file_that_is_cut_off_is_refused(kind: str, tmp_path: Path):
    data = io.BytesIO()
    picture(64, 64).save(data, "JPEG" if kind == "jpg" else "PNG" if kind == "png" else "TIFF")
    path = tmp_path / f"x.{kind}"
    path.write_bytes(data.getvalue()[: len(data.getvalue()) // 2])
    with pytest.raises(DataError, match=rf"unreadable image in .*x\.{kind}") as e:
        read_picture(path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("edge", [11_600, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(edge: int, tmp_path: Path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", edge, edge, 8, 2, 0, 0, 0))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))))
    with pytest.raises(DataError, match=rf"too large .*bomb\.png; expected <= {MAX_PIXELS} pixels"):
        read_picture(path)


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_long_strip_is_refused_before_it_is_blown_up(fit: str):
    strip = Image.new("RGB", (600_000, 1))
    with pytest.raises(DataError, match=r"too large to be read at once in image, (padded|resized)"):
        prepare(strip, ImageConfig(fit=fit))


def png_of_16_bits(path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + np.full((4, 3), 3000, ">u2").tobytes() for _ in range(4))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b""))


def tif_of_16_bits(path: Path, **options: str) -> None:
    rasterio = pytest.importorskip("rasterio")
    transform = rasterio.transform.from_origin(500000, 5100000, 10, 10)
    with rasterio.open(
        path, "w", driver="GTiff", height=4, width=4, count=3, dtype="uint16",
        transform=transform, photometric="RGB", **options,
    ) as out:  # fmt: skip
        out.write(np.full((3, 4, 4), 3000, np.uint16))


WIDE = {
    "x.png": png_of_16_bits,
    "x.tif": tif_of_16_bits,
    "planes.tif": lambda path: tif_of_16_bits(path, interleave="band"),
    "x.ppm": lambda path: path.write_bytes(b"P6\n2 2\n65535\n" + bytes(range(24))),
}


@pytest.mark.parametrize("name", WIDE)
def test_a_picture_of_16_bits_in_colour_is_refused(name: str, tmp_path: Path):
    """Pillow would read them, and keep the high byte of each number: a black picture."""
    WIDE[name](tmp_path / name)
    with pytest.raises(DataError, match=r"more than 8 bits a channel in .*; found RGB of 16 bits"):
        read_picture(tmp_path / name)


def test_a_format_that_calls_a_program_is_refused_whatever_its_name(tmp_path: Path):
    picture(20, 31).save(tmp_path / "x.png", "EPS")
    with pytest.raises(DataError, match=r"unreadable image in .*x\.png; found cannot identify"):
        read_picture(tmp_path / "x.png")


def test_what_is_no_file_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    for path in (tmp_path, tmp_path / "pipe.png"):
        with pytest.raises(DataError, match=r"an unreadable image in .*; found not a file"):
            read_picture(path)


def test_a_mode_without_colours_is_refused():
    with pytest.raises(DataError, match=r"not a picture in colours in image; found conversion"):
        read_picture(Image.new("La", (4, 5)))
