"""Decoders of PNG, GIF, BMP and WebP for `decoding`, inside the TensorFlow graph.

The header of a file is read first, for three reasons. TensorFlow's decoders take whatever memory it asks for, so that a
file of some kilobytes unfolds to gigabytes; of a film they decode all frames to give the first; and some of them misread
or crash on what they do not know: `tf.io.decode_bmp` takes any 32 bits for BGRA and indices of a palette for gray, and a
WebP film ends the process (TensorFlow 2.21).
"""

import contextlib
import functools
from collections.abc import Callable

import tensorflow as tf

from mulsupcon_tf.utils.graphs import traced_once

_HEAD = 70  # bytes, at least those of the longest header that is looked at
_EXTENSION, _PICTURE = 0x21, 0x2C  # first byte of a block of a GIF
_BETWEEN, _IN_EXTENSION, _IN_PICTURE, _BEHIND_PICTURE, _NO_PICTURE = range(5)  # where the walk through a GIF is
_MAX_STEPS = 100_000  # of that walk; a run of blocks of the same length is one step, and so a picture takes some ten
_MAX_RUN = 4096
_CORE_HEADER, _INFO_HEADERS = 12, (40, 52, 56, 108, 124)  # bytes of the header of a BMP: of OS/2, and of Windows
_PLAIN, _MASKS, _ALPHA_MASKS = 0, 3, 6  # ways to store a BMP that do not compress it
_MASKS_OF_16_BITS, _MASKS_OF_BYTES = (0x7C00, 0x03E0, 0x001F), (0xFF0000, 0x00FF00, 0x0000FF)
_OF_PHONES = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif")  # brands of files that no decoder here reads
_FILM = 0x02  # flag of an extended WebP


def decode_other(encoded: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """Decodes what is no JPEG: PNG, BMP, WebP, or the first frame of a GIF.

    Args:
        encoded: scalar string, the bytes of the file.
        max_pixels: height times width of the largest image that is decoded.

    Returns:
        `[H, W, 3]` uint8.

    Raises:
        tf.errors.InvalidArgumentError: when run, on bytes that are no whole image of these formats, or too large a one.
    """
    return _decoder(max_pixels)(encoded)


@functools.cache
def _decoder(max_pixels: int) -> Callable[[tf.Tensor], tf.Tensor]:
    return traced_once(lambda encoded: _decode(encoded, max_pixels), input_signature=[tf.TensorSpec((), tf.string)])


def _decode(encoded: tf.Tensor, max_pixels: int) -> tf.Tensor:
    head = tf.io.decode_raw(encoded, tf.uint8, fixed_length=_HEAD)  # shorter bytes are padded
    formats = (
        (_stands(b"\x89PNG\r\n\x1a\n", head, 0), _decode_png),
        (_stands(b"GIF8", head, 0), _decode_gif),
        (_stands(b"BM", head, 0), _decode_bmp),
        (_stands(b"RIFF", head, 0) & _stands(b"WEBP", head, 8), _decode_webp),
        (tf.constant(True), _refuse),
    )
    which = tf.argmax(tf.cast(tf.stack([here for here, _ in formats]), tf.int32), output_type=tf.int32)
    return tf.switch_case(which, [lambda decode=decode: decode(encoded, head, max_pixels) for _, decode in formats])


def small_enough(height: tf.Tensor, width: tf.Tensor, max_pixels: int) -> contextlib.AbstractContextManager:
    """A context for operations that must wait for the check that an image has at most `max_pixels`."""
    pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    return _required(
        pixels <= max_pixels, f"an image must have at most {max_pixels} pixels (--max_image_pixels)", pixels
    )


def _required(condition: tf.Tensor, rule: str, received: tf.Tensor | str) -> contextlib.AbstractContextManager:
    # The plain operation: `tf.debugging.Assert` puts a conditional around it, which costs more than what it saves.
    check = tf.raw_ops.Assert(condition=condition, data=[f"{rule}, not", received])
    # Decoders have no side effects, so TensorFlow would not run the check before them by itself.
    return tf.control_dependencies([] if check is None else [check])


def _stands(text: bytes, head: tf.Tensor, at: int) -> tf.Tensor:
    return tf.reduce_all(tf.equal(head[at : at + len(text)], list(text)))


def _numbers(head: tf.Tensor) -> tf.Tensor:
    """The unsigned number in the 4 bytes from each position on, int64, the least byte first."""
    head = tf.cast(head, tf.int64)
    return head[:-3] + 2**8 * head[1:-2] + 2**16 * head[2:-1] + 2**24 * head[3:]


def _refuse(encoded: tf.Tensor, head: tf.Tensor, max_pixels: int) -> tf.Tensor:
    is_phones = _stands(b"ftyp", head, 4) & tf.reduce_any([_stands(brand, head, 8) for brand in _OF_PHONES])
    kind = tf.where(is_phones, "a HEIC or AVIF as phones write them; save it as a JPEG", "another kind of file")
    with _required(tf.constant(False), "an image must be a JPEG, PNG, GIF, BMP or WebP", kind):
        return tf.zeros((0, 0, 3), tf.uint8)


def _decode_png(encoded: tf.Tensor, head: tf.Tensor, max_pixels: int) -> tf.Tensor:
    height, width = tf.unstack(_numbers(head[23:15:-1])[::4])
    with small_enough(height, width, max_pixels):
        return tf.io.decode_png(encoded, channels=3)


def _decode_webp(encoded: tf.Tensor, head: tf.Tensor, max_pixels: int) -> tf.Tensor:
    numbers = _numbers(head)
    extended = 1 + tf.stack([numbers[24], numbers[27]]) % 2**24
    lossless = 1 + tf.stack([numbers[21], numbers[21] // 2**14]) % 2**14
    plain = tf.stack([numbers[26], numbers[28]]) % 2**14  # 2 more bits each are their scale
    is_extended, is_lossless = _stands(b"VP8X", head, 12), _stands(b"VP8L", head, 12)
    sides = tf.where(is_extended, extended, tf.where(is_lossless, lossless, plain))
    is_film = is_extended & tf.equal(head[20] // _FILM % 2, 1)
    is_picture = (is_extended & ~is_film) | is_lossless | _stands(b"VP8 ", head, 12)
    with _required(is_picture, "a WebP must be a picture", "a film"), small_enough(sides[1], sides[0], max_pixels):
        # With and without alpha: the decoder wants to know beforehand, unless it is left the choice.
        return tf.io.decode_image(encoded, channels=0, expand_animations=False)[..., :3]


def _decode_gif(encoded: tf.Tensor, head: tf.Tensor, max_pixels: int) -> tf.Tensor:
    data = tf.io.decode_raw(encoded, tf.uint8)
    picture, end = _first_picture(data)
    with _required(end > 0, "a GIF must have a whole first frame", "a part"):
        sides = _numbers(data[picture + 5 : picture + 12])[:3:2] % 2**16
    with small_enough(sides[1], sides[0], max_pixels):
        # Alone, and moved into the corner: TensorFlow cuts off what reaches beyond a canvas of the picture's size.
        behind = tf.strings.substr(encoded, picture + 5, end - picture - 5)
        alone = tf.strings.join([tf.strings.substr(encoded, 0, picture + 1), bytes(4), behind, b";"])
        return tf.io.decode_image(alone, channels=3, expand_animations=False)


def _first_picture(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Walks through the blocks of a GIF to where its first picture begins, and ends; the end is 0 where it does not."""
    size = tf.size(data)
    data = tf.pad(data, [[0, 16]])  # so that all bytes of a block's head can be looked at

    def number(position: tf.Tensor) -> tf.Tensor:
        return tf.cast(data[position], tf.int32)

    def colours(flags: tf.Tensor) -> tf.Tensor:
        return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(2, flags % 8), 0)

    def unfinished(position: tf.Tensor, state: tf.Tensor, picture: tf.Tensor) -> tf.Tensor:
        return (state < _BEHIND_PICTURE) & (position < size)

    def step(position: tf.Tensor, state: tf.Tensor, picture: tf.Tensor) -> tuple[tf.Tensor, ...]:
        here = number(position)
        # At the head of a block.
        begins = tf.equal(here, _PICTURE)
        behind_head = position + tf.where(begins, 11 + colours(number(position + 9)), 2)
        entered = tf.where(begins, _IN_PICTURE, tf.where(tf.equal(here, _EXTENSION), _IN_EXTENSION, _NO_PICTURE))
        # In its content: parts of `here` bytes, of which the last has none.
        lengths = data[position : position + _MAX_RUN * (here + 1) : here + 1]
        different = tf.concat([tf.cast(lengths, tf.int32) != here, [True]], axis=0)
        run = tf.argmax(tf.cast(different, tf.int32), output_type=tf.int32)
        ends = tf.equal(here, 0)
        behind_parts = position + tf.where(ends, 1, run * (here + 1))
        left = tf.where(ends, tf.where(tf.equal(state, _IN_PICTURE), _BEHIND_PICTURE, _BETWEEN), state)
        between = tf.equal(state, _BETWEEN)
        return (
            tf.where(between, behind_head, behind_parts),
            tf.where(between, entered, left),
            tf.where(between & begins, position, picture),
        )

    start = 13 + colours(number(tf.constant(10)))
    position, state, picture = tf.while_loop(
        unfinished, step, (start, tf.constant(_BETWEEN), tf.constant(0)), maximum_iterations=_MAX_STEPS
    )
    return picture, tf.where(tf.equal(state, _BEHIND_PICTURE), position, 0)


def _decode_bmp(encoded: tf.Tensor, head: tf.Tensor, max_pixels: int) -> tf.Tensor:
    numbers = _numbers(head)
    start, header = numbers[10], numbers[14]
    core = tf.equal(header, _CORE_HEADER)
    width, height = tf.unstack(tf.where(core, numbers[18:21:2] % 2**16, _signed(numbers[18:23:4])))
    rows = tf.abs(height)  # below 0 they go from the top downwards
    bits = tf.where(core, numbers[24], numbers[28]) % 2**16
    storage = tf.where(core, tf.constant(_PLAIN, tf.int64), numbers[30])
    wide = tf.equal(bits, 16)
    has_masks = (wide | tf.equal(bits, 32)) & (tf.equal(storage, _MASKS) | tf.equal(storage, _ALPHA_MASKS))
    masks = tf.where(wide, tf.constant(_MASKS_OF_16_BITS, tf.int64), tf.constant(_MASKS_OF_BYTES, tf.int64))
    masks = tf.where(has_masks & tf.reduce_any(numbers[54:63:4] > 0), numbers[54:63:4], masks)
    bytes_of_masks = tf.equal(masks[:, None], [2**8 - 1 << place for place in (0, 8, 16, 24)])
    known = (
        tf.reduce_any(tf.equal(bits, (1, 4, 8, 16, 24, 32)))
        & (core | tf.reduce_any(tf.equal(header, _INFO_HEADERS)))
        & (has_masks | tf.equal(storage, _PLAIN))
        & tf.reduce_all(tf.where(wide, (masks > 0) & (masks < 2**16), tf.reduce_any(bytes_of_masks, axis=1)))
    )
    data = tf.io.decode_raw(encoded, tf.uint8)
    stride = (width * bits + 31) // 32 * 4
    whole = (width > 0) & (rows > 0) & (start >= 14 + header) & (start + stride * rows <= tf.size(data, tf.int64))

    def by_palette() -> tf.Tensor:
        entry = tf.where(core, tf.constant(3, tf.int64), tf.constant(4, tf.int64))  # blue, green, red
        most = tf.bitwise.left_shift(tf.constant(1, tf.int64), bits)
        used = tf.where(core | tf.equal(numbers[46], 0), most, numbers[46])
        count = tf.reduce_min([most, used, (start - 14 - header) // entry])
        palette = tf.reshape(data[14 + header : 14 + header + count * entry], (count, entry))[:, 2::-1]
        palette = tf.pad(palette, [[0, most - count], [0, 0]])  # beyond the palette is black, as elsewhere
        short = tf.cast(bits, tf.int32)
        packed = tf.bitwise.right_shift(tf.cast(pixels, tf.int32)[..., None], tf.range(8 - short, -1, -short))
        indices = tf.reshape(packed % tf.bitwise.left_shift(1, short), (rows, -1))
        return tf.gather(palette, indices[:, :width])

    def of_16_bits() -> tf.Tensor:
        pairs = tf.cast(tf.reshape(pixels, (rows, -1, 2))[:, :width], tf.int32)
        scales = tf.cast(masks, tf.int32)
        lowest = tf.bitwise.bitwise_and(scales, -scales)
        channels = tf.bitwise.bitwise_and(pairs[..., :1] + 256 * pairs[..., 1:], scales) // lowest
        return tf.cast(channels * 255 // (scales // lowest), tf.uint8)

    def of_bytes() -> tf.Tensor:
        places = tf.argmax(tf.cast(bytes_of_masks, tf.int32), axis=1)
        return tf.gather(tf.reshape(pixels[:, : width * bits // 8], (rows, width, bits // 8)), places, axis=2)

    kinds = "a BMP must be of 1 to 32 bits a pixel, without compression, and have masks of whole bytes, or of 16 bits"
    with (
        _required(known, kinds, tf.stack([bits, storage])),
        small_enough(rows, width, max_pixels),
        _required(whole, "a BMP must hold all of its pixels", "a part"),
    ):
        pixels = tf.reshape(data[start : start + stride * rows], (rows, stride))
        image = tf.switch_case(tf.where(bits <= 8, 0, tf.where(wide, 1, 2)), [by_palette, of_16_bits, of_bytes])
        return tf.cond(height > 0, lambda: image[::-1], lambda: image)


def _signed(number: tf.Tensor) -> tf.Tensor:
    """Of 32 bits."""
    return tf.where(number >= 2**31, number - 2**32, number)
