import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from mulsupcon_tf.input_pipeline import decoding
from mulsupcon_tf.input_pipeline.decoding import (
    JPEG_SHRINKS,
    DecodingPlan,
    cover,
    decode_as_planned,
    decode_image,
    exif_orientation,
    largest_shrink,
)

HEIGHT, WIDTH = 37, 50
decode = tf.function(decode_image, autograph=False, input_signature=[tf.TensorSpec((), tf.string)])
orientation_of = tf.function(exif_orientation, autograph=False, input_signature=[tf.TensorSpec((), tf.string)])


def picture(height=HEIGHT, width=WIDTH, channels=3):
    """Smooth, so that JPEG keeps it, and without any symmetry."""
    rows, columns = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    planes = [rows, columns, (rows + 2 * columns**2) / 3, 1 - rows * columns][:channels]
    return np.round(np.stack(planes, -1) * 255).astype(np.uint8)


def encoded(image, form, **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def by_pillow(data):
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")).astype(int)


def assert_like_pillow(data, tolerance):
    got = decode(data).numpy()
    assert got.dtype == np.uint8
    assert got.shape == by_pillow(data).shape
    assert np.abs(got.astype(int) - by_pillow(data)).max() <= tolerance


@pytest.mark.parametrize("size", [(37, 50), (1, 1), (1, 9), (300, 2)])
@pytest.mark.parametrize(
    ("mode", "options"), [("RGB", {}), ("RGB", {"progressive": True}), ("RGB", {"subsampling": 0}), ("L", {})]
)
def test_jpegs_are_read_like_pillow_reads_them(size, mode, options):
    image = Image.fromarray(picture(*size)).convert(mode)
    assert_like_pillow(encoded(image, "JPEG", quality=95, **options), tolerance=6)


def test_a_cmyk_jpeg_becomes_rgb():
    """As printers write it, by an Adobe marker and inverted; Pillow's conversion is naive like TensorFlow's."""
    image = Image.fromarray(picture(channels=4), "CMYK")
    assert_like_pillow(encoded(image, "JPEG", quality=95), tolerance=8)


@pytest.mark.parametrize("form", ["PNG", "GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_files_without_loss_are_read_exactly(form, mode):
    image = Image.fromarray(picture()).convert(mode)
    if (form, mode) == ("GIF", "RGB"):
        image = image.convert("P")
    assert_like_pillow(encoded(image, form, lossless=True), tolerance=0)


@pytest.mark.parametrize(("form", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("BMP", "RGBA"), ("WEBP", "RGBA")])
def test_transparency_is_dropped(form, mode):
    image = Image.fromarray(picture(channels=4), "RGBA").convert(mode)
    assert_like_pillow(encoded(image, form), tolerance=0)


def test_16_bits_become_8():
    deep = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    got = decode(encoded(Image.fromarray(deep), "PNG")).numpy()
    np.testing.assert_array_equal(got, np.repeat((deep >> 8)[..., None], 3, axis=-1))


def test_the_first_frame_of_a_moving_gif_is_taken():
    frames = [Image.fromarray(picture()[..., n]).convert("P") for n in range(3)]
    assert_like_pillow(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), tolerance=0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_exif_orientation_is_turned_upright_like_pillow_turns_it(orientation, order):
    data = with_exif(encoded(Image.fromarray(picture()), "JPEG", quality=95), tiff(order, orientation))
    assert orientation_of(data) == orientation
    assert_like_pillow(data, tolerance=6)


def test_no_operation_transposes_an_image():
    """OneDNN prints an error for bytes, in whatever program an exported model runs, and TensorFlow moves casts behind it."""
    graph = decode.get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    assert {node.op for node in nodes} & {"ReverseV2", "Transpose", "ConjugateTranspose"} == {"ReverseV2"}


def test_what_all_pipelines_share_is_traced_once_a_process_whatever_the_images_sizes(monkeypatch):
    def turned(height, width, ratio):
        data = with_exif(encoded(Image.fromarray(picture(height, width)), "JPEG"), tiff("<", 6))
        pipeline = tf.data.Dataset.from_tensors(data).map(
            lambda each: decode_as_planned(each, lambda height, width: DecodingPlan(tf.constant(ratio)))[0]
        )
        return next(iter(pipeline)).shape

    assert turned(HEIGHT, WIDTH, 1) == (WIDTH, HEIGHT, 3)
    for module, name in (
        (decoding, "exif_orientation"),
        (decoding, "upright"),
        (tf, "reverse"),
        (tf.io, "decode_jpeg"),
    ):
        monkeypatch.setattr(module, name, None)  # so that tracing once more would fail
    assert turned(40, 80, 2) == (40, 20, 3)


def tiff(order, orientation, before=2):
    """A directory with the tag behind `before` others."""
    entries = b"".join(struct.pack(order + "HHII", 0x010E + n, 4, 1, 7) for n in range(before))
    entries += struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    start = {"<": b"II*\0", ">": b"MM\0*"}[order]
    return start + struct.pack(order + "I", 8) + struct.pack(order + "H", before + 1) + entries + bytes(4)


def with_exif(jpeg, block, *, ahead=b""):
    """Puts APP1 behind the APP0 that Pillow writes, and `ahead` before it."""
    payload = b"Exif\0\0" + block
    segment = b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload
    return jpeg[:20] + ahead + segment + jpeg[20:]


def test_exif_is_found_behind_other_segments():
    other_app1 = b"\xff\xe1" + struct.pack(">H", 40) + b"http://ns.adobe.com/xap/1.0/".ljust(38, b"\0")
    comment = b"\xff\xff\xff\xfe" + struct.pack(">H", 60_000) + bytes(59_998)  # and 0xFF as filling
    data = with_exif(encoded(Image.fromarray(picture()), "JPEG"), tiff("<", 6), ahead=other_app1 + comment)
    assert orientation_of(data) == 6
    assert decode(data).shape == (WIDTH, HEIGHT, 3)


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"I",
        b"II*\0",
        b"II*\0" + struct.pack("<I", 2**32 - 1),
        b"II*\0" + struct.pack("<I", 4000),
        bytes(30),
        tiff("<", 0),
        tiff(">", 9),
        tiff("<", 6)[:40],
        b"MM\0*" + struct.pack(">IH", 8, 65535),
    ],
)
def test_exif_that_cannot_be_read_means_upright(block):
    data = with_exif(encoded(Image.fromarray(picture()), "JPEG"), block)
    assert orientation_of(data) == 1
    assert decode(data).shape == (HEIGHT, WIDTH, 3)


def test_a_jpeg_without_exif_or_cut_off_is_upright():
    jpeg = encoded(Image.fromarray(picture()), "JPEG")
    for data in (jpeg, jpeg[:20], jpeg[:3], with_exif(jpeg, tiff("<", 6))[:26]):
        assert orientation_of(data) == 1


@pytest.mark.parametrize("ratio", JPEG_SHRINKS)
def test_a_shrunken_jpeg_is_the_mean_over_its_blocks(ratio):
    jpeg = encoded(Image.fromarray(picture(240, 320)), "JPEG", quality=95)
    got = decode_as_planned(tf.constant(jpeg), lambda height, width: DecodingPlan(tf.constant(ratio)))[0].numpy()
    whole = by_pillow(jpeg)
    expected = whole.reshape(240 // ratio, ratio, 320 // ratio, ratio, 3).mean((1, 3))
    assert got.shape == expected.shape
    assert np.abs(got - expected).mean() < 1.5


def test_shrinking_is_planned_by_the_upright_sides():
    data = encoded(Image.fromarray(picture(240, 320)), "JPEG")
    for jpeg, sides in ((data, [240, 320]), (with_exif(data, tiff(">", 8)), [320, 240])):
        image, details = decode_as_planned(
            tf.constant(jpeg), lambda height, width: DecodingPlan(tf.constant(4), tf.stack([height, width]))
        )
        assert details.numpy().tolist() == sides
        assert image.shape == (sides[0] // 4, sides[1] // 4, 3)


def test_the_largest_shrink_keeps_the_scale():
    scales = [0.0, 0.3, 1.0, 1.99, 2.0, 3.99, 4.0, 7.9, 8.0, 100.0, 1e6]
    assert [int(largest_shrink(scale)) for scale in scales] == [1, 1, 1, 1, 2, 2, 4, 4, 8, 8, 8]


def broken_files():
    whole = {form: encoded(Image.fromarray(picture()), form) for form in ("JPEG", "PNG", "GIF", "BMP", "WEBP")}
    cut = {f"half a {name}": data[: len(data) // 2] for name, data in whole.items()}
    heads = {f"head of a {name}": data[:12] for name, data in whole.items()}
    return {"nothing": b"", "one byte": b"\xff", "text": b"no image at all", "zeros": bytes(100), **cut, **heads}


@pytest.mark.parametrize("name", broken_files())
def test_what_is_no_whole_image_is_an_error(name):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(broken_files()[name])


def test_a_png_of_a_hundred_million_pixels_is_read():
    image = Image.new("L", (10_000, 10_000), 9)
    image.putpixel((9_999, 9_998), 200)
    got = decode(encoded(image, "PNG", compress_level=1))
    assert got.shape == (10_000, 10_000, 3)
    assert got[9_998, 9_999].numpy().tolist() == [200, 200, 200]


def test_a_jpeg_of_more_pixels_than_allowed_is_refused_however_small_it_would_become():
    data = encoded(Image.fromarray(picture()), "JPEG")
    planned = tf.function(
        lambda encoded, limit: decode_as_planned(encoded, lambda height, width: DecodingPlan(tf.constant(8)), limit)[0]
    )
    assert planned(tf.constant(data), HEIGHT * WIDTH).shape[2] == 3
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=rf"at most {HEIGHT * WIDTH - 1} pixels \(--max_image_pixels\), not\] \[{HEIGHT * WIDTH}\]",
    ):
        planned(tf.constant(data), HEIGHT * WIDTH - 1)


def test_a_jpeg_whose_header_asks_for_all_memory_is_refused():
    data = encoded(Image.fromarray(picture()), "JPEG")
    sides = struct.pack(">HH", HEIGHT, WIDTH)
    assert data.count(sides) == 1
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"at most 150000000 pixels \(--max_image_pixels\), not\] \[4225000000\]"
    ):
        decode(data.replace(sides, struct.pack(">HH", 65000, 65000)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (300, 2), (33, 90), (32, 48)])
def test_covering_gives_every_shape_the_asked_size_without_a_border(shape):
    images = np.full((2, *shape, 3), 120, np.uint8)
    np.testing.assert_allclose(cover(tf.constant(images), (32, 48)), np.full((2, 32, 48, 3), 120.0), atol=1e-3)


def test_images_of_the_asked_size_are_left_untouched():
    images = np.random.default_rng(0).integers(0, 256, size=(2, 32, 48, 1)).astype(np.uint8)
    np.testing.assert_array_equal(cover(tf.constant(images), (32, 48)), images)
