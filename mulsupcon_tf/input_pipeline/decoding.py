"""From the bytes of an image file to upright RGB pixels, all of it inside the TensorFlow graph.

Training, evaluation and the SavedModel share these functions, so what is served sees what was judged. No Python runs in
the graph: decoding is parallel in tf.data and works wherever the SavedModel is loaded.

Nothing is decoded before its header has said how large it is: a file of some kilobytes can unfold to gigabytes.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from mulsupcon_tf.input_pipeline.image_formats import decode_other, small_enough
from mulsupcon_tf.utils.graphs import traced_once
from mulsupcon_tf.utils.image_limits import MAX_IMAGE_PIXELS

JPEG_SHRINKS = (1, 2, 4, 8)  # by which libjpeg can divide both sides while it decodes, at less than the full cost
_START_OF_JPEG = b"\xff\xd8\xff"
_APP0, _APP1, _APP15, _COMMENT, _FILL = 0xE0, 0xE1, 0xEF, 0xFE, 0xFF
_EXIF = (*b"Exif", 0, 0)
_ORIENTATION_TAG, _SHORT = 0x0112, 3
# Bytes, and where they stand, of most JPEGs: JFIF's APP0 of 16 bytes is the only segment before the first table.
_PLAIN_JPEG = {2: 0xFF, 3: _APP0, 4: 0, 5: 16, 20: 0xFF, 21: 0xDB}


class DecodingPlan(NamedTuple):
    """What to do with an image, decided when its size is known.

    Attributes:
        shrink: one of `JPEG_SHRINKS`, int32 scalar: a JPEG's sides are divided by it (rounded up) in decoding. Other
            formats always come whole.
        details: tensors that are handed on.
    """

    shrink: tf.Tensor
    details: Any = ()


Planner = Callable[[tf.Tensor, tf.Tensor], DecodingPlan]


def decode_image(encoded: tf.Tensor, max_pixels: int = MAX_IMAGE_PIXELS) -> tf.Tensor:
    """Decodes JPEG, PNG, BMP, WebP, or the first frame of a GIF.

    Gray, palette and CMYK become RGB, 16 bit become 8, transparency is dropped. A JPEG is turned upright as its EXIF
    orientation says.

    Args:
        encoded: scalar string, the bytes of the file.
        max_pixels: height times width of the largest image that is decoded.

    Returns:
        `[H, W, 3]` uint8.

    Raises:
        tf.errors.InvalidArgumentError: when run, on bytes that are no whole image of these formats, or too large a one.
    """
    return decode_as_planned(encoded, lambda height, width: DecodingPlan(tf.constant(1)), max_pixels)[0]


def decode_as_planned(encoded: tf.Tensor, plan: Planner, max_pixels: int = MAX_IMAGE_PIXELS) -> tuple[tf.Tensor, Any]:
    """`decode_image`, of JPEGs in a smaller size where that is enough: it is faster, and smooth.

    Args:
        encoded: scalar string, the bytes of the file.
        plan: from the upright height and width of the whole image, int32 scalars, to what is to be done.
        max_pixels: height times width of the largest image that is decoded, before it is made smaller.

    Returns:
        The image, `[H, W, 3]` uint8, and the plan's details.
    """

    def other() -> tuple:
        image = decode_other(encoded, max_pixels)
        return image, plan(tf.shape(image)[0], tf.shape(image)[1]).details

    is_jpeg = tf.equal(tf.strings.substr(encoded, 0, 3), _START_OF_JPEG)
    image, details = tf.cond(is_jpeg, lambda: _decode_jpeg(encoded, plan, max_pixels), other)
    return tf.ensure_shape(image, (None, None, 3)), details


def largest_shrink(scale: tf.Tensor) -> tf.Tensor:
    """The largest of `JPEG_SHRINKS` that is at most `scale`, and 1 below 1; int32 scalar."""
    exponent = tf.math.floor(tf.math.log(tf.maximum(tf.cast(scale, tf.float32), 1.0) * (1 + 1e-6)) / tf.math.log(2.0))
    return tf.bitwise.left_shift(1, tf.minimum(tf.cast(exponent, tf.int32), len(JPEG_SHRINKS) - 1))


def cover(images: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Resizes, smoothly and without stretching, so that the images just cover `size`, and keeps the middle.

    Args:
        images: `[N, H, W, channels]`, pixel values 0 to 255. Those that have the asked size already are left untouched.
        size: height and width of the result in pixels.

    Returns:
        `[N, *size, channels]` float32.
    """
    if tuple(images.shape[1:3]) == tuple(size):
        return tf.cast(images, tf.float32)
    there, wanted = tf.cast(tf.shape(images)[1:3], tf.float32), tf.constant(size, tf.float32)
    scale = tf.reduce_max(wanted / there)
    resized = tf.raw_ops.ScaleAndTranslate(
        images=images,
        size=size,
        scale=tf.stack([scale, scale]),
        translation=(wanted - scale * there) / 2,
        kernel_type="triangle",
        antialias=True,
    )
    return tf.ensure_shape(resized, (None, *size, images.shape[3]))


def fitted(image: tf.Tensor, shape: tuple[int, int, int]) -> tf.Tensor:
    """A decoded image as a network sees it.

    Args:
        image: `[H, W, 3]` uint8.
        shape: height, width and channels that the network takes; of one channel it has learnt from grey images.

    Returns:
        `[*shape]` float32, pixel values 0 to 255.
    """
    height, width, channels = shape
    if channels == 1:
        image = tf.image.rgb_to_grayscale(image)
    return cover(image[None], (height, width))[0]


def covering(size: tuple[int, int]) -> Planner:
    """For `decode_as_planned`: as small as a JPEG may become when `cover` is to follow with this size."""
    return lambda height, width: DecodingPlan(largest_shrink(tf.reduce_min(tf.stack([height, width]) / size)))


def exif_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """Orientation of a JPEG by its EXIF tag 0x0112, 1 to 8; 1 (upright) where it has none or one that cannot be read.

    Args:
        encoded: scalar string, the bytes of a JPEG.
    """
    head = tf.io.decode_raw(encoded, tf.uint8, fixed_length=max(_PLAIN_JPEG) + 1)  # shorter bytes are padded
    plain = tf.reduce_all(tf.equal(tf.gather(head, list(_PLAIN_JPEG)), list(_PLAIN_JPEG.values())))

    def searched() -> tf.Tensor:
        data = tf.io.decode_raw(encoded, tf.uint8)
        exif = _find_exif(data)
        return tf.cond(exif < 0, lambda: tf.constant(1), lambda: _orientation_in_tiff(data[exif + len(_EXIF) :]))

    return tf.cond(plain, lambda: tf.constant(1), searched)


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns and mirrors `[H, W, channels]` uint8 as an EXIF orientation from 1 to 8 says."""
    return tf.cond(tf.equal(orientation, 1), lambda: tf.identity(image), lambda: _turn(image, orientation))


@functools.partial(
    traced_once, input_signature=[tf.TensorSpec((None, None, None), tf.uint8), tf.TensorSpec((), tf.int32)]
)
def _turn(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """`upright` of what is not upright, which few photos are."""

    def flipped(*axes: int) -> Callable[[], tf.Tensor]:
        return lambda: tf.reverse(image, axes)

    def transposed(*axes: int) -> Callable[[], tf.Tensor]:
        def turned() -> tf.Tensor:
            # Not by `tf.transpose`, of which oneDNN says in an error that it does not do it in bytes, whatever the image: a cast
            # before it is moved behind it by TensorFlow.
            height, width = tf.unstack(tf.shape(image)[:2])
            places = tf.range(width)[:, None] + width * tf.range(height)
            return tf.reverse(tf.gather(tf.reshape(image, (height * width, -1)), places), axes)

        return turned

    ways = [flipped(1), flipped(0, 1), flipped(0), transposed(), transposed(1), transposed(0, 1), transposed(0)]
    return tf.switch_case(orientation - 2, ways)


def _decode_jpeg(encoded: tf.Tensor, plan: Planner, max_pixels: int) -> tuple[tf.Tensor, Any]:
    sides, orientation = _read_jpeg_header(encoded)
    shrink, details = plan(sides[0], sides[1])
    return _jpeg_decoder(max_pixels)(encoded, sides, orientation, shrink), details


@functools.partial(traced_once, input_signature=[tf.TensorSpec((), tf.string)])
def _read_jpeg_header(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Upright height and width, `[2]` int32, and orientation of a JPEG."""
    sides, orientation = tf.image.extract_jpeg_shape(encoded)[:2], exif_orientation(encoded)
    return tf.where(orientation > 4, sides[::-1], sides), orientation  # above 4 height and width are exchanged


@functools.cache
def _jpeg_decoder(max_pixels: int) -> Callable[..., tf.Tensor]:
    """From a JPEG, its upright sides, its orientation and by what it shall be shrunken to the upright image."""

    def decode(encoded: tf.Tensor, sides: tf.Tensor, orientation: tf.Tensor, shrink: tf.Tensor) -> tf.Tensor:
        def decode_by(ratio: int) -> Callable[[], tf.Tensor]:
            return lambda: tf.io.decode_jpeg(allowed, channels=3, ratio=ratio)

        with small_enough(sides[0], sides[1], max_pixels):
            allowed = tf.identity(encoded)
        which = tf.reduce_sum(tf.cast(shrink > tf.constant(JPEG_SHRINKS[:-1]), tf.int32))
        return upright(tf.switch_case(which, [decode_by(ratio) for ratio in JPEG_SHRINKS]), orientation)

    text, pair, number = tf.TensorSpec((), tf.string), tf.TensorSpec((2,), tf.int32), tf.TensorSpec((), tf.int32)
    return traced_once(decode, input_signature=[text, pair, number, number])


def _find_exif(data: tf.Tensor) -> tf.Tensor:
    """Walks a JPEG's leading segments to the payload of the first APP1 with EXIF; -1 where they hold none."""
    length = tf.size(data)

    def head(position: tf.Tensor) -> tf.Tensor:  # 0xFF, marker, length of the segment in 2 bytes, payload
        return tf.cast(data[position : position + 4 + len(_EXIF)], tf.int32)

    def unfinished(position: tf.Tensor) -> tf.Tensor:
        return (position > 0) & (position + 4 + len(_EXIF) <= length)

    def advance(position: tf.Tensor) -> tf.Tensor:
        here = head(position)
        marker, after = here[1], position + 2 + 256 * here[2] + here[3]
        found = tf.equal(marker, _APP1) & tf.reduce_all(tf.equal(here[4:], _EXIF))
        fill = tf.equal(marker, _FILL)  # 0xFF may be repeated before a marker
        metadata = ((marker >= _APP0) & (marker <= _APP15)) | tf.equal(marker, _COMMENT) | fill
        onward = tf.where(metadata & tf.equal(here[0], _FILL), tf.where(fill, position + 1, after), length)
        return tf.where(found, -position - 4, onward)

    (position,) = tf.while_loop(unfinished, lambda position: (advance(position),), (tf.constant(2),))
    return tf.where(position < 0, -position, -1)


def _orientation_in_tiff(tiff: tf.Tensor) -> tf.Tensor:
    """Reads the tag from the first directory of a TIFF block, `[n]` uint8, of either byte order."""
    little = tf.equal(tiff[:1], ord("I"))  # of size 0 where the block is empty, and so is all that follows

    def number(digits: tf.Tensor) -> tf.Tensor:
        """`[..., k]` bytes -> `[...]` int64."""
        digits = tf.cast(tf.where(tf.reduce_any(little), digits[..., ::-1], digits), tf.int64)
        return tf.reduce_sum(digits * 256 ** tf.range(tf.shape(digits)[-1], dtype=tf.int64)[::-1], axis=-1)

    directory = number(tiff[4:8])
    count = number(tiff[directory : directory + 2])
    entries = tiff[directory + 2 : directory + 2 + 12 * count]
    entries = tf.reshape(entries[: tf.size(entries) // 12 * 12], (-1, 12))
    wanted = tf.equal(number(entries[:, :2]), _ORIENTATION_TAG) & tf.equal(number(entries[:, 2:4]), _SHORT)
    values = tf.boolean_mask(number(entries[:, 8:10]), wanted)
    value = tf.cast(tf.reduce_sum(values[:1]), tf.int32)  # 0 where there is none
    return tf.where((value >= 1) & (value <= 8), value, 1)
