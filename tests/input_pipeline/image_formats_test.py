import io
import struct
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mulsupcon_tf.input_pipeline.image_formats import decode_other
from tests.helpers.binaries import REPOSITORY

HEIGHT, WIDTH = 19, 29  # of rows that BMP fills up at every number of bits
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
RGB, RGBA = Image.fromarray(PIXELS[..., :3]), Image.fromarray(PIXELS)


def decoder(max_pixels):
    return tf.function(
        lambda encoded: decode_other(encoded, max_pixels), input_signature=[tf.TensorSpec((), tf.string)]
    )


decode = decoder(HEIGHT * WIDTH)


def encoded(image, form, **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def by_pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def refusal(data, decode=decode):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        decode(data)
    return caught.value.message


def bmp(bits, rows, *, masks=None, palette=(), storage=None, top_down=False, core=False, header=40):
    """A BMP of packed rows of numbers, `[H, W]`; rows go from the bottom upwards unless `top_down`."""
    height, width = np.shape(rows)
    lines = []
    for row in rows if top_down else rows[::-1]:
        if bits < 8:
            text = "".join(f"{number:0{bits}b}" for number in row)
            line = bytes(int(text[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(text), 8))
        else:
            line = b"".join(int(number).to_bytes(bits // 8, "little") for number in row)
        lines.append(line + bytes(-len(line) % 4))
    pixels = b"".join(lines)
    if core:
        info = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        storage = (0 if masks is None else 3) if storage is None else storage
        info = struct.pack(
            "<IiiHHIIiiII",
            header,
            width,
            -height if top_down else height,
            1,
            bits,
            storage,
            len(pixels),
            2835,
            2835,
            len(palette),
            0,
        )
        info += b"".join(struct.pack("<I", mask) for mask in masks or ())
        info = info.ljust(header, b"\0")
    table = b"".join(bytes(colour[::-1]) + (b"" if core else b"\0") for colour in palette)
    start = 14 + len(info) + len(table)
    return struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start) + info + table + pixels


def numbers(bits):
    return np.random.default_rng(bits).integers(0, 2**bits, (HEIGHT, WIDTH), dtype=np.int64)


COLOURS = [tuple(colour) for colour in np.random.default_rng(1).integers(0, 256, (256, 3)).tolist()]


@pytest.mark.parametrize("layout", [{}, {"top_down": True}, {"core": True}, {"header": 108}, {"header": 124}], ids=str)
@pytest.mark.parametrize("bits", [1, 4, 8, 16, 24, 32])
def test_every_number_of_bits_of_a_bmp_is_read_like_pillow_reads_it(bits, layout):
    if "core" in layout and bits in (16, 32):
        pytest.skip("OS/2 has none")
    data = bmp(bits, numbers(bits), palette=COLOURS[: 2**bits] if bits <= 8 else (), **layout)
    np.testing.assert_array_equal(decode(data), by_pillow(data))


@pytest.mark.parametrize("layout", [{}, {"header": 108}], ids=str)
@pytest.mark.parametrize("bits", [4, 8])
def test_what_is_beyond_the_palette_of_a_bmp_is_black(bits, layout):
    data = bmp(bits, numbers(bits), palette=COLOURS[: 2**bits - 5], **layout)
    got = decode(data).numpy()
    np.testing.assert_array_equal(got, by_pillow(data))
    beyond = numbers(bits) >= 2**bits - 5
    assert beyond.any() and not got[beyond].any()


@pytest.mark.parametrize(
    "masks",
    [
        (0xFF0000, 0xFF00, 0xFF),
        (0xFF000000, 0xFF0000, 0xFF00),
        (0xFF, 0xFF00, 0xFF0000),
        (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
        (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
        (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
    ],
)
def test_the_channels_of_a_bmp_of_32_bits_are_where_its_masks_say(masks):
    data = bmp(32, numbers(32), masks=(*masks, 0)[:4], header=108)
    if masks != (0xFF, 0xFF00, 0xFF0000):  # which Pillow does not read
        np.testing.assert_array_equal(decode(data), by_pillow(data))
    expected = np.stack([numbers(32) // (mask & -mask) % 256 for mask in masks[:3]], axis=-1)
    np.testing.assert_array_equal(decode(data), expected)


def test_masks_that_are_left_out_are_the_usual_ones():
    data = bmp(32, numbers(32), masks=(0, 0, 0, 0), header=108)
    np.testing.assert_array_equal(decode(data), by_pillow(data))


@pytest.mark.parametrize("masks", [(0xF800, 0x07E0, 0x1F), (0x7C00, 0x03E0, 0x1F), (0x0F00, 0x00F0, 0x000F)])
def test_the_channels_of_a_bmp_of_16_bits_are_scaled_from_their_masks(masks):
    data = bmp(16, numbers(16), masks=masks)
    got = decode(data).numpy()
    for channel, mask in enumerate(masks):
        share = (numbers(16) & mask) / mask
        np.testing.assert_allclose(got[..., channel], 255 * share, atol=1)
    if masks[0] != 0x0F00:  # which Pillow does not read
        np.testing.assert_array_equal(got, by_pillow(data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bmp(8, numbers(8), palette=COLOURS, storage=1), "masks of whole bytes, or of 16 bits, not] [8 1]"),
        (
            bmp(24, numbers(24), storage=4),
            "without compression, and have masks of whole bytes, or of 16 bits, not] [24 4]",
        ),
        (bmp(24, numbers(24), masks=(0xFF0000, 0xFF00, 0xFF)), "without compression"),
        (bmp(24, numbers(24), header=16), "without compression"),
        (bmp(32, numbers(32), masks=(0x3FF00000, 0xFFC00, 0x3FF)), "masks of whole bytes"),
        (bmp(16, numbers(16), masks=(0xF800, 0, 0x1F)), "masks of whole bytes"),
        (bmp(24, numbers(24))[:-1], "must hold all of its pixels"),
        (bmp(24, numbers(24)).replace(struct.pack("<I", 54), bytes(4), 1), "must hold all of its pixels"),
    ],
)
def test_a_bmp_that_cannot_be_read_rightly_is_refused(data, message):
    assert message in refusal(data)


@pytest.mark.parametrize("image", [RGB, RGBA, RGB.convert("L")], ids=["RGB", "RGBA", "L"])
@pytest.mark.parametrize("lossless", [False, True])
def test_webp_is_read_like_pillow_reads_it_with_and_without_alpha(image, lossless):
    data = encoded(image, "WEBP", lossless=lossless)
    np.testing.assert_array_equal(decode(data), by_pillow(data))


@pytest.mark.parametrize("image", [RGB, RGBA], ids=["RGB", "RGBA"])
def test_a_webp_film_is_refused(image):
    """TensorFlow's decoder would write beyond its memory."""
    data = encoded(image, "WEBP", save_all=True, append_images=[image.rotate(180)], lossless=True)
    assert "a WebP must be a picture, not] [a film]" in refusal(data)


def test_a_webp_without_the_head_of_its_picture_is_refused():
    """Its sides would be somewhere else; TensorFlow's decoder takes it."""
    data = encoded(RGB, "WEBP")
    assert data[12:16] == b"VP8 "
    headless = data[:4] + struct.pack("<I", len(data) - 16) + data[8:12] + data[20:]
    assert tf.io.decode_image(headless).shape == (1, HEIGHT, WIDTH, 3)
    assert "a WebP must be a picture" in refusal(headless)


def picture_of(data):
    """Where the first image descriptor of a GIF is, and where its picture ends, by a plain loop."""
    at = 13 + 3 * 2 ** (data[10] % 8 + 1) * (data[10] >= 128)
    while data[at] != 0x2C:
        at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    parts = at + 11 + 3 * 2 ** (data[at + 9] % 8 + 1) * (data[at + 9] >= 128)
    end = parts
    while data[end]:
        end += data[end] + 1
    return at, parts, end + 1


def gif(frames=1, **options):
    images = [RGB.rotate(90 * frame).resize(RGB.size).convert("P") for frame in range(frames)]
    return encoded(images[0], "GIF", save_all=True, append_images=images[1:], **options)


@pytest.mark.parametrize("options", [{}, {"interlace": 1}, {"comment": b"x" * 1000}, {"include_color_table": True}])
@pytest.mark.parametrize("frames", [1, 3])
def test_the_first_frame_of_a_gif_is_read_like_pillow_reads_it(frames, options):
    data = gif(frames, **options)
    np.testing.assert_array_equal(decode(data), by_pillow(data))


def test_nothing_behind_the_first_frame_of_a_gif_is_looked_at():
    data = gif(3)
    _, _, end = picture_of(data)
    for rest in (b"", b"\x2c" * 50, b"\x21\xff", bytes(9)):
        np.testing.assert_array_equal(decode(data[:end] + rest), by_pillow(data))


@pytest.mark.parametrize("lengths", [[1], [254], [1, 2], [3, 3, 3, 255, 7]])
def test_the_parts_of_a_gif_may_have_any_lengths(lengths):
    data = gif(2)
    _, parts, end = picture_of(data)
    content, at = b"", parts
    while data[at]:
        content += data[at + 1 : at + 1 + data[at]]
        at += data[at] + 1
    cut, at = b"", 0
    while at < len(content):
        part = content[at : at + lengths[len(cut) % len(lengths)]]
        cut += bytes([len(part)]) + part
        at += len(part)
    np.testing.assert_array_equal(decode(data[:parts] + cut + data[end - 1 :]), by_pillow(data))


def test_a_gif_whose_first_frame_is_not_its_whole_canvas_gives_that_frame():
    data = gif()
    at, _, _ = picture_of(data)
    moved = bytearray(data)
    moved[6:10] = struct.pack("<HH", 2 * WIDTH, 3 * HEIGHT)
    moved[at + 1 : at + 5] = struct.pack("<HH", WIDTH - 5, HEIGHT + 7)
    np.testing.assert_array_equal(decode(bytes(moved)), by_pillow(data))


@pytest.mark.parametrize("cut", [1, 2, 30, 300])
def test_a_gif_without_a_whole_first_frame_is_refused(cut):
    _, _, end = picture_of(gif())
    assert "a GIF must have a whole first frame, not] [a part]" in refusal(gif()[: end - cut])


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"G",
        b"GIF",
        b"\x89PNG",
        b"RIFF",
        b"RIFF\0\0\0\0WAVE",
        b"II*\0",
        b"\xff\x0a",
        b"\0\0\0\x0cJXL \r\n\x87\n",
        b"\0\0\0\x18ftypheic",
    ],
)
def test_what_is_of_no_known_format_is_refused_by_its_first_bytes(start):
    assert "an image must be a JPEG, PNG, GIF, BMP or WebP, not]" in refusal(start + bytes(40))
    assert "an image must be a JPEG, PNG, GIF, BMP or WebP, not]" in refusal(start)


@pytest.mark.parametrize(("brand", "named"), [(b"heic", True), (b"mif1", True), (b"avif", True), (b"isom", False)])
def test_a_photo_as_phones_write_it_is_refused_with_what_to_do(brand, named):
    text = refusal(b"\0\0\0\x1cftyp" + brand + bytes(60))
    assert ("[a HEIC or AVIF as phones write them; save it as a JPEG]" in text) == named
    assert ("[another kind of file]" in text) != named


FORMS = {
    "PNG": encoded(RGB, "PNG"),
    "GIF": gif(2),
    "BMP": encoded(RGB, "BMP"),
    "BMP of OS/2": bmp(24, numbers(24), core=True),
    "WebP": encoded(RGB, "WEBP"),
    "WebP, lossless": encoded(RGB, "WEBP", lossless=True),
    "WebP with alpha": encoded(RGBA, "WEBP"),
}


@pytest.mark.parametrize("data", FORMS.values(), ids=FORMS)
def test_an_image_of_more_pixels_than_allowed_is_refused(data):
    assert decode(data).shape == (HEIGHT, WIDTH, 3)
    message = refusal(data, decoder(HEIGHT * WIDTH - 1))
    assert (
        f"an image must have at most {HEIGHT * WIDTH - 1} pixels (--max_image_pixels), not] [{HEIGHT * WIDTH}]"
        in message
    )


def with_sides(data, at, form):
    changed = bytearray(data)
    changed[at : at + struct.calcsize(form)] = struct.pack(form, *[2 ** (8 * struct.calcsize(form) // 2 - 1) - 1] * 2)
    return bytes(changed)


@pytest.mark.parametrize(
    "data",
    [
        with_sides(FORMS["PNG"], 16, ">II"),
        with_sides(FORMS["BMP"], 18, "<ii"),
        with_sides(FORMS["BMP of OS/2"], 18, "<HH"),
        with_sides(FORMS["GIF"], picture_of(FORMS["GIF"])[0] + 5, "<HH"),
    ],
    ids=["PNG", "BMP", "BMP of OS/2", "GIF"],
)
def test_sides_as_large_as_a_header_can_say_are_refused(data):
    assert "an image must have at most 1000000 pixels (--max_image_pixels), not]" in refusal(data, decoder(1_000_000))


MEMORY = """
import io, sys
import tensorflow as tf
from PIL import Image
from mulsupcon_tf.input_pipeline.image_formats import decode_other
from tests.helpers.peak_memory import peak_kib

def encoded(image, form, **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()

frames = [Image.new("L", (2000, 2000), shade) for shade in range(25)]
film = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
bomb = encoded(Image.new("1", (9000, 9000)), "PNG")
del frames
assert len(film) < 300_000 and len(bomb) < 20_000, (len(film), len(bomb))
decode = tf.function(lambda data: decode_other(data, 10_000_000), input_signature=[tf.TensorSpec((), tf.string)])
decode(encoded(Image.new("L", (9, 9)), "GIF"))
before = peak_kib()
assert decode(film).shape == (2000, 2000, 3)
try:
    decode(bomb)
except tf.errors.InvalidArgumentError:
    print((peak_kib() - before) / 1024)
"""


@pytest.mark.slow
def test_bombs_do_not_go_off():
    """A film takes the memory of one frame (25 are 100 MB), a picture that is too large none (it is 243 MB)."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(REPOSITORY)}
    )
    assert float(done.stdout) < 50
