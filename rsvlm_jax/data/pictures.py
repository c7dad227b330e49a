"""Pictures as a vision tower reads them, equal to the image processors of `transformers`.

    crop    CLIPImageProcessor: the shorter edge becomes `size`, the centre is cut out
    pad     LlavaImageProcessor with `do_pad`: first a square of the mean colour around it
    squash  SiglipImageProcessor: both edges become `size`

Equal to their Pillow variants ("slow" up to transformers 4, `...ImageProcessorPil` in 5), which
LLaVA and GeoChat were trained with. The torchvision variants ("fast") resize with torch, whose
bicubic filter rounds differently; they are not reproduced. A file's EXIF orientation is applied,
as `transformers.image_utils.load_image` does; an image that is given as such is taken as it is, as
their processors do. LLaVA's own training code ignores orientation.

Every mode becomes RGB as Pillow's `convert` makes it (transparency is dropped, palettes are looked
up), which is what LLaVA's code and `load_image` do; the processors of transformers 5, given an
image with transparency as such, put white behind it. 16-bit and floating-point pictures are
refused: of grey ones `convert` would make all but the darkest 255 steps white, and of those in
colour Pillow would keep the high byte, which is 0 to 39 of a reflectance.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from rsvlm_jax.config import DataError
from rsvlm_jax.config.conversation import ImageConfig
from rsvlm_jax.core.shapes import Float

MAX_PIXELS = 1 << 27
"""Pixels of a picture at most (11,585 squared), as it is read and after padding or resizing: more
is a bomb, or a scene to be cut into tiles."""

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_WIDE = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_FORMATS = ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "JPEG2000", "PPM", "TGA", "ICO")
"""What is read, whatever a file's name says. Others call programs (EPS) or are not pictures."""
_TIFF_BITS = 258

Picture = str | os.PathLike[str] | Image.Image | np.ndarray


def read_picture(source: Picture) -> Image.Image:
    """A file, an image or an array [H,W], [H,W,3] or [H,W,4] of uint8 as an RGB image.

    Raises:
      DataError: no such file, not a picture, cut off, too large, more than 8 bits a channel.
    """
    if isinstance(source, np.ndarray):
        return _rgb(_of_array(source), "image array")
    if isinstance(source, Image.Image):
        return _rgb(source, "image")
    where = str(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if Path(source).exists() and not Path(source).is_file():  # a pipe would never answer
                raise DataError("an unreadable image", where=where, found="not a file")
            with Image.open(Path(source), formats=_FORMATS) as image:
                _check_size(image.size, where)
                _check_bits(image, where)
                image.load()
                upright = ImageOps.exif_transpose(image)
    except DataError:
        raise
    except Image.DecompressionBombError as e:
        raise _too_large(where, str(e)) from e
    except Exception as e:  # Pillow's decoders raise OSError, ValueError, SyntaxError, struct.error
        raise DataError("an unreadable image", where=where, found=str(e) or type(e).__name__) from e
    return _rgb(upright, where)


def prepare(source: Picture, config: ImageConfig) -> Float[np.ndarray, "S S 3"]:
    """Resized, cut or padded, and normalised: (x / 255 - mean) / std.

    Raises:
      DataError: see `read_picture`.
    """
    image = read_picture(source)
    where = "image" if isinstance(source, (Image.Image, np.ndarray)) else str(source)
    if config.fit == "pad":
        _check_size((max(image.size), max(image.size)), f"{where}, padded to a square")
        image = pad_to_square(image, config.mean)
    size = _size(image.size, config)
    _check_size(size, f"{where}, resized")
    image = image.resize(size, _FILTERS[config.resample])
    if config.fit == "crop":
        left, top = ((edge - config.size) // 2 for edge in image.size)
        image = image.crop((left, top, left + config.size, top + config.size))
    x = (np.asarray(image).astype(np.float64) * (1 / 255)).astype(np.float32)
    return (x - np.array(config.mean, np.float32)) / np.array(config.std, np.float32)


def pad_to_square(image: Image.Image, mean: tuple[float, float, float]) -> Image.Image:
    """The image in the middle of a square of the mean colour, rounded down to whole numbers."""
    width, height = image.size
    if width == height:
        return image
    edge = max(width, height)
    square = Image.new("RGB", (edge, edge), tuple(int(m * 255) for m in mean))
    square.paste(image, ((edge - width) // 2, (edge - height) // 2))
    return square


def _size(size: tuple[int, int], config: ImageConfig) -> tuple[int, int]:
    if config.fit == "squash":
        return config.size, config.size
    width, height = size
    longer = int(config.size * max(size) / min(size))
    return (config.size, longer) if width <= height else (longer, config.size)


def _rgb(image: Image.Image, where: str) -> Image.Image:
    _check_size(image.size, where)
    if image.mode in _WIDE:
        raise _too_wide(where, image.mode)
    if image.mode == "RGB":
        return image
    with warnings.catch_warnings():  # of palettes with transparency, which is dropped
        warnings.simplefilter("ignore", UserWarning)
        try:
            return image.convert("RGB")
        except ValueError as e:
            raise DataError("not a picture in colours", where=where, found=e) from e


def _of_array(x: np.ndarray) -> Image.Image:
    fits = x.ndim == 2 or (x.ndim == 3 and x.shape[2] in (3, 4))
    if x.dtype != np.uint8 or not fits or not x.size:
        raise DataError(
            "not an image", where="image array", expected="uint8 [H,W], [H,W,3] or [H,W,4]",
            found=f"{x.dtype} {x.shape}",
        )  # fmt: skip
    return Image.fromarray(x)


def _check_bits(image: Image.Image, where: str) -> None:
    """Refuse a file whose channels Pillow would cut to 8 bits; asked before it is decoded."""
    bits = max(getattr(image, "tag_v2", {}).get(_TIFF_BITS, (8,)))
    tiles: Sequence[Any] = getattr(image, "tile", ())
    for tile in tiles:  # "RGB;16B" of a PNG, ("RGB", 65535) of a PPM
        said: list[Any] = list(tile[3]) if isinstance(tile[3], tuple) else [tile[3]]
        if ";16" in str(said[0]) or (tile[0] == "ppm" and said[1] > 255):
            bits = 16
    if bits > 8:
        raise _too_wide(where, f"{image.mode} of {bits} bits")


def _too_wide(where: str, found: str) -> DataError:
    return DataError(
        "more than 8 bits a channel", where=where, expected="8-bit RGB, grey or palette",
        found=found, remedy="stretch it to 8 bits, or make a cube of it",
    )  # fmt: skip


def _check_size(size: tuple[int, int], where: str) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise _too_large(where, f"{size[0]} x {size[1]}")
    if not size[0] * size[1]:
        raise DataError("an image without pixels", where=where, found=f"{size[0]} x {size[1]}")


def _too_large(where: str, found: str) -> DataError:
    return DataError(
        "an image too large to be read at once", where=where, expected=f"<= {MAX_PIXELS} pixels",
        found=found, remedy="cut it into tiles",
    )  # fmt: skip
