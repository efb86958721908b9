"""Images of every format and kind of pixel, whole and with damaged bytes, against Pillow."""

import io
import random
import struct
import warnings

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tensorflow as tf

from mulsupcon_tf.input_pipeline.decoding import decode_image
from mulsupcon_tf.input_pipeline.image_files import decoding_fault
from tests.campaign.inputs import SCALES, campaign, damaged

MODES = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "GIF": ("L", "P", "RGB"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "WEBP": ("L", "RGB", "RGBA"),
}
MOST = 10_000  # pixels
# What changes colour in a JPEG, or in a WebP with losses, is rounding, in each of its steps.
CLOSE = 6


@pytest.fixture(scope="module")
def decode():
    return tf.function(lambda encoded: decode_image(encoded, MOST), input_signature=[tf.TensorSpec((), tf.string)])


def case(random_: random.Random) -> tuple[str, bytes, bool]:
    """The format of an image, its bytes, and whether nothing is lost in them."""
    form = random_.choice(list(MODES))
    mode = random_.choice(MODES[form])
    height, width = random_.randint(1, 40), random_.randint(1, 40)
    phases = [random_.uniform(0, 6) for _ in range(4)]
    rows, columns = np.mgrid[:height, :width] / 20
    smooth = np.stack([127 + 120 * np.sin(rows * (1 + phase) + columns + phase) for phase in phases], axis=-1)
    image = PIL.Image.fromarray(smooth.astype(np.uint8), "RGBA")
    if mode == "I;16":
        image = PIL.Image.fromarray((smooth[..., 0] * 256 + 17).astype(np.uint16))
    elif mode == "P":
        image = image.convert("RGB").quantize(random_.choice((2, 5, 16, 200)))
    else:
        image = image.convert(mode)
    options: dict = {}
    lossless = form != "JPEG"
    if form == "JPEG":
        options = {"quality": random_.choice((60, 95)), "progressive": random_.random() < 0.3}
        exif = PIL.Image.Exif()
        exif[0x0112] = random_.randint(1, 8)
        options |= {"exif": exif} if random_.random() < 0.5 else {}
    elif form == "PNG":
        options = {"transparency": 0} if mode == "P" and random_.random() < 0.5 else {}
        options |= {"compress_level": random_.choice((0, 6))}
    elif form == "GIF":
        options = {"interlace": random_.randint(0, 1)}
        if random_.random() < 0.3:
            options |= {"save_all": True, "append_images": [image.rotate(180), image.rotate(90)], "duration": 10}
    elif form == "WEBP":
        lossless = random_.random() < 0.7
        options = {"lossless": lossless, "quality": 90, "exact": True}
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return form, stream.getvalue(), lossless


def by_pillow(content: bytes) -> np.ndarray:
    with PIL.Image.open(io.BytesIO(content)) as image:
        if image.width * image.height > MOST:
            raise ValueError("too large")
        if image.mode.startswith("I"):
            eight = np.asarray(image).astype(np.int64) >> 8
            return np.repeat(eight[..., None], 3, axis=-1)
        box = image.tile[0][1] if image.format == "GIF" else None  # a frame need not fill its film
        upright = PIL.ImageOps.exif_transpose(image) if image.format == "JPEG" else image
        return np.asarray(upright.convert("RGB").crop(box)).astype(np.int64)


def require_alike(found: np.ndarray, content: bytes, *, lossless: bool) -> None:
    expected = by_pillow(content)
    assert found.shape == expected.shape
    distance = np.abs(found.astype(np.int64) - expected)
    assert distance.max() == 0 if lossless else distance.mean() < CLOSE, (distance.max(), distance.mean())


@pytest.mark.parametrize("times", SCALES)
def test_images_are_decoded_as_pillow_decodes_them(decode, times):
    def attempt(random_):
        form, content, lossless = case(random_)
        try:
            require_alike(decode(content).numpy(), content, lossless=lossless)
        except (tf.errors.OpError, AssertionError) as error:
            raise AssertionError(f"{form} {PIL.Image.open(io.BytesIO(content)).mode} {error}") from None

    campaign("images", 80 * times, attempt)


def with_other_sides(content: bytes, random_: random.Random) -> bytes:
    """A PNG or BMP whose header tells of other sides than its pixels have."""
    place, order = {b"\x89P": (16, ">"), b"BM": (18, "<")}.get(content[:2], (None, ""))
    if place is None:
        return damaged(content, random_)
    sides = [random_.choice((0, 1, 41, 70_000, 2**31 - 1, 2**32 - 1)) for _ in range(2)]
    return content[:place] + struct.pack(f"{order}II", *sides) + content[place + 8 :]


@pytest.mark.parametrize("times", SCALES)
def test_damaged_images_are_refused_in_one_line_or_decoded_as_pillow_decodes_them(decode, times):
    def attempt(random_):
        form, content, lossless = case(random_)
        content = (with_other_sides if random_.random() < 0.2 else damaged)(content, random_)
        try:
            found = decode(content).numpy()
        except tf.errors.OpError as error:
            fault = decoding_fault(error)
            assert fault and len(fault.splitlines()) == 1 and len(fault) < 500, fault
            return
        assert found.size and found.shape[0] * found.shape[1] <= MOST
        if not lossless:
            return  # what a wrong byte makes of the rest is each decoder's own
        try:
            with warnings.catch_warnings(action="ignore"):
                by_pillow(content)
        except Exception:
            return  # Pillow refuses more
        try:
            require_alike(found, content, lossless=True)
        except AssertionError as error:
            raise AssertionError(f"{form} {error} {content[:100]!r}") from None

    campaign("damaged images", 120 * times, attempt)
